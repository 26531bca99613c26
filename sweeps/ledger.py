"""The ledger: which trials exist, who trains them and what is finished. It alone says so; MLflow is for people.

A trial is leased before it runs, on the database's clock, and the lease is renewed by a heartbeat. A lapsed lease can
be taken by any other driver, and what its former owner then says of the trial is refused. A trial is keyed by its
``trial_id``, so a finished one is never trained again, whatever study or process asks.
"""

from __future__ import annotations

import contextlib
import difflib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateTable

from trainer.config import TrialConfig, canonical_json
from trainer.declaration import ConfigError
from trainer.passwords import hide_passwords
from trainer.records import GpuMemory

State = Literal["pending", "leased", "finished", "diverged", "failed"]
OVER: frozenset[State] = frozenset({"finished", "diverged"})
"""Outcomes that stand: such a trial is never trained again."""

Failure = Literal["out_of_memory", "lost_worker", "bug"]
"""Why a trial failed. One that is pending with ``out_of_memory`` ran out of it once: the second pass is for it."""

LEASE_SECONDS = 15.0
"""Longer than Ray's workers outlive a killed driver (3 to 6 s), so that a lapsed lease has no trainer any more."""
PATIENCE_SECONDS = 60.0
"""With a PostgreSQL that was there and is not: as long as it takes to be started anew."""

SCHEMA_VERSION = 1
CREATION_LOCK = 20210625  # any number that nobody else locks
CHUNK = 10_000  # ids in one statement: SQLite takes 32,766 variables

_schema = sql.MetaData()
_version = sql.Table("ledger_version", _schema, sql.Column("version", sql.Integer, primary_key=True))
_trials = sql.Table(
    "trials",
    _schema,
    sql.Column("trial_id", sql.String(16), primary_key=True),
    sql.Column("params", sql.Text, nullable=False),
    sql.Column("study", sql.String(64), nullable=False),
    sql.Column("state", sql.String(16), nullable=False),
    sql.Column("owner", sql.String(64)),
    sql.Column("lease_until", sql.Float),
    sql.Column("cause", sql.Text),
)
_runs = sql.Table(
    "mlflow_runs",
    _schema,
    sql.Column("study", sql.String(64), primary_key=True),
    sql.Column("key", sql.String(32), primary_key=True),
    sql.Column("run_id", sql.String(64), nullable=False),
)
_measured = sql.Table(  # came later: a ledger from before it has none of its rows, which means: not measured
    "measured",
    _schema,
    sql.Column("trial_id", sql.String(16), primary_key=True),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("hardware", sql.String(128), nullable=False),
    sql.Column("passes", sql.Float, nullable=False),
    sql.Column("epoch_seconds", sql.Float, nullable=False),
    sql.Column("checkpoint_bytes", sql.BigInteger),
    sql.Column("error", sql.Float),
    sql.Column("nll", sql.Float),
)

_failures = sql.Table(  # came later, likewise: a trial that failed before it is of no class
    "failures",
    _schema,
    sql.Column("trial_id", sql.String(16), primary_key=True),
    sql.Column("failure", sql.String(16), nullable=False),
)
_gpu_memory = sql.Table(  # came later, likewise
    "gpu_memory",
    _schema,
    sql.Column("kind", sql.String(16), primary_key=True),
    sql.Column("hardware", sql.String(128), primary_key=True),
    sql.Column("taken_bytes", sql.BigInteger, nullable=False),
    sql.Column("gpu_bytes", sql.BigInteger, nullable=False),
)
_locks = sql.Table(  # came later, likewise
    "locks",
    _schema,
    sql.Column("name", sql.String(128), primary_key=True),
    sql.Column("owner", sql.String(64), nullable=False),
    sql.Column("until", sql.Float, nullable=False),
)


