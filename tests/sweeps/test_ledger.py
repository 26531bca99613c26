"""The ledger's contract, on each kind of database that it may lie in."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sql
from sqlalchemy.engine import URL

from sweeps import ledger as ledger_module
from sweeps.ledger import Ledger, LedgerRow, State
from tests.sweeps.conftest import lapsing, make_study, make_trial, wait_for
from trainer.config import TrialConfig
from trainer.declaration import ConfigError

ROOT = Path(__file__).parents[2]
STUDY = make_study()
TRIALS = STUDY.trials
IDS = [trial.trial_id for trial in TRIALS]
A, B = "driver-a", "driver-b"


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    ledger = Ledger(ledger_url)
    ledger.declare("toy", TRIALS)
    yield ledger
    ledger.close()


def states(ledger: Ledger) -> list[State]:
    rows = ledger.rows(IDS)
    return [rows[trial_id].state for trial_id in IDS]


def take(ledger: Ledger, trial_id: str, owner: str = A) -> LedgerRow:
    row = ledger.lease([trial_id], owner, "toy")
    assert row is not None
    return row


def settled(ledger: Ledger, trial_id: str, state: State, cause: str | None = None) -> None:
    take(ledger, trial_id)
    assert ledger.settle(trial_id, A, state, cause)


def test_what_is_declared_is_pending_and_reads_back(ledger: Ledger) -> None:
    assert states(ledger) == ["pending"] * 4
    row = ledger.rows(IDS)[IDS[1]]
    assert (row.study, row.owner, row.lease_until, row.cause) == ("toy", None, None, None)
    assert TrialConfig.from_params(json.loads(row.params)) == TRIALS[1]


def test_rows_have_only_what_was_asked_for_and_is_there(ledger: Ledger) -> None:
    assert set(ledger.rows([IDS[0], "unknown"])) == {IDS[0]}
    assert ledger.rows([]) == {}


def test_declaring_again_changes_nothing(ledger: Ledger) -> None:
    settled(ledger, IDS[0], "finished")
    settled(ledger, IDS[1], "failed", "out of memory")
    take(ledger, IDS[2])
    before = ledger.rows(IDS)
    ledger.declare("another", TRIALS)
    assert ledger.rows(IDS) == before


def test_declaring_more_adds_them(ledger: Ledger) -> None:
    more = make_trial(seed=99)
    ledger.declare("toy", (*TRIALS, more))
    assert ledger.rows([more.trial_id])[more.trial_id].state == "pending"


def test_it_outlives_the_object(ledger: Ledger, ledger_url: str) -> None:
    settled(ledger, IDS[0], "finished")
    again = Ledger(ledger_url)
    assert states(again) == ["finished", "pending", "pending", "pending"]
    again.close()


def test_leases_come_in_the_order_asked_for(ledger: Ledger) -> None:
    order = [IDS[2], IDS[0], IDS[3], IDS[1]]
    assert [take_any(ledger, order) for _ in IDS] == order
    assert take_any(ledger, order) is None


def take_any(ledger: Ledger, ids: list[str], owner: str = A, study: str = "toy") -> str | None:
    row = ledger.lease(ids, owner, study)
    return None if row is None else row.trial_id


def test_a_lease_says_what_it_is(ledger: Ledger) -> None:
    row = ledger.lease(IDS, A, "another")
    assert row is not None
    assert (row.trial_id, row.state, row.owner, row.study) == (IDS[0], "leased", A, "another")
    assert row == ledger.rows(IDS)[IDS[0]]


def test_a_leased_trial_is_nobody_elses(ledger: Ledger) -> None:
    take(ledger, IDS[0])
    for owner in (A, B):
        assert take_any(ledger, IDS[:1], owner) is None
    assert take_any(ledger, IDS, B) == IDS[1]
    assert (ledger.holds(IDS[0], A), ledger.holds(IDS[0], B)) == (True, False)
    assert (ledger.holds(IDS[1], A), ledger.holds(IDS[1], B)) == (False, True)


def test_an_undeclared_trial_cannot_be_leased(ledger: Ledger) -> None:
    assert take_any(ledger, ["unknown"]) is None


@pytest.mark.parametrize("state", ["finished", "diverged", "failed"])
def test_settled_is_settled(ledger: Ledger, state: State) -> None:
    settled(ledger, IDS[0], state, "because")
    row = ledger.rows(IDS)[IDS[0]]
    assert (row.state, row.cause, row.owner, row.lease_until) == (state, "because", None, None)
    assert not ledger.holds(IDS[0], A)
    assert not ledger.settle(IDS[0], A, "pending")
    assert ledger.rows(IDS)[IDS[0]] == row
    for owner, study in ((A, "toy"), (B, "another")):
        assert take_any(ledger, IDS[:1], owner, study) is None


def test_settling_as_pending_gives_the_trial_back(ledger: Ledger) -> None:
    settled(ledger, IDS[0], "pending")
    assert take_any(ledger, IDS, B) == IDS[0]


def test_a_new_lease_forgets_the_old_cause(ledger: Ledger) -> None:
    settled(ledger, IDS[0], "pending", "its worker was lost")
    assert take(ledger, IDS[0]).cause is None


def test_only_the_owner_may_settle(ledger: Ledger) -> None:
    row = take(ledger, IDS[0])
    assert not ledger.settle(IDS[0], B, "finished")
    assert not ledger.settle(IDS[1], A, "finished")
    assert ledger.rows(IDS)[IDS[0]] == row


def test_a_finished_trial_stays_so_for_a_study_that_declares_it_later(ledger: Ledger) -> None:
    settled(ledger, IDS[0], "finished")
    ledger.declare("later", TRIALS)
    assert take_any(ledger, IDS, B, "later") == IDS[1]
    assert ledger.rows(IDS)[IDS[0]].study == "toy"
    assert ledger.rows(IDS)[IDS[1]].study == "later"


def test_a_lapsed_lease_shows_as_pending(ledger: Ledger) -> None:
    with lapsing():
        take(ledger, IDS[0])
    assert states(ledger)[0] == "pending"
    assert not ledger.holds(IDS[0], A)


def test_a_lapsed_lease_can_be_neither_renewed_nor_settled(ledger: Ledger) -> None:
    with lapsing():
        take(ledger, IDS[0])
    before = ledger.rows(IDS)
    ledger.renew(A)
    assert not ledger.settle(IDS[0], A, "finished")
    assert ledger.rows(IDS) == before


def test_a_lapsed_lease_goes_to_whoever_asks_and_its_former_owner_is_refused(ledger: Ledger) -> None:
    with lapsing():
        take(ledger, IDS[0], A)
    taken = take(ledger, IDS[0], B)
    assert (taken.owner, taken.state) == (B, "leased")
    outcomes: tuple[State, ...] = ("finished", "failed", "pending")
    assert [ledger.settle(IDS[0], A, state, "too late") for state in outcomes] == [False] * 3
    ledger.renew(A)
    ledger.release(A)
    assert ledger.rows(IDS)[IDS[0]] == taken
    assert ledger.settle(IDS[0], B, "finished")


def test_a_lease_lapses_by_itself_unless_renewed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "LEASE_SECONDS", 0.5)
    take(ledger, IDS[0], A)
    take(ledger, IDS[1], B)
    monkeypatch.setattr(ledger_module, "LEASE_SECONDS", 60.0)
    ledger.renew(A)
    wait_for(lambda: states(ledger)[1] == "pending")
    assert ledger.holds(IDS[0], A)


class Relay:
    """A way to the PostgreSQL of the tests that can be cut, with all connections, and mended at the same address."""

    def __init__(self, server: URL) -> None:
        folder, port = server.query.get("host"), server.port or 5432
        self._server = f"{folder}/.s.PGSQL.{port}" if folder else (server.host or "localhost", port)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.url = server.set(host="127.0.0.1", port=self._port, query={})
        self.mend()

    def mend(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self._port))
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._let_in, args=(self._door,), daemon=True).start()

    def cut(self) -> None:
        for end in (self._door, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _let_in(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = door.accept()
                there = socket.socket(socket.AF_UNIX if isinstance(self._server, str) else socket.AF_INET)
                there.connect(self._server)
                self._ends += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(65536):
                other.sendall(content)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(ledger: Ledger) -> Iterator[Relay]:
    if ledger._engine.dialect.name != "postgresql":
        pytest.skip("a file is not started anew")
    relay = Relay(ledger._engine.url)
    yield relay
    relay.cut()


def test_a_server_that_is_started_anew_is_waited_for(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(relay.url.render_as_string(hide_password=False))
    take(ledger, IDS[0])
    relay.cut()
    threading.Timer(1.0, relay.mend).start()
    assert ledger.holds(IDS[0], A)
    assert ledger.settle(IDS[0], A, "finished")
    relay.cut()
    monkeypatch.setattr(ledger_module, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(sql.exc.OperationalError):
        ledger.rows(IDS)
    relay.mend()
    assert states(ledger) == ["finished", "pending", "pending", "pending"]
    ledger.close()


def test_renewing_prolongs_all_of_the_owners_leases_and_no_others(ledger: Ledger) -> None:
    before = [take(ledger, IDS[0], A), take(ledger, IDS[1], A), take(ledger, IDS[2], B)]

    def renewed() -> bool:  # not at once: a clock counts milliseconds
        ledger.renew(A)
        return ledger.rows(IDS)[IDS[0]].lease_until != before[0].lease_until

    wait_for(renewed)
    after = ledger.rows(IDS)
    prolonged = [(after[row.trial_id].lease_until or 0) > (row.lease_until or 0) for row in before]
    assert prolonged == [True, True, False]


def test_release_gives_back_what_the_owner_holds(ledger: Ledger) -> None:
    settled(ledger, IDS[0], "finished")
    take(ledger, IDS[1], A)
    take(ledger, IDS[2], B)
    ledger.release(A)
    assert states(ledger) == ["finished", "pending", "leased", "pending"]
    assert not ledger.settle(IDS[1], A, "finished")


def test_retry_failed_takes_up_failed_trials_alone(ledger: Ledger) -> None:
    outcomes: tuple[State, ...] = ("finished", "diverged", "failed", "failed")
    for trial_id, state in zip(IDS, outcomes, strict=True):
        settled(ledger, trial_id, state, "because")
    ledger.retry_failed(IDS[:3])
    assert states(ledger) == ["finished", "diverged", "pending", "failed"]
    rows = ledger.rows(IDS)
    assert [rows[trial_id].cause for trial_id in IDS] == ["because", "because", None, "because"]
    assert take_any(ledger, IDS, B) == IDS[2]
    assert take_any(ledger, IDS, B) is None


def test_retry_failed_leaves_a_running_trial_alone(ledger: Ledger) -> None:
    row = take(ledger, IDS[0])
    ledger.retry_failed(IDS)
    assert ledger.rows(IDS)[IDS[0]] == row


def test_the_first_run_claimed_stays(ledger: Ledger) -> None:
    assert ledger.claim_run("toy", "key", "run-1") == "run-1"
    assert ledger.claim_run("toy", "key", "run-2") == "run-1"
    assert ledger.claim_run("another", "key", "run-3") == "run-3"
    assert ledger.run_ids("toy") == {"key": "run-1"}
    assert ledger.run_ids("nobody") == {}


def test_a_claim_replaces_the_stale_run_and_no_other(ledger: Ledger) -> None:
    ledger.claim_run("toy", "key", "stale")
    ledger.claim_run("toy", "other", "stale")
    assert ledger.claim_run("toy", "key", "new", instead_of="unknown") == "stale"
    assert ledger.claim_run("toy", "key", "new", instead_of="stale") == "new"
    assert ledger.claim_run("toy", "key", "newer", instead_of="stale") == "new"
    assert ledger.run_ids("toy") == {"key": "new", "other": "stale"}


def test_more_ids_than_one_statement_takes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "CHUNK", 3)
    assert set(ledger.rows(IDS)) == set(IDS)
    backwards = IDS[::-1]
    assert [take_any(ledger, backwards) for _ in IDS] == backwards
    for trial_id in IDS:
        assert ledger.settle(trial_id, A, "failed")
    ledger.retry_failed(IDS)
    assert states(ledger) == ["pending"] * 4


def test_more_ids_than_sqlite_has_variables(ledger: Ledger) -> None:
    many = [f"{number:016x}" for number in range(40_000)] + IDS
    assert set(ledger.rows(many)) == set(IDS)
    assert take_any(ledger, many) == IDS[0]


def test_threads_that_race_train_each_trial_once(ledger_url: str) -> None:
    trials = tuple(make_trial(seed) for seed in range(50))
    ids = [trial.trial_id for trial in trials]
    start = threading.Barrier(6)

    def driver(number: int) -> list[str]:
        start.wait()
        ledger = Ledger(ledger_url)  # the file does not exist yet: making the tables is part of the race
        ledger.declare("toy", trials)
        leased = drain(ledger, ids, f"driver-{number}")
        ledger.close()
        return leased

    with ThreadPoolExecutor(6) as pool:
        leased = [trial_id for found in pool.map(driver, range(6)) for trial_id in found]
    assert sorted(leased) == sorted(ids)


def drain(ledger: Ledger, ids: list[str], owner: str) -> list[str]:
    """Lease and finish all that is left; what this owner got is returned."""
    mine = []
    while (trial_id := take_any(ledger, ids, owner)) is not None:
        assert ledger.settle(trial_id, owner, "finished")
        mine.append(trial_id)
    return mine


PROCESS = """
import sys
from sweeps.ledger import Ledger
ledger, owner, ids = Ledger(sys.argv[1]), sys.argv[2], sys.argv[3:]
print("ready", flush=True)
sys.stdin.readline()
while row := ledger.lease(ids, owner, "toy"):
    print(row.trial_id)
