"""Whole sweeps with real processes, to be broken and gone on with: how they are started, watched and judged.

The network of the fault study takes its time in each training step where ``PAUSE`` says so: a fault can then be aimed
at a moment of the training on a machine of any speed, and what remains is trained fast.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from search_spaces.catalog import find
from search_spaces.study import Study
from sweeps.ledger import Ledger, LedgerRow
from trainer.checkpoint import load_checkpoint
from trainer.config import Amp, TrialConfig
from trainer.loop import train
from trainer.machine import RESULTS_VARIABLE, TRACKING_VARIABLE, Machine, Results
from trainer.records import EpochRecord
from trainer.streams import stream_seed

PAUSE = "SWEEPS_TEST_PAUSE"
"""Seconds that the fault study's network waits in each forward pass of the training; none by default."""
STORE_EVERY = "SWEEPS_TEST_STORE_EVERY"
"""Where it pauses, seconds between two checkpoints, and two reports, of a trial; half a second by default."""
TRACE = "SWEEPS_TEST_TRACE"
"""The file to which that network appends a line for each forward pass of the training."""

NETWORK_FILE = f"""
import os
import time

import torch
from torch import nn

PAUSE = float(os.environ.get("{PAUSE}", 0))
if PAUSE:  # trials of seconds are then stored and reported as often as trials of minutes
    import sweeps.cluster.worker
    import trainer.loop

    seconds = float(os.environ.get("{STORE_EVERY}", 0.5))
    trainer.loop.CHECKPOINT_EVERY_SECONDS = sweeps.cluster.worker.REPORT_EVERY_SECONDS = seconds


class Paced(nn.Sequential):
    def trace(self, name):
        self.name, self.file = name, os.environ.get("{TRACE}")
        return self

    def forward(self, images):
        if self.training and torch.is_grad_enabled():  # once more, without, its logits are looked at
            time.sleep(PAUSE)
            if self.file:
                with open(self.file, "a") as file:
                    file.write(f"{{self.name}} {{os.getpid()}}\\n")
        return super().forward(images)


def make(shape, classes, method):
    name = f"{{method}}/{{torch.initial_seed()}}"
    layers = nn.Flatten(), nn.Linear(shape[1] * shape[2], 32), nn.ReLU(), nn.Linear(32, classes)
    return Paced(*layers).trace(name)
"""
STUDY_FILE = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Custom, Erm

