"""Saved views of an experiment in MLflow's pages: which runs, in which order, with which columns; and their links.

Left alone, MLflow lists runs by age and shows none of their numbers. A saved view is a tag of the experiment, which a
link names; what the pages read of it is documented nowhere, and was found out from 3.17's. ``tests/browser`` looks
whether they still do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.study import Cell, Study, varying_params
from trainer.declaration import Scalar

TAG = "mlflow.sharedViewState."
LEADERBOARD = "leaderboard"
TRAINING = "workflowType=machine_learning"
"""Without it MLflow opens its pages for chat models, and hides the runs there."""

RUN_NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
"""Columns that are always shown, by the names that the pages give them."""
WIDTHS = {RUN_NAME: 260, CREATED: 130, DURATION: 80, "params.`method`": 130, "tags.`search`": 160, "tags.`cause`": 400}
"""Pixels; other columns are as wide as their name."""

TRIALS, CELLS, SEARCHES = ("tags.kind = 'trial'", "tags.kind = 'cell'", "tags.kind = 'search'")
TEST, VALIDATION = ("test/nll", "test/error", "test/ece"), ("val/nll", "val/error")
BLOCK = ("dataset", "model")
"""Tags of cells; numbers of one cannot be compared with those of another."""


def metric(name: str) -> str:
    """The column of a metric."""
    return f"metrics.`{name}`"


def param(name: str) -> str:
    """The column of a parameter."""
    return f"params.`{name}`"


def tag(name: str) -> str:
    """The column of a tag."""
    return f"tags.`{name}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What one link shows. key: names it in the link; stays the same. where: MLflow's filter. columns: left to right.

    order_by: a column, rising. title: of the link. shows: what is to be seen there, for the description.
    """

    key: str
    title: str
    shows: str
    where: str
    order_by: str
    columns: Sequence[str]

    def link(self, experiment_id: str) -> str:
        """Relative to the page that it stands on, so that host and port are the reader's."""
        return _view_link(experiment_id, self.key)

    def state(self) -> str:
        """As MLflow's pages keep it, in JSON."""
        shown = [RUN_NAME, *self.columns, CREATED, DURATION]
        state = {
            "searchFilter": self.where,
            "orderByKey": self.order_by,
            "orderByAsc": True,
            "selectedColumns": list(self.columns),
            "columnOrder": shown,
            "columnWidths": {column: WIDTHS.get(column, _width(column)) for column in shown},
        }
        return json.dumps(state, ensure_ascii=False)

    def tag(self, made: int) -> tuple[str, str]:
        """Name and value of the experiment's tag. made: milliseconds since 1970, by which MLflow lists saved views."""
        value = {"name": self.title, "createdAt": made, "updatedAt": made, "state": self.state()}
        return TAG + self.key, json.dumps(value, ensure_ascii=False)


def _width(column: str) -> int:
    return max(80, 7 * len(column.partition(".")[2]) + 20)


def runs_link(experiment_id: str) -> str:
    """To the experiment's runs."""
    return f"#/experiments/{experiment_id}/runs?{TRAINING}"


def _view_link(experiment_id: str, key: str) -> str:
    return f"{runs_link(experiment_id)}&viewStateShareKey={key}"


def best_link(experiment_id: str, tags: Mapping[str, str]) -> str:
    """To the leaderboard, where the experiment's ``tags`` have it saved, else to its runs."""
    return _view_link(experiment_id, LEADERBOARD) if TAG + LEADERBOARD in tags else runs_link(experiment_id)