"""


def test_processes_that_race_train_each_trial_once(ledger: Ledger, ledger_url: str) -> None:
    trials = tuple(make_trial(seed) for seed in range(50))
    ids = [trial.trial_id for trial in trials]
    ledger.declare("toy", trials)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, ledger_url, owner, *ids],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for owner in (A, B)
    ]
    for driver in drivers:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write("go\n")
        driver.stdin.flush()
    leased = [driver.communicate(timeout=20)[0].split() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert sorted(leased[0] + leased[1]) == sorted(ids)
    owners = {row.trial_id: row.owner for row in ledger.rows(ids).values()}
    assert owners == dict.fromkeys(leased[0], A) | dict.fromkeys(leased[1], B)


def refusal(url: str) -> str:
    with pytest.raises(ConfigError) as error:
        Ledger(url)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}")
    assert str(tmp_path / "file" / "ledger.db") in message
    assert "unable to open database file" in message


def test_an_address_that_is_none_is_refused_without_its_password() -> None:
    message = refusal("postgresql+psycopg://user:hunter2/3@db.example:port/ledger")
    assert "hunter2" not in message
    assert message.startswith("ledger postgresql+psycopg://user:***@db.example:port/ledger: ")
    assert "its address" not in refusal("no address")


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.write_text("my diary\n" * 100)
    assert "not a database" in refusal(f"sqlite:///{file}")
    assert file.read_text() == "my diary\n" * 100


def test_another_version_is_refused_and_left_as_it_is(ledger_url: str) -> None:
    Ledger(ledger_url).close()
    engine = sql.create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE ledger_version SET version = 99"))
    message = refusal(ledger_url)
    assert "99" in message
    assert str(ledger_module.SCHEMA_VERSION) in message
    with engine.connect() as connection:
        assert connection.execute(sql.text("SELECT version FROM ledger_version")).scalars().all() == [99]
    engine.dispose()


@pytest.mark.parametrize("url", ["results/ledger.db", "oracle-of-delphi://x/y", "sqlite://host/path"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    refusal(url)


def test_a_database_whose_driver_is_not_installed_is_refused() -> None:
    drivers = [name for name in ("pg8000", "psycopg2", "psycopg") if importlib.util.find_spec(name) is None]
    if not drivers:
        pytest.skip("all of them are installed")
    message = refusal(f"postgresql+{drivers[0]}://user:hunter2@127.0.0.1:9/ledger")
    assert drivers[0] in message
    assert "hunter2" not in message


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_password_is_never_shown(driver: str) -> None:
    if importlib.util.find_spec(driver) is None:
        pytest.skip(f"{driver} is not installed")
    message = refusal(f"postgresql+{driver}://user:hunter2@127.0.0.1:9/ledger")
    assert "hunter2" not in message
    assert "127.0.0.1:9" in message


def test_all_trials_by_the_study_that_trains_them(ledger: Ledger) -> None:
    more = make_trial(seed=99)
    ledger.declare("later", (*TRIALS, more))
    settled(ledger, IDS[0], "finished")
    assert ledger.lease(IDS[1:2], A, "later")
    found = ledger.studies()
    assert {study: {row.trial_id for row in rows} for study, rows in found.items()} == {
        "toy": {IDS[0], *IDS[2:]},
        "later": {IDS[1], more.trial_id},
    }
    assert {row.trial_id: row for rows in found.values() for row in rows} == ledger.rows([*IDS, more.trial_id])


def test_runs_are_found_by_study_and_by_trial(ledger: Ledger) -> None:
    for study, key, run in (("toy", "a", "1"), ("toy", "b", "2"), ("later", "a", "3")):
        ledger.claim_run(study, key, run)
    assert ledger.shown_by() == {"toy": {"a", "b"}, "later": {"a"}}
    assert sorted(ledger.runs_of("a")) == ["1", "3"]
    assert ledger.runs_of("c") == []


@pytest.mark.parametrize("state", ["pending", "finished", "diverged", "failed"])
def test_what_nobody_trains_can_be_taken_and_forgotten(ledger: Ledger, state: State) -> None:
    settled(ledger, IDS[0], state)
    ledger.claim_run("toy", IDS[0], "run")
    ledger.claim_run("toy", IDS[1], "other")
    assert not ledger.forget(IDS[0], A)
    assert ledger.take(IDS[0], A)
    assert take_any(ledger, IDS[:1], B) is None
    assert not ledger.forget(IDS[0], B)
    assert ledger.forget(IDS[0], A)
    assert set(ledger.rows(IDS)) == set(IDS[1:])
    assert ledger.run_ids("toy") == {IDS[1]: "other"}
    ledger.declare("toy", TRIALS)
    assert states(ledger) == ["pending"] * 4


def test_what_somebody_trains_cannot_be_taken(ledger: Ledger) -> None:
    row = take(ledger, IDS[0])
    assert not ledger.take(IDS[0], B)
    assert ledger.rows(IDS)[IDS[0]] == row
    with lapsing():
        take(ledger, IDS[1])
    assert ledger.take(IDS[1], B)


def test_what_was_taken_and_not_forgotten_is_trained_again(ledger: Ledger) -> None:
    take(ledger, IDS[0])
    assert ledger.settle(IDS[0], A, "failed", "because", failure="bug")
    with lapsing():
        assert ledger.take(IDS[0], B)
    assert not ledger.forget(IDS[0], B)
    assert take(ledger, IDS[0]).failure is None


def test_one_at_a_time_is_alone(ledger: Ledger) -> None:
    inside, most = 0, 0

    def enter(owner: str) -> None:
        nonlocal inside, most
        for _ in range(10):
            with ledger.alone("asking", owner):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, "abcd"))
    assert most == 1


def test_others_are_not_waited_for_under_another_name_or_when_they_were_killed(ledger: Ledger) -> None:
    with ledger.alone("one", A), ledger.alone("other", B):
        pass
    with lapsing(), ledger.alone("one", A), ledger.alone("one", B):
        pass  # B did not wait for ever for A
