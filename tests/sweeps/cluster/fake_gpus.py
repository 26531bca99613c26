"""``python -m sweeps`` on GPUs that are declared to Ray and do not exist: trials are given them and train on the CPU.

What a trial was given goes to the file that ``GIVEN`` names, a line at its start and one at its end.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sweeps.cli import main
from trainer.records import GpuMemory

GIVEN = "SWEEPS_TEST_GIVEN"
PAUSE_SECONDS = 1.0
MEMORY = GpuMemory(taken_bytes=6 * 2**30, gpu_bytes=24 * 2**30)


def run_on_cpu(config: dict[str, Any]) -> None:
    """In place of ``sweeps.cluster.worker.run_trial``, in the worker."""
    import ray  # here: the driver is to set it up before it is imported

    from sweeps.cluster.worker import run_trial

    facts = {
        "trial": Path(config["checkpoint"]).stem,
        "pid": os.getpid(),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "ray": ray.get_gpu_ids(),
        "share": config["gpu"],
        "kind": config["gpu_kind"],
        "node": ray.get_runtime_context().get_node_id(),
    }
    _write(facts | {"event": "start"})
    time.sleep(PAUSE_SECONDS)  # so that there are others at a time
    _write(facts | {"event": "end"})
    memory = patch("trainer.memory.gpu_memory", lambda _device: MEMORY)
    with memory, patch("trainer.loop.CHECKPOINT_EVERY_SECONDS", 0.0):
        run_trial(config | {"device": "cpu"})


def _write(facts: dict[str, Any]) -> None:
    with open(os.environ[GIVEN], "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    from tests.sweeps.cluster.fake_gpus import run_on_cpu as importable

    with patch("sweeps.launch.run_trial", importable), patch("sweeps.cli.torch_sees_gpu", lambda: True):
        sys.exit(main())
