"""Places for fault tests, and the numbers of an undisturbed run, which are computed once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import NETWORK_FILE, Numbers, Workplace, study_file, undisturbed_numbers, workplace_in

SEEDS, EPOCHS = 12, 10


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    """The fault study: 24 trials, of 80 forward passes (ERM) or 160 (AMP) each."""
    with workplace_in(tmp_path, study_file(SEEDS, EPOCHS), paced=NETWORK_FILE) as place:
        yield place


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Numbers:
    """What the trials of ``place`` come to."""
    with workplace_in(tmp_path_factory.mktemp("undisturbed"), study_file(SEEDS, EPOCHS), paced=NETWORK_FILE) as place:
        return undisturbed_numbers(place.study, place.folder)
