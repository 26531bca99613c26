"""Trials of no work through Ray Tune with its defaults, the other side of ``benchmarks.engine``'s overhead.

Started as a process of its own, in whose environment no setting of ours is: ``python -m benchmarks.plain_tune N FILE``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

JOBS = 2


def no_work(config: dict[str, Any]) -> None:
    """What any trial does, and no more: it imports torch and reports one number."""
    import torch

    tune.report({"error": float(torch.zeros(()))})


class Clock(tune.Callback):
    """Notes when trials end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ends.append(time.perf_counter())


def fit(trials: int, folder: str) -> dict[str, float]:
    """Seconds from Ray's start to the end of the first trial, from trial to trial, and from the last to Ray's end."""
    clock, began = Clock(), time.perf_counter()
    ray.init(num_cpus=JOBS, _temp_dir=f"{folder}/ray")
    tuner = tune.Tuner(
        no_work,
        param_space={"seed": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(storage_path=f"{folder}/tune", callbacks=[clock]),
    )
    tuner.fit()
    ray.shutdown()
    ended, (first, *_, last) = time.perf_counter(), clock.ends
    return {"first": first - began, "each": (last - first) / (len(clock.ends) - 1), "end": ended - last}


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="plain-", ignore_cleanup_errors=True) as folder:
        Path(sys.argv[2]).write_text(json.dumps(fit(int(sys.argv[1]), folder)), encoding="utf-8")
