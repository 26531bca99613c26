"""Reading measurements without torch."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.probes import COLUMNS, load_arrays, load_probes
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Erm, TrialConfig
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.measurement import Measurement
from trainer.probe_config import Calibration, Probe, Sharpness

SHARPNESS, CALIBRATION = Sharpness(radii=(0.1, 0.2)), Calibration()
TRIALS = tuple(recipes.digits_mlp(method, seed) for method in (Erm(), Amp(epsilon=0.5)) for seed in (0, 1))
STUDY = Study(name="toy", question="?", trials=TRIALS, probes=(SHARPNESS, CALIBRATION))


def save(results: Results, trial: TrialConfig, probe: Probe, metrics: dict[str, float]) -> None:
    arrays = {"curve": np.array([*metrics.values()])}
    Measurement(metrics, arrays).save(results.measurement(trial.trial_id, probe.probe_id), probe)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Sharpness of all trials but the last, calibration of the first."""
    results = Results(tmp_path)
    for place, trial in enumerate(TRIALS[:3]):
        save(results, trial, SHARPNESS, {"probe/sharpness/0.1": place + 0.25, "probe/sharpness/0.2": math.inf})
    save(results, TRIALS[0], CALIBRATION, {"probe/calibration/test/ece": 0.125})
    return results


def test_a_row_a_trial_probe_and_metric(results: Results) -> None:
    frame = load_probes(STUDY, results)
    assert tuple(frame.columns) == COLUMNS
    ids = [trial.trial_id for trial in TRIALS]
    assert list(frame["trial_id"]) == [ids[0]] * 3 + [ids[1]] * 2 + [ids[2]] * 2
    assert list(frame["cell"]) == ["Erm"] * 5 + ["Amp"] * 2
    assert list(frame["seed"]) == [0] * 3 + [1] * 2 + [0] * 2
    assert list(frame["probe"])[:3] == ["Sharpness", "Sharpness", "Calibration"]
    assert list(frame["probe_id"])[1:3] == [SHARPNESS.probe_id, CALIBRATION.probe_id]
    assert list(frame["metric"])[:3] == ["probe/sharpness/0.1", "probe/sharpness/0.2", "probe/calibration/test/ece"]
    assert list(frame["value"]) == [0.25, math.inf, 0.125, 1.25, math.inf, 2.25, math.inf]


def test_what_another_declaration_measured_is_not_read(results: Results) -> None:
    assert load_probes(replace(STUDY, probes=[Calibration(bins=5)]), results).empty


@pytest.mark.parametrize("probes", [(), STUDY.probes])
def test_with_nothing_measured_the_frame_has_its_columns(tmp_path: Path, probes: tuple[Probe, ...]) -> None:
    frame = load_probes(replace(STUDY, probes=probes), Results(tmp_path))
    assert frame.empty
    assert tuple(frame.columns) == COLUMNS


def test_arrays_by_trial_and_probe(results: Results) -> None:
    arrays = load_arrays(TRIALS[1], SHARPNESS, results)
    assert list(arrays) == ["curve"]
    assert arrays["curve"].tolist() == [1.25, math.inf]


def test_arrays_that_are_not_there_say_what_to_do(results: Results) -> None:
    with pytest.raises(ConfigError, match=r"Sharpness of trial .* is not measured yet: make probe") as error:
        load_arrays(TRIALS[3], SHARPNESS, results)
    assert "\n" not in str(error.value)


def test_reading_needs_no_torch(results: Results) -> None:
    code = (
        "import sys; from analysis.probes import load_probes; from tests.analysis.test_probes import STUDY, Results;"
        "from pathlib import Path;"
        "print(len(load_probes(STUDY, Results(Path(sys.argv[1])))), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(results.root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["7", "False"]
