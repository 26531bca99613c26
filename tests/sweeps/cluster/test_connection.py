"""A driver's end, as of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
CYCLES = 5000
COLLECTS_IN_A_THREAD = f"""
import gc, sys, threading, time
from pathlib import Path
from sweeps.cluster import connection
import ray

class Cycle:
    def __init__(self):
        self.itself, self.reference = self, ray.put(1)

def collect():
    time.sleep(0.1)  # Ray has begun to shut down
    while True:
        gc.collect()

def shutdown(*arguments):
    threading.Thread(target=collect, daemon=True).start()
    really(*arguments)

really, ray.shutdown = ray.shutdown, shutdown
with connection.private_folder() as folder:
    with connection.ray_for(1, folder):
        gc.disable()  # until then
        for _ in range({CYCLES}):
            Cycle()
    print("last words", gc.isenabled(), flush=True)
"""


def test_a_driver_has_its_last_words_whatever_its_threads_collect() -> None:
    """Tune leaves cycles like these, and deliveries to MLflow collect them while Ray shuts down."""
    command = [sys.executable, "-c", COLLECTS_IN_A_THREAD]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "last words True\n"), done.stderr
