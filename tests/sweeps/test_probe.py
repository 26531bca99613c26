"""Probes of finished trials: measured once, stored whole, delivered to MLflow once, whatever happens in between."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

import sweeps.probe
import sweeps.run
from search_spaces.study import Study
from sweeps.probe import measure_probes, probe
from sweeps.probe_worker import Done, Job, measure_trial
from sweeps.sweep import ADDRESS_VARIABLE, INTERRUPTED, StudySweep
from sweeps.tracking.tracker import Delivery, Tracker
from tests.sweeps.conftest import Desk, make_trial, wait_for
from trainer.config import TrialConfig
from trainer.loop import train
from trainer.machine import RESULTS_VARIABLE, Machine
from trainer.measurement import Measurement, load_measurement
from trainer.probe_config import AmpLoss, Calibration, Hessian, Probe, Sharpness

SHARPNESS, CALIBRATION = Sharpness(radii=(0.05, 0.1)), Calibration()
NAMES = ["probe/calibration/test/ece", "probe/calibration/test/mce", "probe/sharpness/0.05", "probe/sharpness/0.1"]
STUDY = Study(name="toy", question="?", trials=[make_trial(seed) for seed in range(2)], probes=[SHARPNESS, CALIBRATION])


@pytest.fixture
def in_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The jobs are done in this process: starting another one and importing torch takes seconds."""

    @contextlib.contextmanager
    def pool(workers: int) -> Iterator[Executor]:
        with ThreadPoolExecutor(1) as executor:
            yield executor

    monkeypatch.setattr(sweeps.probe, "worker_pool", pool)
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = deterministic


def sweep_of(desk: Desk, study: Study) -> StudySweep:
    return StudySweep(study, study.name, desk.results, desk.ledger, jobs=2, device="cpu")


def train_here(desk: Desk, study: Study, trials: Sequence[TrialConfig], tracker: Tracker | None = None) -> Tracker:
    """What a run of the study leaves: checkpoint, ledger and MLflow."""
    tracker = tracker or desk.tracker(study)
    for trial in trials:
        path = desk.results.checkpoint(trial.trial_id)
        records = tuple(train(trial, Machine(data_dir=desk.results.data), path))
        desk.settle(study, trial, "finished")
        tracker.write(Delivery(trial, "finished", records))
    return tracker


def measured(desk: Desk, trial: TrialConfig, probe: Probe) -> Measurement | None:
    return load_measurement(desk.results.measurement(trial.trial_id, probe.probe_id))


def files(desk: Desk) -> list[Path]:
    """The measurements, without what a killed writer may leave beside them."""
    return [path for path in (desk.results.root / "probes").rglob("*.npz") if not path.name.startswith(".")]


def shown(desk: Desk, trial: TrialConfig, study: str = "toy") -> dict[str, float]:
    metrics = desk.run(study, trial.trial_id).data.metrics
    return {name: value for name, value in sorted(metrics.items()) if name.startswith("probe/")}


def points(desk: Desk, trial: TrialConfig, name: str) -> list[float]:
    return [value for _, _, value in desk.history(desk.run("toy", trial.trial_id), name)]


def refuse_to_work(*_: object) -> None:
    raise AssertionError("there is nothing to measure")


