"""What an AMP step costs, as a ratio to an ERM step of the same network and batch: ``make bench-trainer``.

The two take turns in one process on one thread, so that a machine whose speed drifts slows both. The paper's §5.5
reports about 1.8 for whole trainings with N = 1; N + 1 is what the passes alone cost.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from search_spaces import recipes
from trainer.config import Amp, Erm, Method
from trainer.data.splits import Examples
from trainer.machine import Results
from trainer.methods.registry import build_method
from trainer.models.registry import build_model

ROUNDS, STEPS_A_ROUND = 40, 25


def stepper(method: Method, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A function that makes one training step of the default study's network."""
    trial = recipes.mnist5k_mlp(method, seed=0)
    model = build_model(trial.model, images.shape[1:], 10, init_seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    regularizer = build_method(method, torch.Generator())

    def step() -> None:
        regularizer.backward(model, Examples(images, labels))
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Mean wall time of a step over one round."""
    started = time.perf_counter()
    for _ in range(STEPS_A_ROUND):
        step()
    return (time.perf_counter() - started) / STEPS_A_ROUND


def ratios(method: Method) -> list[float]:
    """Step time of ``method`` over that of ERM, a ratio a round."""
    images, labels = torch.randn(50, 1, 28, 28), torch.randint(10, (50,))
    one, other = stepper(method, images, labels), stepper(Erm(), images, labels)
    seconds(one), seconds(other)
    return [seconds(one) / seconds(other) for _ in range(ROUNDS)]


def main() -> None:
    """Print a line a number of inner steps and write ``results/benchmarks/trainer.json``."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for inner_steps in (1, 2, 3):
        quartiles = statistics.quantiles(ratios(Amp(epsilon=0.5, inner_steps=inner_steps)), n=4)
        found[f"amp_step_over_erm_step_N{inner_steps}"] = dict(zip(("q1", "median", "q3"), quartiles, strict=True))
        spread = f"quartiles {quartiles[0]:.2f} to {quartiles[2]:.2f} over {ROUNDS} rounds"
        print(f"AMP step / ERM step, N = {inner_steps}: {quartiles[1]:.2f}  ({spread}; passes: {inner_steps + 1})")
    path = Results.here().root / "benchmarks" / "trainer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"written to {Path(path)}")


if __name__ == "__main__":
    main()