def run_link(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """To a run, or to one of its artifacts."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{f'/artifacts/{artifact}' if artifact else ''}?{TRAINING}"


def study_views(study: Study, metrics: Iterable[str]) -> list[View]:
    """Of a study's experiment. metrics: those of its cells' runs, with ``test/nll/mean`` among them, say."""
    known, cells = set(metrics), study.cells()
    params = ["method", *(name for name in varying_params([cell.params for cell in cells]) if name != "method")]
    headline = "test/nll" if "test/nll/mean" in known or not known else "val/nll"
    numbers = [name for name in _numbers(headline) if name in known]
    of_cells = [*map(param, params), *map(metric, numbers)]
    order = metric(f"{headline}/mean")
    leaderboards = [_leaderboard(LEADERBOARD, "Leaderboard", CELLS, order, of_cells, "every cell, the best first")]
    leaderboards += _of_blocks(cells, order, of_cells)
    of_trials = [metric(f"final/{name}") for name in (TEST if headline in TEST else VALIDATION)]
    columns = [*map(param, params), param("seed"), *of_trials]
    return [*leaderboards, *_by_params(cells, params, of_cells), *_of_trials(columns, of_trials[0])]


def _numbers(headline: str) -> Iterator[str]:
    yield from (f"{headline}/{statistic}" for statistic in ("mean", "low", "high", "sd", "n"))
    yield from (f"difference/{statistic}" for statistic in ("mean", "low", "high"))
    yield from (f"{name}/mean" for name in (*TEST, *VALIDATION, "train/nll") if name != headline)


def _leaderboard(key: str, title: str, where: str, order: str, columns: Sequence[str], shows: str) -> View:
    return View(key=key, title=title, shows=shows, where=where, order_by=order, columns=columns)


def _of_blocks(cells: Sequence[Cell], order: str, columns: Sequence[str]) -> Iterator[View]:
    """A leaderboard for each data set and network, where there are several."""
    varying = [name for name in BLOCK if len({cell.params[name] for cell in cells}) > 1]
    blocks = dict.fromkeys(tuple(str(cell.params[name]) for name in varying) for cell in cells)
    for block in blocks if varying else ():
        where = " and ".join([CELLS, *(f"tags.{name} = '{value}'" for name, value in zip(varying, block, strict=True))])
        title, key = ", ".join(block), "-".join([LEADERBOARD, *block]).lower()
        yield _leaderboard(key, title, where, order, columns, f"the same of {title} alone")


def _by_params(cells: Sequence[Cell], params: Iterable[str], columns: Sequence[str]) -> Iterator[View]:
    """Of each number of a method that varies, the cells in declared order: MLflow would sort 10 before 2."""
    for name in params:
        values = {str(cell.params[name]): cell.params[name] for cell in cells if name in cell.params}
        if name.startswith("method.") and all(_is_number(value) for value in values.values()):
            own = name.removeprefix("method.")
            yield View(
                key=f"by-{own}",
                title=f"By {own}",
                shows=f"the cells in the order in which the study declares them, from one {own} to the next",
                where=CELLS,
                order_by="attributes.start_time",
                columns=[param(name), *(column for column in columns if column != param(name))],
            )


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_trials(columns: Sequence[str], order: str, more: Sequence[str] = ()) -> Iterator[View]:
    yield View(
        key="trials",
        title="All trials",
        shows="every trial by its last epoch, the best first; copies, which another study trained, are among them",
        where=TRIALS,
        order_by=order,
        columns=[*columns, *more, tag("outcome"), tag("copy_of")],
    )
    yield View(
        key="failures",
        title="Failures",
        shows="trials that failed or diverged, with the cause; empty where none did",
        where=f"{TRIALS} and attributes.status = 'FAILED'",
        order_by=tag("outcome"),  # by age MLflow would put them below their cells
        columns=[param("seed"), tag("outcome"), tag("cause"), *(name for name in columns if _is_setting(name))],
    )


def _is_setting(column: str) -> bool:
    return not column.startswith("metrics.") and column != param("seed")


def search_views(params: Sequence[str], measured: str) -> list[View]:
    """Of a tuning's experiment. params: that are searched. measured: the validation metric that is minimised."""
    numbers = ["best/value", "best/sd", "first/value", "tried", "failed", "pruned", "train_seconds"]
    columns = [param("method"), param("dataset"), *(metric(f"search/{name}") for name in numbers)]
    order = metric("search/best/value")
    best = _leaderboard(LEADERBOARD, "Searches", SEARCHES, order, columns, f"every search by the {measured} it found")
    found = metric(f"final/{measured}")
    of_trials = [tag("search"), tag("setting"), param("seed"), found, *map(param, params)]
    return [best, *_of_trials(of_trials, found)]


def saved(views: Iterable[View], made: int) -> dict[str, str]:
    """The experiment's tags that save ``views``; made: as in ``View.tag``."""
    return dict(view.tag(made) for view in views)
