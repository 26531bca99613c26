from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from trainer.settings import set_for_training

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(12 * 2**20)  # 48 MiB, more than glibc would ever keep by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
set_for_training(1)
print(before, min(faults() for _ in range(4)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told what to keep")
def test_memory_that_a_batch_frees_is_there_for_the_next_without_page_faults() -> None:
    printed = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    before, after = map(int, printed.split())
    assert before > 100  # pages may be huge ones
    assert after < before / 10


def test_a_trial_has_its_threads_whatever_the_node_says() -> None:
    code = (
        "import torch; from trainer.settings import set_for_training; set_for_training(1); set_for_training(1);"
        " print(torch.get_num_threads(), torch.get_num_interop_threads())"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "5", "MKL_NUM_THREADS": "5"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
