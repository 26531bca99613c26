"""What a run tells: the view in any terminal, lines elsewhere, failures at once, other drivers' trials."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import IO, NamedTuple

import pytest
from rich.console import Console

from search_spaces.study import Study
from sweeps import progress as progress_module
from sweeps.cost.estimate import Known
from sweeps.cost.eta import Work, expected_work
from sweeps.ledger import State
from sweeps.progress import Progress
from sweeps.view import EndedTrial, RunningTrial, Snapshot, duration, line, picture
from tests.sweeps.conftest import make_study, wait_for
from trainer.records import EpochRecord

STUDY = make_study(seeds=(0, 1, 2))
IDS = [trial.trial_id for trial in STUDY.trials]
FIRST, SECOND = IDS[:2]
ALL_PENDING: dict[str, State] = dict.fromkeys(IDS, "pending")
WORK = expected_work(STUDY.trials, Known([], peak=1e9))
SHARE_OF_FIRST = WORK[FIRST].seconds / sum(work.seconds for work in WORK.values())
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def running(number: int) -> list[RunningTrial]:
    return [RunningTrial(f"Amp epsilon=0.{place}", place, place, 40, 12.3) for place in range(number)]


def ended(number: int, state: State = "finished") -> list[EndedTrial]:
    return [EndedTrial(f"Amp epsilon=0.{n}", n, state, 0.0769, 0.2692, 0.0198, 1.25) for n in range(number)]


def snapshot(running_trials: int = 2, ended_trials: int = 10, **changes: object) -> Snapshot:
    count: dict[State, int] = {"pending": 45, "leased": 2, "finished": 31, "diverged": 1, "failed": 1}
    now = Snapshot("table1-small", count, 0.42, 65.0, 100.0, "test", running(running_trials), ended(ended_trials))
    return replace(now, **changes)  # type: ignore[arg-type]


def drawn(now: Snapshot, width: int = 80, height: int = 23, **settings: object) -> list[str]:
    """The view's lines."""
    settings = {"color_system": None} | settings
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, **settings)  # type: ignore[arg-type]
    console.print(picture(now, width, height))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_the_view_of_80_columns() -> None:
    lines = drawn(snapshot(ended=[*ended(1, "diverged"), *ended(2)]))
    assert lines[0].rstrip() == "table1-small  31 of 80 finished, 2 running, 1 failed, 1 diverged"
    assert lines[1].strip("━╸╺ ").rstrip() == "42%  1 min 05 s, about 1 min 40 s left"
    assert [line.split() for line in lines[3:6]] == [
        ["running", "seed", "epoch", "time"],
        ["Amp", "epsilon=0.0", "0", "–/40", "12", "s"],
        ["Amp", "epsilon=0.1", "1", "1/40", "12", "s"],
    ]
    assert [line.split() for line in lines[7:]] == [
        ["last", "ended", "seed", "test", "error", "%", "NLL", "ECE", "%", "time"],
        ["Amp", "epsilon=0.0", "0", "diverged", "1.2", "s"],
        ["Amp", "epsilon=0.0", "0", "7.69", "0.2692", "1.98", "1.2", "s"],
        ["Amp", "epsilon=0.1", "1", "7.69", "0.2692", "1.98", "1.2", "s"],
    ]


@pytest.mark.parametrize("trials", [(0, 0), (2, 0), (0, 3), (2, 24), (64, 24)])
@pytest.mark.parametrize("size", [(120, 39), (80, 23), (80, 12), (60, 9), (40, 23), (20, 6), (80, 2)])
def test_it_fits(size: tuple[int, int], trials: tuple[int, int]) -> None:
    lines = drawn(snapshot(*trials), *size)
    assert max(map(len, lines)) <= size[0]
    assert len(lines) <= min(size[1], 24)
    assert lines[0].startswith("table1-small")
    assert size[0] < 40 or lines[1].rstrip().endswith("about 1 min 40 s left")


def test_the_less_room_the_less_of_the_tables() -> None:
    def heads(width: int) -> str:
        return "\n".join(drawn(snapshot(), width))

    assert "ECE %" in heads(80)
    assert "time" in heads(72)
    assert "time" not in heads(60).split("last ended")[1]
    assert "ECE %" not in heads(48)
    assert "test error %" in heads(40)
    assert "Amp epsi" in heads(30)