class _Now(sql.sql.functions.GenericFunction[float]):
    """Seconds since 1970 on the database's clock, with fractions."""

    name = "now_seconds"
    type = sql.Float()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _sqlite_now(_element: _Now, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _postgresql_now(_element: _Now, _compiler: Any, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A trial as the ledger has it. study: the one that trains it. cause: why it failed or diverged.

    failure: the class of that; None where it did not fail, or did before ledgers kept classes.
    """

    trial_id: str
    params: str
    study: str
    state: State
    owner: str | None
    lease_until: float | None
    cause: str | None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a finished trial took and came to, for plans of trials to come.

    kind: of trials whose epochs take equally long, ``passes`` aside (see ``sweeps.cost.estimate``). hardware: what it
    ran on. epoch_seconds: the median. error (a fraction), nll: at the last epoch, on what the trial is evaluated on.
    """

    kind: str
    hardware: str
    passes: float
    epoch_seconds: float
    checkpoint_bytes: int | None
    error: float | None
    nll: float | None


class Ledger:
    """The ledger at a database URL (SQLite or PostgreSQL); may be used from several threads.

    Raises ConfigError, one line, when the database cannot be opened or is of another version.
    """

    def __init__(self, url: str) -> None:
        self._where = hide_passwords(url)
        with self._errors_in_one_line():
            waiting = {"timeout": 30.0} if url.startswith("sqlite") else {}
            self._engine = sql.create_engine(url, connect_args=waiting, pool_pre_ping=True)
            try:
                self._create()
            except BaseException:
                self.close()
                raise

    def _create(self) -> None:
        with self._engine.begin() as connection:
            if self._engine.dialect.name == "postgresql":  # whose IF NOT EXISTS fails when two make a table at a time
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(CREATION_LOCK)))
            for table in _schema.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
            found = connection.scalar(sql.select(_version.c.version))
            if found is None:
                connection.execute(self._insert(_version).values(version=SCHEMA_VERSION).on_conflict_do_nothing())
            elif found != SCHEMA_VERSION:
                raise ConfigError(f"ledger {self._where}: has schema {found}, this code needs {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, ImportError, ValueError) as error:  # ValueError: a port that is none
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise ConfigError(f"ledger {self._where}: {cause}") from error

    def _insert(self, table: sql.Table) -> Any:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _connected(self) -> sql.Connection:
        """A connection. A server that is being started anew is waited for: hours of training hang on it."""
        end = time.monotonic() + (PATIENCE_SECONDS if self._engine.dialect.name == "postgresql" else 0.0)
        while True:
            try:
                return self._engine.connect()
            except OperationalError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    @contextlib.contextmanager
    def _begun(self) -> Iterator[sql.Connection]:
        """A transaction, which is in the database once this is left without an error."""
        with self._connected() as connection, connection.begin():
            yield connection

    def declare(self, study: str, trials: Iterable[TrialConfig]) -> None:
        """Enter the trials that nobody declared before, as pending; those that exist stay as they are."""
        rows = [
            {"trial_id": trial.trial_id, "params": canonical_json(trial.params()), "study": study, "state": "pending"}
            for trial in trials
        ]
        with self._begun() as connection:
            connection.execute(self._insert(_trials).on_conflict_do_nothing(), rows)

    def admit(self, known: Iterable[tuple[LedgerRow, Measured | None]]) -> set[str]:
        """Enter trials as another ledger has them, all or none of them; ids of those whose state is now that one.

        An outcome that stands here stays, and what somebody has leased is left alone; else an outcome beats a failure,
        and this beats what was not tried.
        """
        with self._begun() as connection:
            return {row.trial_id for row, measured in known if self._admit(connection, row, measured)}

    def _admit(self, connection: sql.Connection, row: LedgerRow, measured: Measured | None) -> bool:
        state = {"params": row.params, "study": row.study, "state": row.state, "cause": row.cause}
        insert = self._insert(_trials).values(trial_id=row.trial_id, **state).on_conflict_do_nothing()
        new = connection.scalar(insert.returning(_trials.c.trial_id))  # psycopg counts no rows of an insert
        beaten = sql.update(_trials).where(_trials.c.trial_id == row.trial_id, _is_beaten_by(row.state))
        update = beaten.values(**state, owner=None, lease_until=None)
        if new is None and connection.execute(update).rowcount == 0:
            return False
        connection.execute(sql.delete(_failures).where(_failures.c.trial_id == row.trial_id))
        if row.failure is not None:
            self._keep(connection, _failures, row.trial_id, {"failure": row.failure})
        if measured is not None:
            self._keep(connection, _measured, row.trial_id, asdict(measured))
        return True

    def retry_failed(self, trial_ids: Sequence[str]) -> None:
        """Make failed trials pending again. Those that diverged stay: they would diverge again."""
        with self._begun() as connection:
            for ids in _chunks(trial_ids):
                failed = _trials.c.trial_id.in_(ids) & (_trials.c.state == "failed")
                those = sql.select(_trials.c.trial_id).where(failed)
                connection.execute(sql.delete(_failures).where(_failures.c.trial_id.in_(those)))
                connection.execute(sql.update(_trials).where(failed).values(state="pending", cause=None))

    def lease(self, trial_ids: Sequence[str], owner: str, study: str, second_pass: bool = False) -> LedgerRow | None:
        """Take, for ``study``, the first of ``trial_ids`` that is pending, or leased and lapsed; None when none is.

        second_pass: of those that ran out of memory once, else of the others.
        """
        for trial_id in self._available(trial_ids, second_pass):
            available = _is_available() & _is_for(second_pass)
            taken = sql.update(_trials).where(_trials.c.trial_id == trial_id, available)
            with self._begun() as connection:
                lease = {"state": "leased", "owner": owner, "lease_until": _Now() + LEASE_SECONDS}
                if connection.execute(taken.values(lease | {"study": study, "cause": None})).rowcount == 1:
                    return self._row(connection, trial_id)
        return None

    def _available(self, trial_ids: Sequence[str], second_pass: bool) -> list[str]:
        available: set[str] = set()
        with self._connected() as connection:
            for ids in _chunks(trial_ids):
                here = _trials.c.trial_id.in_(ids) & _is_for(second_pass)
                query = sql.select(_trials.c.trial_id).where(here, _is_available())
                available.update(connection.scalars(query))
        return [trial_id for trial_id in trial_ids if trial_id in available]

    def renew(self, owner: str) -> None:
        """The heartbeat: prolong the leases of ``owner`` that have not lapsed."""
        with self._begun() as connection:
            mine = sql.update(_trials).where(_is_held_by(owner))
            connection.execute(mine.values(lease_until=_Now() + LEASE_SECONDS))

    def holds(self, trial_id: str, owner: str) -> bool:
        """Whether ``owner`` has a lease on the trial that has not lapsed."""
        with self._connected() as connection:
            query = sql.select(_trials.c.trial_id).where(_trials.c.trial_id == trial_id, _is_held_by(owner))
            return connection.scalar(query) is not None

    def settle(
        self,
        trial_id: str,
        owner: str,
        state: State,
        cause: str | None = None,
        measured: Measured | None = None,
        failure: Failure | None = None,
    ) -> bool:
        """End a lease with an outcome (``pending`` gives the trial back); False, and no change, when it had lapsed.

        measured, failure: kept with the outcome.
        """
        with self._begun() as connection:
            mine = sql.update(_trials).where(_trials.c.trial_id == trial_id, _is_held_by(owner))
            outcome = {"state": state, "cause": cause, "owner": None, "lease_until": None}
            held = connection.execute(mine.values(outcome)).rowcount == 1
            if held and measured is not None:
                self._keep(connection, _measured, trial_id, asdict(measured))
            if held and failure is not None:
                self._keep(connection, _failures, trial_id, {"failure": failure})
            elif held and state != "pending":
                connection.execute(sql.delete(_failures).where(_failures.c.trial_id == trial_id))
            return held

    def _keep(self, connection: sql.Connection, table: sql.Table, trial_id: str, values: dict[str, Any]) -> None:
        insert = self._insert(table).values(trial_id=trial_id, **values)
        connection.execute(insert.on_conflict_do_update(index_elements=["trial_id"], set_=values))

    def measured(self, trial_ids: Sequence[str]) -> dict[str, Measured]:
        """What was measured of the trials, by id."""
        found: dict[str, Measured] = {}
        with self._connected() as connection:
            for ids in _chunks(trial_ids):
                for row in connection.execute(sql.select(_measured).where(_measured.c.trial_id.in_(ids))):
                    found[row.trial_id] = Measured(*row[1:])
        return found

    def measured_kinds(self, kinds: Sequence[str], hardware: str | None) -> list[Measured]:
        """All that was measured of trials of these kinds on this hardware, or on any, whatever study they were of."""
        found: list[Measured] = []
        with self._connected() as connection:
            for some in _chunks(kinds):
                alike = sql.select(_measured).where(_measured.c.kind.in_(some))
                there = alike if hardware is None else alike.where(_measured.c.hardware == hardware)
                found.extend(Measured(*row[1:]) for row in connection.execute(there))
        return found

    def keep_gpu_memory(self, kind: str, hardware: str, memory: GpuMemory) -> None:
        """What a trial of this kind took on this hardware; the last one measured stands."""
        insert = self._insert(_gpu_memory).values(kind=kind, hardware=hardware, **asdict(memory))
        with self._begun() as connection:
            connection.execute(insert.on_conflict_do_update(index_elements=["kind", "hardware"], set_=asdict(memory)))

    def gpu_memory(self, kinds: Sequence[str], hardware: str) -> dict[str, GpuMemory]:
        """What trials of these kinds took on this hardware, by kind; without those that were not measured there."""
        found: dict[str, GpuMemory] = {}
        with self._connected() as connection:
            for some in _chunks(kinds):
                here = _gpu_memory.c.kind.in_(some) & (_gpu_memory.c.hardware == hardware)
                for row in connection.execute(sql.select(_gpu_memory).where(here)):
                    found[row.kind] = GpuMemory(row.taken_bytes, row.gpu_bytes)
        return found

    @contextlib.contextmanager
    def alone(self, name: str, owner: str) -> Iterator[None]:
        """Wait until nobody else is in here under this name. Whoever was killed in here is waited for a lease long."""
        while not self._lock(name, owner):
            time.sleep(0.02)
        try:
            yield
        finally:
            with self._begun() as connection:
                mine = (_locks.c.name == name) & (_locks.c.owner == owner)
                connection.execute(sql.delete(_locks).where(mine))

    def _lock(self, name: str, owner: str) -> bool:
        held = {"owner": owner, "until": _Now() + LEASE_SECONDS}
        insert = self._insert(_locks).values(name=name, **held)
        lapsed = _locks.c.until < _Now()
        with self._begun() as connection:
            taking = insert.on_conflict_do_update(index_elements=["name"], set_=held, where=lapsed)
            return connection.scalar(taking.returning(_locks.c.name)) is not None  # psycopg counts no rows of an insert

    def release(self, owner: str) -> None:
        """Give back whatever ``owner`` still holds."""
        with self._begun() as connection:
            mine = sql.update(_trials).where(_trials.c.state == "leased", _trials.c.owner == owner)
            connection.execute(mine.values(state="pending", owner=None, lease_until=None))

    def rows(self, trial_ids: Sequence[str]) -> dict[str, LedgerRow]:
        """The trials that the ledger has of ``trial_ids``, by id. A lapsed lease shows as pending."""
        found: dict[str, LedgerRow] = {}
        with self._connected() as connection:
            for ids in _chunks(trial_ids):
                for row in connection.execute(_select_rows().where(_trials.c.trial_id.in_(ids))):
                    found[row.trial_id] = LedgerRow(*row)
        return found

    def find(self, trial_id: str) -> LedgerRow:
        """The trial of this id. Raises ConfigError, one line with the nearest ids, when there is none."""
        row = self.rows([trial_id]).get(trial_id)
        if row is None:
            with self._connected() as connection:
                known = list(connection.scalars(sql.select(_trials.c.trial_id)))
            nearest = sorted(difflib.get_close_matches(trial_id, known, n=3, cutoff=0.4))
            raise ConfigError(f"no trial {trial_id!r} in the ledger. Nearest: {', '.join(nearest) or 'none'}")
        return row

    def studies(self) -> dict[str, list[LedgerRow]]:
        """All trials, by the study that trains them, or declared them first."""
        found: dict[str, list[LedgerRow]] = {}
        with self._connected() as connection:
            for row in connection.execute(_select_rows().order_by(_trials.c.study, _trials.c.trial_id)):
                found.setdefault(row.study, []).append(LedgerRow(*row))
        return found

    def take(self, trial_id: str, owner: str) -> bool:
        """Lease a trial of whatever state to have it forgotten; False when somebody has a lease on it.

        Once the lease lapses the trial is one to be trained again.
        """
        lapsed_or_none = (_trials.c.state != "leased") | (_trials.c.lease_until < _Now())
        with self._begun() as connection:
            free = sql.update(_trials).where(_trials.c.trial_id == trial_id, lapsed_or_none)
            lease = {"state": "leased", "owner": owner, "lease_until": _Now() + LEASE_SECONDS, "cause": None}
            taken = connection.execute(free.values(lease)).rowcount == 1
            if taken:
                connection.execute(sql.delete(_failures).where(_failures.c.trial_id == trial_id))
            return taken

    def forget(self, trial_id: str, owner: str) -> bool:
        """Remove all that is known of a trial on which ``owner`` has a lease; False, and no change, when it lapsed."""
        with self._begun() as connection:
            mine = sql.delete(_trials).where(_trials.c.trial_id == trial_id, _is_held_by(owner))
            held = connection.execute(mine).rowcount == 1
            if held:
                connection.execute(sql.delete(_measured).where(_measured.c.trial_id == trial_id))
                connection.execute(sql.delete(_failures).where(_failures.c.trial_id == trial_id))
                connection.execute(sql.delete(_runs).where(_runs.c.key == trial_id))
            return held

    def shown_by(self) -> dict[str, set[str]]:
        """The keys of each study's MLflow runs, among them the trials that another study has trained."""
        found: dict[str, set[str]] = {}
        with self._connected() as connection:
            for row in connection.execute(sql.select(_runs.c.study, _runs.c.key)):
                found.setdefault(row.study, set()).add(row.key)
        return found

    def runs_of(self, key: str) -> list[str]:
        """Ids of the MLflow runs of a trial or cell, in whatever study."""
        with self._connected() as connection:
            return list(connection.scalars(sql.select(_runs.c.run_id).where(_runs.c.key == key)))

    def _row(self, connection: sql.Connection, trial_id: str) -> LedgerRow:
        return LedgerRow(*connection.execute(_select_rows().where(_trials.c.trial_id == trial_id)).one())

    def run_ids(self, study: str) -> dict[str, str]:
        """MLflow run ids of the study's summary, cells and trials, by key."""
        with self._connected() as connection:
            query = sql.select(_runs.c.key, _runs.c.run_id).where(_runs.c.study == study)
            return {row.key: row.run_id for row in connection.execute(query)}

    def claim_run(self, study: str, key: str, run_id: str, instead_of: str | None = None) -> str:
        """Record the MLflow run of ``key`` unless somebody was first; the id that is recorded now is returned.

        instead_of: a recorded id that the tracking store does not know (another store, a deleted run).
        """
        here = (_runs.c.study == study) & (_runs.c.key == key)
        with self._begun() as connection:
            if instead_of is not None:
                stale = sql.update(_runs).where(here, _runs.c.run_id == instead_of)
                connection.execute(stale.values(run_id=run_id))
            insert = self._insert(_runs).values(study=study, key=key, run_id=run_id)
            connection.execute(insert.on_conflict_do_nothing())
            return str(connection.scalars(sql.select(_runs.c.run_id).where(here)).one())


def _select_rows() -> sql.Select[Any]:
    lapsed = (_trials.c.state == "leased") & (_trials.c.lease_until < _Now())
    state = sql.case((lapsed, "pending"), else_=_trials.c.state).label("state")
    columns = _trials.c
    lease = (columns.owner, columns.lease_until)
    joined = sql.outerjoin(_trials, _failures, columns.trial_id == _failures.c.trial_id)
    of_trial = (columns.trial_id, columns.params, columns.study, state, *lease, columns.cause, _failures.c.failure)
    return sql.select(*of_trial).select_from(joined)


def _is_available() -> sql.ColumnElement[bool]:
    lapsed = (_trials.c.state == "leased") & (_trials.c.lease_until < _Now())
    return (_trials.c.state == "pending") | lapsed


def _is_beaten_by(state: State) -> sql.ColumnElement[bool]:
    """Where what is said of a trial elsewhere is more than what is known of it here."""
    if state in OVER:
        return _is_available() | (_trials.c.state == "failed")
    return _is_available() if state == "failed" else sql.false()


def _is_for(second_pass: bool) -> sql.ColumnElement[bool]:
    out_of_memory = sql.exists().where(_failures.c.trial_id == _trials.c.trial_id)
    return out_of_memory if second_pass else ~out_of_memory


def _is_held_by(owner: str) -> sql.ColumnElement[bool]:
    return (_trials.c.state == "leased") & (_trials.c.owner == owner) & (_trials.c.lease_until >= _Now())


def _chunks(trial_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(trial_ids), CHUNK):
        yield trial_ids[start : start + CHUNK]