METHODS = Erm(), Amp(epsilon=0.2, inner_lr=2.0, inner_steps=1)
STUDY = Study(
    name="NAME",
    question="Does a sweep end with the numbers of an undisturbed one, whatever happens to it?",
    trials=[
        replace(
            recipes.digits_mlp(method, seed),
            model=Custom("paced:make", arguments={"method": type(method).__name__}),
            epochs=EPOCHS,
            lr_milestones=(EPOCHS // 2,),
        )
        for seed in range(SEEDS)
        for method in METHODS
    ],
)
"""
TIMES = frozenset({"epoch_seconds"})
"""Metrics that differ from run to run."""

DIGITS_TRAINED = 400
"""Images of the fault study that are trained on."""

Numbers = Mapping[str, Sequence[EpochRecord]]
"""The records of trials, by trial id."""


def study_file(seeds: int, epochs: int, name: str = "faults") -> str:
    """A study of ERM and AMP, each with so many seeds; an epoch is 8 batches, of one forward pass or of two.

    name: of the study and its experiment; where tests share an MLflow, each needs one of its own.
    """
    return STUDY_FILE.replace("NAME", name).replace("EPOCHS", str(epochs)).replace("SEEDS", str(seeds))


@dataclass(frozen=True)
class Workplace:
    """A folder with a user's study in it. Results go to its ``results``, what drivers print to its ``log``.

    variables: what the drivers find in their environment besides.
    """

    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "study.py"

    @property
    def results(self) -> Results:
        return Results(self.folder / "results")

    @cached_property
    def study(self) -> Study:
        return find(str(self.file))

    @property
    def printed(self) -> str:
        """All that was printed by the drivers so far."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a driver; ``variables`` in addition."""
        others = {name: value for name, value in os.environ.items() if name != TRACKING_VARIABLE}
        return others | {RESULTS_VARIABLE: str(self.results.root)} | self.variables | variables

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """``python -m sweeps ARGUMENTS`` in a process group of its own, through a shell.

        make does it so, too: the driver is then no session leader, but shares a process group with the shell. This one
        lives as long as its driver, to tell how that ended.
        """
        command = [sys.executable, "-m", "sweeps", *arguments]
        with (self.folder / "log").open("a") as log:
            return subprocess.Popen(
                ["/bin/sh", "-c", 'trap : INT TERM; "$@"; exit $?', "sh", *command],
                env=self.environment(**variables),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *options: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a driver of the study, two trials at a time unless ``options`` say otherwise."""
        return self.start("run", str(self.file), "--jobs", "2", "--yes", *options, **variables)

    def finish(self, code: int = 0) -> str:
        """Run the study to its end; what that printed is returned. It must end with exit code ``code``."""
        before = len(self.printed)
        assert self.run().wait(timeout=180) == code, self.printed
        return self.printed[before:]

    def rows(self) -> dict[str, LedgerRow]:
        """The study's trials as the ledger has them; none before there is one."""
        if not self.results.has_ledger() or "STUDY = Study(" not in self.file.read_text():
            return {}
        ledger = Ledger(self.results.ledger_url)
        try:
            return ledger.rows([trial.trial_id for trial in self.study.trials])
        finally:
            ledger.close()

    def states(self) -> Counter[str]:
        """How many trials are in which state."""
        return Counter(row.state for row in self.rows().values())

    def wait_until(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        """Return once ``condition`` holds; fail, with what was printed, when it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not so after {seconds} s; {self.states()}; {self.printed}")
            time.sleep(0.05)

    def wait_until_finished(self, trials: int) -> None:
        """Return once at least so many trials are finished."""
        self.wait_until(lambda: self.states()["finished"] >= trials)

    def runs(self) -> tuple[MlflowClient, list[Run]]:
        """All runs of the study: its summary, its cells, its trials."""
        return self.runs_of(self.study.name)

    def runs_of(self, name: str) -> tuple[MlflowClient, list[Run]]:
        """All runs of the experiment of this name."""
        uri = self.environment().get(TRACKING_VARIABLE) or f"sqlite:///{self.results.root / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        return client, list(client.search_runs([experiment.experiment_id]))

    def trial_runs(self) -> list[Run]:
        """The runs of its trials alone."""
        return [run for run in self.runs()[1] if run.data.tags["kind"] == "trial"]

    def trace(self) -> dict[str, list[int]]:
        """By trial id, the processes that trained it: one entry a forward pass, in order. See ``TRACE``."""
        file, found = Path(self.variables[TRACE]), {trial.trial_id: list[int]() for trial in self.study.trials}
        ids = {_traced_name(trial): trial.trial_id for trial in self.study.trials}
        for line in file.read_text().splitlines() if file.exists() else []:
            name, pid = line.split()
            if name in ids:  # a plan looks at the network too, with weights of no trial
                found[ids[name]].append(int(pid))
        return found

    def in_the_middle(self, pids: Collection[int]) -> TrialConfig | None:
        """A trial that one of these processes trains, with a checkpoint on disk and some epochs to go, if any."""
        trace = self.trace()
        for trial in self.study.trials:
            seen = trace[trial.trial_id]
            stored = self.results.checkpoint(trial.trial_id).exists()
            if stored and seen and seen[-1] in pids and len(seen) < forward_passes(trial, trial.epochs - 3):
                return trial
        return None


def _traced_name(trial: TrialConfig) -> str:
    return f"{type(trial.method).__name__}/{stream_seed(trial.seed, 'init')}"


def forward_passes(trial: TrialConfig, epochs: int | None = None) -> int:
    """Of so many epochs of this trial, by default of all: as many lines as it leaves in a trace."""
    batches = math.ceil(DIGITS_TRAINED / trial.batch_size)
    passes = 1 + (trial.method.inner_steps if isinstance(trial.method, Amp) else 0)
    return batches * passes * (trial.epochs if epochs is None else epochs)


def turns(pids: Sequence[int]) -> list[int]:
    """The processes of a trial's trace in the order of their turns; one that two train at a time has many."""
    return [pid for pid, _ in itertools.groupby(pids)]


@contextlib.contextmanager
def workplace_in(folder: Path, study: str, **files: str) -> Iterator[Workplace]:
    """Put ``study`` and modules beside it into ``folder``; what is started there must have ended soon after the end."""
    folder.mkdir(exist_ok=True)
    (folder / "study.py").write_text(study)
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    place = Workplace(folder)
    try:
        yield place
        _wait_for_processes(place)
    finally:
        for process in processes(place):  # of a test that failed
            with contextlib.suppress(psutil.Error):
                process.kill()


def _wait_for_processes(place: Workplace) -> None:
    """That takes a second or two; a machine that does much else may need more."""
    deadline = time.monotonic() + 30
    while left := processes(place):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.2)


def processes(place: Workplace) -> list[psutil.Process]:
    """All that were started there and live: Ray's daemons and workers inherit the environment of their driver."""
    return [process for process in psutil.process_iter() if _results_of(process) == str(place.results.root)]


def _results_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(RESULTS_VARIABLE)  # of a zombie there is none
    except psutil.Error:
        return None


def driver_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """The driver that ``Workplace.start`` has started through a shell."""
    shell, deadline = psutil.Process(process.pid), time.monotonic() + 10
    while not (children := shell.children()):
        assert time.monotonic() < deadline, "no driver"
        time.sleep(0.01)
    return children[0]


def undisturbed_numbers(study: Study, folder: Path) -> Numbers:
    """Train the study in this process, without Ray, ledger, checkpoints or MLflow."""
    machine = Machine(data_dir=folder / "data", code_dir=folder)
    return {trial.trial_id: tuple(train(trial, machine)) for trial in study.trials}


def assert_equals_undisturbed(place: Workplace, undisturbed: Numbers) -> None:
    """Every trial once, its run FINISHED, every epoch of every metric once and bit for bit as without any sweep."""
    assert set(undisturbed) == {trial.trial_id for trial in place.study.trials}
    owners = {row.trial_id: (row.state, row.owner) for row in place.rows().values()}
    assert owners == dict.fromkeys(undisturbed, ("finished", None))
    client, runs = place.runs()
    assert {run.info.status for run in runs} == {"FINISHED"}
    keys = [run.data.tags["key"] for run in runs]
    assert len(keys) == len(set(keys))
    by_id = {run.data.tags["key"]: run for run in runs if run.data.tags["kind"] == "trial"}
    assert not set(by_id) ^ set(undisturbed), {run.data.tags["key"]: run.data.tags["kind"] for run in runs}
    stored = {file.name for file in (place.results.root / "checkpoints").iterdir()}
    assert stored == {f"{trial_id}.pt" for trial_id in undisturbed}, "unfinished files, or lost ones"
    for trial in place.study.trials:
        _assert_trial(place, trial, undisturbed[trial.trial_id], client, by_id[trial.trial_id])


def _assert_trial(
    place: Workplace, trial: TrialConfig, expected: Sequence[EpochRecord], client: MlflowClient, run: Run
) -> None:
    stored = load_checkpoint(place.results.checkpoint(trial.trial_id), trial.trial_id)
    assert stored is not None
    assert [_numbers(record) for record in stored.records] == [_numbers(record) for record in expected]
    assert run.data.params == {name: str(value) for name, value in trial.params().items()}
    for name in set().union(*(record.metrics for record in expected)):
        points = client.get_metric_history(run.info.run_id, name)
        found = sorted((point.step, point.timestamp, point.value) for point in points)
        rows = [(r.epoch, r.timestamp, r.metrics[name]) for r in stored.records if name in r.metrics]
        assert found == rows, (trial.trial_id, name)
    finals = {f"final/{name}": value for name, value in stored.records[-1].metrics.items()}
    assert {name: value for name, value in run.data.metrics.items() if name.startswith("final/")} == finals


def _numbers(record: EpochRecord) -> tuple[int, dict[str, float]]:
    return record.epoch, {name: value for name, value in record.metrics.items() if name not in TIMES}