def test_what_has_no_room_is_counted() -> None:
    text = "\n".join(drawn(snapshot(64, 24)))
    shown = len(re.findall(r"[\d–]/40", text))
    assert shown >= 3
    assert f"and {64 - shown} more" in text
    assert text.count("7.69") >= 5


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = snapshot(ended=ended(1, "failed"))
    assert "\x1b[31m" in "".join(drawn(failed, color_system="standard"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[\d;]*3[0-7]", "".join(drawn(failed, color_system="standard")))


def test_a_line_of_a_log() -> None:
    assert line(snapshot()) == (
        "table1-small: 31 of 80 finished, 2 running, 1 failed, 1 diverged; 1 min 05 s, about 1 min 40 s left"
    )
    none_failed = {"pending": 80, "leased": 0, "finished": 0, "diverged": 0, "failed": 0}
    assert line(snapshot(count=none_failed, left=None)) == (
        "table1-small: 0 of 80 finished, 0 running; 1 min 05 s, time left not known yet"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"), (2 * 86_400, "2 d 00 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def make(log: io.StringIO) -> Iterator[Callable[..., Progress]]:
    """Makes a Progress that writes into ``log``; all are closed in the end."""
    made: list[Progress] = []

    def build(study: Study = STUDY, **more: object) -> Progress:
        given: dict[str, object] = {"states": ALL_PENDING, "work": WORK, "jobs": 2, "file": log}
        made.append(Progress(study, **(given | more)))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for one in made:
        one.close()


def records(*epochs: int, part: str = "test") -> list[EpochRecord]:
    """Written now, half a millisecond an epoch."""
    numbers = {f"{part}/error": 0.25, f"{part}/nll": 0.5, f"{part}/ece": 0.125, "epoch_seconds": 0.0005}
    return [EpochRecord(epoch, time.time_ns() // 1_000_000 + epoch, numbers) for epoch in epochs]


def test_a_trial_from_its_start_to_its_end(make: Callable[..., Progress]) -> None:
    progress = make()
    progress.started(FIRST)
    assert [trial.epoch for trial in progress.snapshot().running] == [0]
    progress.trained(FIRST, records(1, 2))
    progress.started(FIRST)  # as probes say it, again and again
    now = progress.snapshot()
    assert [(trial.label, trial.seed, trial.epoch, trial.epochs) for trial in now.running] == [("Erm", 0, 2, 3)]
    assert now.count["leased"] == 1
    assert now.share == pytest.approx(2 / 3 * SHARE_OF_FIRST)
    progress.trained(FIRST, records(3))
    progress.ended(FIRST, "finished")
    now = progress.snapshot()
    assert now.running == []
    assert now.count == {"pending": 5, "leased": 0, "finished": 1, "diverged": 0, "failed": 0}
    assert now.part == "test"
    assert now.ended == [EndedTrial("Erm", 0, "finished", 0.25, 0.5, 0.125, 3 * 0.0005)]
    assert now.share == pytest.approx(SHARE_OF_FIRST)


def test_a_search_trials_numbers_are_those_of_validation(make: Callable[..., Progress]) -> None:
    study = replace(STUDY, trials=[replace(trial, evaluate="val") for trial in STUDY.trials])
    first, states = study.trials[0].trial_id, dict.fromkeys([trial.trial_id for trial in study.trials], "pending")
    progress = make(study, states=states, work=expected_work(study.trials, Known([], peak=1e9)))
    progress.started(first)
    progress.trained(first, records(3, part="val"))
    progress.ended(first, "finished")
    assert progress.snapshot().part == "val"
    assert progress.snapshot().ended[0].nll == 0.5


def test_the_newest_is_first_and_old_ones_go(make: Callable[..., Progress], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "ENDED_KEPT", 2)
    progress = make()
    for trial_id in IDS[:3]:
        progress.started(trial_id)
        progress.ended(trial_id, "finished")
    assert [(trial.label, trial.seed) for trial in progress.snapshot().ended] == [("Erm", 1), ("Amp", 0)]


def test_a_failure_is_told_at_once_with_the_last_line_of_its_cause(
    make: Callable[..., Progress], log: io.StringIO
) -> None:
    progress = make()
    progress.started(SECOND)
    progress.ended(SECOND, "failed", "Traceback\n  somewhere\nValueError: no [bold]such[/] thing\n")
    assert log.getvalue() == f"Amp seed 0 failed (trial {SECOND}): ValueError: no [bold]such[/] thing\n"
    assert progress.snapshot().count["failed"] == 1


def test_of_many_failures_of_one_cause_three_are_told(make: Callable[..., Progress], log: io.StringIO) -> None:
    progress = make()
    for trial_id in IDS:
        progress.started(trial_id)
        progress.ended(trial_id, "failed", "ValueError: other" if trial_id == IDS[-1] else "ValueError: no")
    told = log.getvalue().splitlines()
    assert [line.split("ValueError: ")[1].split(" (")[0] for line in told] == ["no", "no", "no", "other"]
    assert "make status" in told[2]


def test_what_is_given_back_is_no_failure(make: Callable[..., Progress], log: io.StringIO) -> None:
    progress = make()
    progress.started(FIRST)
    progress.ended(FIRST, "pending", "stopped")
    assert progress.snapshot().count["pending"] == len(IDS)
    assert progress.snapshot().ended == []
    assert log.getvalue() == ""


def test_other_drivers_trials_are_counted(make: Callable[..., Progress]) -> None:
    progress = make()
    progress.started(FIRST)
    progress.show(ALL_PENDING | {SECOND: "leased", IDS[2]: "finished"})
    now = progress.snapshot()
    assert (now.count["leased"], now.count["finished"]) == (2, 1)
    assert [trial.label for trial in now.running] == ["Erm"]
    progress.show(ALL_PENDING | {SECOND: "finished", IDS[2]: "finished"})
    assert progress.snapshot().count["finished"] == 2


def test_an_answer_from_before_a_trial_ended_changes_nothing(make: Callable[..., Progress]) -> None:
    progress = make()
    progress.started(FIRST)
    asked_at = time.monotonic()
    progress.ended(FIRST, "finished")
    progress.show(ALL_PENDING | {FIRST: "leased"}, asked_at)
    assert progress.snapshot().count["finished"] == 1
    progress.show(ALL_PENDING, time.monotonic())
    assert progress.snapshot().count["finished"] == 0  # forgotten, say


def test_what_was_over_before_counts(make: Callable[..., Progress]) -> None:
    progress = make(states=ALL_PENDING | {FIRST: "finished", SECOND: "leased"})
    now = progress.snapshot()
    assert (now.count["finished"], now.count["leased"], now.running) == (1, 1, [])
    assert now.share == pytest.approx(SHARE_OF_FIRST)


def test_a_ledger_is_asked_now_and_then_and_may_fail(
    make: Callable[..., Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "SHOW_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(progress_module, "ASK_EVERY_SECONDS", 0.02)
    answers = iter([ALL_PENDING, None, ALL_PENDING | {FIRST: "finished"}])

    def ask() -> dict[str, State]:
        found = next(answers)
        if found is None:
            raise OSError("busy")
        return found

    progress = make(ask=ask)
    wait_for(lambda: progress.snapshot().count["finished"] == 1)


def test_a_log_gets_a_line_now_and_then_and_no_control_sequences(
    make: Callable[..., Progress], log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "SHOW_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.1)
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = make()
    began = time.monotonic()
    wait_for(lambda: log.getvalue().count("\n") >= 2)
    progress.close()
    took = time.monotonic() - began
    assert log.getvalue().count("\n") <= took / 0.1
    for told in log.getvalue().splitlines():
        assert re.fullmatch(r"toy: 0 of 6 finished, 0 running; 0 s, about \d+ s left", told)


class Terminal(NamedTuple):
    """text: what was written to it so far."""

    file: IO[str]
    text: Callable[[], str]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Of 80 × 24."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "TTY_INTERACTIVE": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TTY_INTERACTIVE")
    written = ""

    def read() -> str:
        nonlocal written
        with contextlib.suppress(BlockingIOError):
            written += os.read(master, 1 << 16).decode()
        return written

    with open(slave, "w", encoding="utf-8") as file:
        yield Terminal(file, read)
    os.close(master)


def test_a_terminal_gets_the_view_and_has_its_cursor_back(
    make: Callable[..., Progress], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "SHOW_EVERY_SECONDS", 0.01)
    progress = make(file=terminal.file)
    progress.started(FIRST)
    progress.note("a note that stays")
    wait_for(lambda: "Erm" in terminal.text())
    assert SHOW not in terminal.text()
    frames = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.text()).splitlines()
    assert max(map(len, frames)) == 78  # of 80: room for the echo of ^C
    progress.close()
    assert HIDE in terminal.text()
    assert terminal.text().rstrip("\r\n").rindex(SHOW) > terminal.text().rindex("toy")
    assert "a note that stays\r\n" in terminal.text()
    assert not progress._thread.is_alive()
    progress.close()  # as when a watchdog closes it as well


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    make: Callable[..., Progress], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress_module, "SHOW_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.02)
    make(file=terminal.file)
    wait_for(lambda: terminal.text().count("toy: 0 of 6 finished") >= 2)
    assert "\x1b" not in terminal.text()


def test_probes_have_no_epochs(make: Callable[..., Progress]) -> None:
    progress = make(work=dict.fromkeys(IDS, Work(0, 0.0, ("probes",))), name="toy (probes)")
    progress.started(FIRST)
    progress.started(FIRST)
    now = progress.snapshot()
    assert (now.name, now.running[0].epochs, now.left) == ("toy (probes)", 0, None)
    assert "0/0" not in "".join(drawn(now))
    progress.ended(FIRST, "finished")
    assert progress.snapshot().share == pytest.approx(1 / 6)