def test_measured_once_by_worker_processes(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(desk, STUDY, STUDY.trials)
    assert probe(sweep_of(desk, STUDY)) == 0
    assert "toy: probes of 2 of 2 trials measured, after" in capsys.readouterr().out
    assert multiprocessing.active_children() == []
    for trial in STUDY.trials:
        stored = [measured(desk, trial, probe) for probe in STUDY.probes]
        numbers = {name: value for found in stored if found for name, value in found.metrics.items()}
        assert shown(desk, trial) == numbers
        assert list(shown(desk, trial)) == NAMES
        assert desk.run("toy", trial.trial_id).info.status == "FINISHED"
        assert {step for step, _, _ in desk.history(desk.run("toy", trial.trial_id), NAMES[0])} == {0}
    assert shown(desk, STUDY.trials[0]) != shown(desk, STUDY.trials[1])
    monkeypatch.setattr(sweeps.probe, "worker_pool", refuse_to_work)
    assert probe(sweep_of(desk, STUDY)) == 0
    assert capsys.readouterr().out == "toy: probes of 2 of 2 trials already measured\n"
    assert [len(points(desk, trial, name)) for trial in STUDY.trials for name in NAMES] == [1] * 8


@pytest.mark.usefixtures("in_threads")
def test_only_finished_trials_are_probed(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = STUDY.trials
    tracker = desk.tracker(STUDY)
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert capsys.readouterr().out.startswith("toy: no trial is finished yet")
    train_here(desk, STUDY, [first], tracker)
    desk.settle(STUDY, second, "diverged", "loss is nan")
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert "probes of 1 of 1 trials measured" in capsys.readouterr().out
    assert measured(desk, first, SHARPNESS)
    assert not measured(desk, second, SHARPNESS)


@pytest.mark.usefixtures("in_threads")
def test_a_trial_whose_checkpoint_is_gone_is_named_and_the_rest_goes_on(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = STUDY.trials
    tracker = train_here(desk, STUDY, STUDY.trials)
    desk.results.checkpoint(first.trial_id).unlink()
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 1
    said, summary = capsys.readouterr().out.splitlines()
    assert said.startswith(f"trial {first.trial_id}: ")
    assert f"{first.trial_id}.pt: no checkpoint" in said
    assert f"`python -m sweeps forget {first.trial_id}`, and the next run trains it again" in said
    assert summary.startswith("toy: probes of 1 of 2 trials measured")
    assert (shown(desk, first), list(shown(desk, second))) == ({}, NAMES)


@pytest.mark.usefixtures("in_threads")
def test_a_probe_that_cannot_be_measured_is_named_and_the_others_go_on(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    hopeless = Hessian(examples=200, iterations=1, tolerance=1e-30)
    study = replace(STUDY, trials=STUDY.trials[:1], probes=[hopeless, CALIBRATION])
    tracker = train_here(desk, study, study.trials)
    assert measure_probes(sweep_of(desk, study), tracker) == 1
    assert f"trial {study.trials[0].trial_id}: Hessian: Hessian.iterations = 1: must be" in capsys.readouterr().out
    assert list(shown(desk, study.trials[0])) == NAMES[:2]


@pytest.mark.usefixtures("in_threads")
def test_only_what_is_missing_is_measured(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = STUDY.trials[0]
    tracker = train_here(desk, STUDY, [trial])
    assert measure_probes(sweep_of(desk, replace(STUDY, probes=[SHARPNESS])), tracker) == 0
    before = desk.results.measurement(trial.trial_id, SHARPNESS.probe_id).stat().st_mtime_ns
    asked: list[tuple[Probe, ...]] = []

    def note_and_measure(job: Job) -> list[str]:
        asked.append(job.probes)
        return measure_trial(job)

    monkeypatch.setattr(sweeps.probe, "measure_trial", note_and_measure)
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert asked == [(CALIBRATION,)]
    assert desk.results.measurement(trial.trial_id, SHARPNESS.probe_id).stat().st_mtime_ns == before
    damaged = desk.results.measurement(trial.trial_id, SHARPNESS.probe_id)
    damaged.write_bytes(damaged.read_bytes()[:-10])
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert asked[1:] == [(SHARPNESS,)]
    assert [len(points(desk, trial, name)) for name in NAMES] == [1] * 4


@pytest.mark.usefixtures("in_threads")
def test_mlflow_shows_what_the_study_declares_now(desk: Desk) -> None:
    trial = STUDY.trials[0]
    tracker = train_here(desk, STUDY, [trial])
    values = []
    for bins in (15, 5, 15):
        declared = Calibration(bins=bins)
        assert measure_probes(sweep_of(desk, replace(STUDY, probes=[declared])), tracker) == 0
        found = measured(desk, trial, declared)
        assert found
        values.append(found.metrics["probe/calibration/test/mce"])
        assert shown(desk, trial)["probe/calibration/test/mce"] == values[-1]
        said = json.loads(desk.run("toy", trial.trial_id).data.tags["probe.calibration"])
        assert (said["probe_id"], said["bins"]) == (declared.probe_id, bins)
        time.sleep(0.002)  # MLflow's clock has milliseconds
    assert values[0] == values[2] != values[1]


@pytest.mark.usefixtures("in_threads")
def test_without_mlflow_it_measures_and_delivers_later(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = train_here(desk, STUDY, STUDY.trials)
    with monkeypatch.context() as patch:

        def add(*_: object) -> None:
            raise OSError("no route to host")

        patch.setattr(tracker, "add", add)
        assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    said = capsys.readouterr().out
    assert said.count("no route to host") == 1
    assert all(measured(desk, trial, SHARPNESS) for trial in STUDY.trials)
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert [list(shown(desk, trial)) for trial in STUDY.trials] == [NAMES] * 2


@pytest.mark.usefixtures("in_threads")
def test_what_mlflow_refuses_of_one_trial_holds_up_no_other(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = train_here(desk, STUDY, STUDY.trials)
    add, refused = tracker.add, STUDY.trials[0].trial_id

    def refuse(trial: TrialConfig, metrics: Mapping[str, float], tags: Mapping[str, str]) -> bool:
        spoilt = trial.trial_id == refused and NAMES[2] in metrics
        return add(trial, {**metrics, "not+a name": 1.0} if spoilt else metrics, tags)

    monkeypatch.setattr(tracker, "add", refuse)
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    said = capsys.readouterr().out
    assert said.count("MLflow") == 1
    assert f"trial {refused}: MLflow refuses Sharpness (Invalid value" in said
    assert [list(shown(desk, trial)) for trial in STUDY.trials] == [NAMES[:2], NAMES]


@pytest.mark.usefixtures("in_threads")
def test_radii_of_any_size_have_names_that_mlflow_takes(desk: Desk) -> None:
    study = replace(STUDY, trials=STUDY.trials[:1], probes=[Sharpness(radii=(1e-9, 1e6)), AmpLoss(radii=(1e20,))])
    assert measure_probes(sweep_of(desk, study), train_here(desk, study, study.trials)) == 0
    assert list(shown(desk, study.trials[0])) == [
        "probe/amp_loss/1e20",
        "probe/sharpness/1e-09",
        "probe/sharpness/1e06",
    ]


@pytest.mark.usefixtures("in_threads")
def test_a_training_that_is_not_delivered_yet_goes_first(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    trial = STUDY.trials[0]
    tracker = desk.tracker(STUDY)
    list(train(trial, Machine(data_dir=desk.results.data), desk.results.checkpoint(trial.trial_id)))
    desk.settle(STUDY, trial, "finished")
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert "make deliver STUDY=toy" in capsys.readouterr().out
    assert measured(desk, trial, SHARPNESS)
    assert sweeps.run.run(sweep_of(desk, replace(STUDY, trials=[trial]))) == 0
    assert list(shown(desk, trial)) == NAMES


@pytest.mark.usefixtures("in_threads")
def test_a_run_measures_after_the_training(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(desk, STUDY, STUDY.trials)
    assert sweeps.run.run(sweep_of(desk, STUDY)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "toy: 2 of 2 already finished"
    assert second.startswith("toy: probes of 2 of 2 trials measured")
    assert [list(shown(desk, trial)) for trial in STUDY.trials] == [NAMES] * 2


@pytest.mark.parametrize(("trained", "probed", "together"), [(0, 1, 1), (1, 0, 1), (0, 0, 0), (0, 130, 130)])
def test_the_worst_exit_code_counts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, trained: int, probed: int, together: int
) -> None:
    monkeypatch.setattr(sweeps.run, "_finish_training", lambda *_: trained)
    monkeypatch.setattr(sweeps.run, "measure_probes", lambda *_: probed)
    desk.ledger.declare(STUDY.name, STUDY.trials)
    assert sweeps.run.run(sweep_of(desk, STUDY)) == together


def test_nothing_is_probed_after_an_interruption_or_where_nothing_is_declared(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.run, "measure_probes", refuse_to_work)
    for code, study in ((INTERRUPTED, STUDY), (0, replace(STUDY, probes=[]))):
        monkeypatch.setattr(sweeps.run, "_finish_training", lambda *_, code=code: code)
        assert sweeps.run.run(sweep_of(desk, study)) == code


def test_without_probes_it_says_so(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe(sweep_of(desk, replace(STUDY, probes=[]))) == 0
    assert capsys.readouterr().out == "toy: declares no probes: name some in its Study(..., probes=[...])\n"


@pytest.mark.usefixtures("in_threads")
def test_a_copy_of_another_studys_trial_has_its_own_probes(desk: Desk) -> None:
    train_here(desk, STUDY, STUDY.trials)
    later = Study(name="later", question="?", trials=STUDY.trials[:1], probes=[CALIBRATION])
    tracker = desk.tracker(later)
    assert tracker.copy(STUDY.trials[0], "toy")
    assert measure_probes(sweep_of(desk, later), tracker) == 0
    assert list(shown(desk, STUDY.trials[0], "later")) == NAMES[:2]
    assert shown(desk, STUDY.trials[0]) == {}


@pytest.mark.usefixtures("in_threads")
def test_a_trial_that_loses_its_worker_each_time_is_named_and_the_others_go_on(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = train_here(desk, STUDY, STUDY.trials)

    tried = Counter[int]()

    def measure_or_die(job: Job) -> list[str]:
        tried[job.trial.seed] += 1
        if job.trial.seed == 0:
            raise BrokenProcessPool
        return measure_trial(job)

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.probe, "measure_trial", measure_or_die)
        assert measure_probes(sweep_of(desk, STUDY), tracker) == 1
    said = capsys.readouterr().out
    assert f"trial {STUDY.trials[0].trial_id}: its worker process was lost 3 times (out of memory?)\n" in said
    assert "probes of 1 of 2 trials measured" in said
    assert tried == {0: 3, 1: 1}
    assert list(shown(desk, STUDY.trials[1])) == NAMES
    assert measure_probes(sweep_of(desk, STUDY), tracker) == 0
    assert list(shown(desk, STUDY.trials[0])) == NAMES


@pytest.mark.usefixtures("in_threads")
def test_those_at_work_beside_a_lost_worker_are_not_blamed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool with two workers breaks whatever is in it; after that each of the two has one for itself."""
    jobs = [Job(make_trial(seed), (), Machine(), desk.results) for seed in range(5)]
    batches: list[list[int]] = []

    def in_one_pool(batch: Sequence[Job], workers: int, show: object) -> Generator[Done, None, list[Job]]:
        seeds = [job.trial.seed for job in batch]
        batches.append(seeds)
        if seeds in ([0, 1, 2, 3, 4], [0]):
            return list(batch)
        yield from ((job, []) for job in batch)
        return []

    monkeypatch.setattr(sweeps.probe, "_in_one_pool", in_one_pool)
    done = {job.trial.seed: len(problems) for job, problems in sweeps.probe._measured(jobs, 2, lambda _: None)}
    assert batches == [[0, 1, 2, 3, 4], [0], [0], [1], [2, 3, 4]]
    assert done == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0}


def kill_worker_once(job: Job) -> list[str]:
    """Run in a worker process."""
    mark = job.results.root / "killed"
    if job.trial.seed == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.slow
def test_a_lost_worker_process_is_replaced(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.probe, "measure_trial", kill_worker_once)
    jobs = [Job(make_trial(seed), (), Machine(), desk.results) for seed in range(3)]
    done = sorted((job.trial.seed, problems) for job, problems in sweeps.probe._measured(jobs, 1, lambda _: None))
    assert done == [(0, []), (1, []), (2, [])]
    assert multiprocessing.active_children() == []


def test_interrupted_it_ends_its_workers_and_says_how_to_go_on(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = train_here(desk, STUDY, STUDY.trials)

    def interrupt(*_: object) -> None:
        assert len(multiprocessing.active_children()) == 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.probe, "wait", interrupt)
        assert measure_probes(sweep_of(desk, STUDY), tracker) == INTERRUPTED
    assert multiprocessing.active_children() == []
    assert files(desk) == [], "the workers were waited for"
    said = capsys.readouterr()
    assert "what was measured is kept. To go on: make probe STUDY=toy" in said.out
    assert "Traceback" not in said.err


def test_added_metrics_are_written_once_and_replaced(desk: Desk) -> None:
    trial = STUDY.trials[0]
    tracker = train_here(desk, STUDY, [trial])
    for _ in range(2):
        tracker.add(trial, {"probe/a": 1 / 3, "probe/b": 2.0}, {"probe.a": "one"})
    time.sleep(0.002)  # MLflow's clock has milliseconds
    tracker.add(trial, {"probe/a": 1 / 3, "probe/b": 1.0}, {"probe.a": "one"})
    assert shown(desk, trial) == {"probe/a": 1 / 3, "probe/b": 1.0}
    assert (points(desk, trial, "probe/a"), points(desk, trial, "probe/b")) == ([1 / 3], [2.0, 1.0])
    tracker.add(trial, {}, {"probe.a": "other"})
    assert desk.run("toy", trial.trial_id).data.tags["probe.a"] == "other"


STUDY_FILE = """
from search_spaces.study import Study
from tests.sweeps.conftest import make_trial
from trainer.probe_config import Hessian

STUDY = Study(
    name="long",
    question="?",
    trials=[make_trial(seed) for seed in range(4)],
    probes=[Hessian(examples=None, trace_samples=50)],
)
"""
LONG = Study(
    name="long",
    question="?",
    trials=[make_trial(seed) for seed in range(4)],
    probes=[Hessian(examples=None, trace_samples=50)],
)


@pytest.fixture
def driver(desk: Desk, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``python -m sweeps probe`` at work, with one measurement done and others to come."""
    train_here(desk, LONG, LONG.trials)
    (tmp_path / "long.py").write_text(STUDY_FILE)
    root = Path(__file__).parents[2]
    environment = os.environ | {RESULTS_VARIABLE: str(desk.results.root), "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-m", "sweeps", "probe", str(tmp_path / "long.py"), "--jobs", "1"],
        env=environment,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_for(lambda: bool(files(desk)) or process.poll() is not None, seconds=60)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def goes_on(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is half there; the rest is measured, and the numbers are those of an undisturbed run."""
    done = files(desk)
    assert 1 <= len(done) < 4
    before = {path: path.read_bytes() for path in done}
    assert all(load_measurement(path) for path in done)
    assert probe(sweep_of(desk, LONG)) == 0
    assert "probes of 4 of 4 trials measured" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())
    assert [len(shown(desk, trial, "long")) for trial in LONG.trials] == [2] * 4


@pytest.mark.slow
def test_killed_it_leaves_no_process_and_no_half_file(
    desk: Desk, driver: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    children = psutil.Process(driver.pid).children(recursive=True)
    assert children
    driver.kill()
    driver.wait()
    wait_for(lambda: not [child for child in children if child.is_running() and child.status() != "zombie"])
    goes_on(desk, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_interrupted_from_outside_it_ends_in_one_line(
    desk: Desk,
    driver: subprocess.Popen[str],
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    whole_group: bool,
) -> None:
    (os.killpg if whole_group else os.kill)(driver.pid, number)
    said, _ = driver.communicate(timeout=30)
    assert driver.returncode == INTERRUPTED, said
    assert said.strip().splitlines()[-1].startswith("Interrupted; what was measured is kept")
    assert len(said.strip().splitlines()) == 1, said
    goes_on(desk, capsys)


@pytest.mark.parametrize(
    ("address", "device", "workers"), [("", "cpu", 64), ("", "cuda", 1), ("auto", "cpu", 64), ("auto", "cuda", 64)]
)
def test_how_many_are_measured_at_a_time(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, address: str, device: str, workers: int
) -> None:
    """On a Ray that was joined as many as are trained at a time, whatever the driver's machine has."""
    monkeypatch.setenv(ADDRESS_VARIABLE, address)
    sweep = StudySweep(STUDY, "toy", desk.results, desk.ledger, jobs=64, device=device)
    assert sweeps.probe._job(sweep, STUDY.trials[0]).machine.device == device
    assert sweeps.probe._workers(sweep) == workers
