"""What training costs, as ratios: ``make bench-trainer`` prints a table and writes it to ``benchmarks/trainer.json``.

The two sides of a ratio take turns on one thread, so that a machine whose speed drifts slows both; whole trials each in
a process of its own, as people run them. The released code is not fetched: ``benchmarks.loader`` and
``benchmarks.released`` carry plainly written equivalents.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.loader import input_ratios, released_style_batches
from benchmarks.peak import NETWORKS, matmul_peak, utilisation
from benchmarks.ratios import Ratio, in_own_process, interleaved, printed, random_images, ratio, write
from benchmarks.released import PerTensorAmp, evaluate, train_epoch
from search_spaces import recipes
from trainer.config import Amp, Cifar10, ClipGradients, Erm, ImageFolder, Method, PreActResNet18, TrialConfig
from trainer.data.image_folder import Folder
from trainer.data.parts import Part
from trainer.data.splits import Examples
from trainer.loop import train
from trainer.machine import Machine
from trainer.methods.registry import build_method
from trainer.models.registry import build_model

NARROW = PreActResNet18(width=16)
BATCH = 50
EPOCHS, TRAIN_IMAGES, TEST_IMAGES = 10, 200, 50
STEP_ROUNDS, TRIAL_ROUNDS = 15, 7
PRECISIONS = {"float32": "<= 0.7", "bfloat16": "<= 0.5"}


def stepper(method: Method, device: str) -> Callable[[], None]:
    """A function that makes one training step of the narrow network."""
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), torch.arange(BATCH, device=device) % 10
    model = build_model(NARROW, images.shape[1:], 10, init_seed=0).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    regularizer = build_method(method, torch.Generator(device))

    def step() -> None:
        regularizer.backward(model, Examples(images, labels))
        optimizer.step()

    return step


def step_ratios(device: str) -> Iterator[Ratio]:
    """AMP's step over ERM's; N + 1 passes are the least it can be. The paper (§5.5) has 1.8 for whole trainings."""
    methods: list[Method] = [Erm(), *(Amp(epsilon=0.5, inner_steps=steps) for steps in (1, 2, 3))]
    times = list(interleaved([stepper(method, device) for method in methods], STEP_ROUNDS, device))
    for steps in (1, 2, 3):
        pairs = [(found[steps], found[0]) for found in times]
        yield ratio(f"AMP step / ERM step, N = {steps}", pairs, "<= 2.1" if steps == 1 else "")


def our_trial(dataset: ImageFolder, precision: str) -> TrialConfig:
    """AMP on the narrow network with crop and flip, evaluated on the test set after each epoch."""
    return TrialConfig(
        method=Amp(epsilon=0.5, ball="per_tensor"),
        model=NARROW,
        dataset=dataset,
        seed=0,
        validation=None,
        evaluate="test",
        epochs=EPOCHS,
        batch_size=BATCH,
        lr=1e-4,
        lr_milestones=(),
        lr_decay=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        augment=recipes.vanilla(Cifar10(), "as_released"),
        normalization=recipes.normalization(Cifar10()),
        clip_gradients=ClipGradients(max_norm=50.0, passes="every"),
        momentum_form="nesterov",
        precision="bfloat16" if precision == "bfloat16" else "float32",
        memory_format="channels_last",
    )


def train_released(train_part: Examples, test_part: Examples) -> None:
    """The same, plainly, on the CPU in float32."""
    model = build_model(NARROW, (3, 32, 32), 10, init_seed=0)
    optimizer = PerTensorAmp(model, lr=1e-4, epsilon=0.5, inner_lr=1.0, inner_steps=1)
    train_batches = released_style_batches(train_part, "vanilla", BATCH)
    test_batches = released_style_batches(test_part, "none", BATCH)
    for _ in range(EPOCHS):
        train_epoch(model, optimizer, train_batches)
        evaluate(model, test_batches)


def train_ours(trial: TrialConfig, machine: Machine) -> None:
    """Through the trainer's own loop."""
    collections.deque(train(trial, machine), maxlen=0)


def trial_ratios() -> Iterator[Ratio]:
    """Whole trials: loading, steps and evaluation. On the CPU, where the loader is not hidden behind a GPU's queue."""
    parts: dict[Part, Examples] = {"train": random_images(TRAIN_IMAGES, 0), "test": random_images(TEST_IMAGES, 1)}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as processes:
        folder = Folder(parts, [str(label) for label in range(10)])
        folder.store(Path(scratch))
        machine = Machine(data_dir=Path(scratch))
        trials = [our_trial(folder.declaration, precision) for precision in PRECISIONS]
        sides: list[Callable[[], object]] = [functools.partial(train_released, parts["train"], parts["test"])]
        sides += [functools.partial(train_ours, trial, machine) for trial in trials]
        calls = [processes.enter_context(in_own_process(side)) for side in sides]
        times = list(interleaved(calls, TRIAL_ROUNDS))
    for place, (precision, asked) in enumerate(PRECISIONS.items(), start=1):
        pairs = [(found[place], found[0]) for found in times]
        yield ratio(f"AMP trial / released equivalent, {precision}", pairs, asked)


def print_utilisation(device: str) -> dict[str, dict[str, float]]:
    """A line a network: what its step takes of the device's measured peak."""
    found: dict[str, dict[str, float]] = {}
    print(
        "\nShares of the measured peak; above 100% where 3 × 3 convolutions take fewer FLOPs than counted (Winograd)."
    )
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        peak = matmul_peak(device, dtype)
        print(f"\nmatrix multiplication in {precision}: {peak / 1e9:.0f} GFLOP/s on {device}, one CPU thread")
        for name, declared in NETWORKS.items():
            used = utilisation(declared, device, peak, precision)
            found[f"{name} {precision}"] = used._asdict() | {"peak_gflops": peak / 1e9}
            print(
                f"  {name:20} {used.step_gflop:6.0f} GFLOP a step of {BATCH} images;"
                f" {used.share:4.0%} of that peak (step of {used.batch}: {used.seconds:.2f} s)"
            )
    return found


def main() -> None:
    """Measure, print as it goes, write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the steps and of the networks")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    print("Medians and [quartiles] of ratios, both sides in turns on one thread. The released equivalent is our plain")
    print("version of what the authors' code does: PIL images behind a DataLoader, AMP tensor by tensor, float32.\n")
    ratios = printed([input_ratios, lambda: step_ratios(device), trial_ratios])
    write("trainer", ratios, device=device, networks=print_utilisation(device))


if __name__ == "__main__":
    main()
