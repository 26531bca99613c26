"""Fixtures of the trainer's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import trainer.data.load
from trainer.machine import Machine


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Faster on numbers this small. ``train`` sets the threads of the whole process, so they are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of cached data for all tests that do not look at it."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def machine(data_dir: Path) -> Machine:
    return Machine(data_dir=data_dir)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose data folder does not exist yet, in a process that has loaded nothing."""
    trainer.data.load._load_part.cache_clear()
    yield Machine(data_dir=tmp_path / "not" / "there")
    trainer.data.load._load_part.cache_clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a checkpoint may lie, in a folder that does not exist yet."""
    return tmp_path / "checkpoints" / "trial.pt"
