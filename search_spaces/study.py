"""A study: a question and the finite set of trials that answers it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trainer.config import TrialConfig, identity
from trainer.declaration import ConfigError, Scalar
from trainer.probe_config import Probe

KINDS = ("method", "dataset", "model", "augment")
"""What cells are told apart by first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """The trials of a study that differ in nothing but the seed.

    params: their parameters without the seed. label: what tells the cell from the others of its study.
    """

    params: Mapping[str, Scalar]
    trials: tuple[TrialConfig, ...]
    label: str

    @property
    def cell_id(self) -> str:
        """The same in every study that declares this cell."""
        return identity(self.params)

    @property
    def seeds(self) -> list[int]:
        return sorted(trial.seed for trial in self.trials)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A finite set of trials, in the order in which they are started; kept as a tuple.

    name: names the MLflow experiment and the report's folder. question: one sentence, shown with the results.
    probes: what is measured of each finished trial, at most one of a kind; no part of a trial's identity.
    at_once: at most so many trials at a time, where their times are the question; None for what the machine allows.
    """

    name: str
    question: str
    trials: Sequence[TrialConfig]
    probes: Sequence[Probe] = ()
    at_once: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "trials", tuple(self.trials))
        object.__setattr__(self, "probes", tuple(self.probes))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", str(self.name)):
            raise ConfigError(f"Study.name = {self.name!r}: must be lower-case letters, digits and '-', at most 64")
        if not self.trials or not all(isinstance(trial, TrialConfig) for trial in self.trials):
            raise ConfigError(f"Study.trials of {self.name!r}: must be one TrialConfig or more")
        if self.at_once is not None and (not isinstance(self.at_once, int) or self.at_once < 1):
            raise ConfigError(f"Study.at_once = {self.at_once!r}: must be a whole number >= 1, or None")
        _refuse_twins(self.trials)
        _refuse_probes(self.probes)

    def cells(self) -> tuple[Cell, ...]:
        """The cells in order of first appearance, seeds rising."""
        params: dict[str, Mapping[str, Scalar]] = {}
        members: dict[str, list[TrialConfig]] = {}
        for trial in self.trials:
            own = {key: value for key, value in trial.params().items() if key != "seed"}
            params.setdefault(identity(own), own)
            members.setdefault(identity(own), []).append(trial)
        varying = varying_params(params.values())
        return tuple(
            Cell(
                params=own,
                trials=tuple(sorted(members[cell_id], key=lambda trial: trial.seed)),
                label=_label(own, varying),
            )
            for cell_id, own in params.items()
        )


def _refuse_twins(trials: Iterable[TrialConfig]) -> None:
    seen: dict[str, TrialConfig] = {}
    for trial in trials:
        if seen.setdefault(trial.trial_id, trial) is not trial:
            raise ConfigError(f"Study.trials: {trial.method!r} with seed {trial.seed} stands twice: declare it once")


def _refuse_probes(probes: Iterable[object]) -> None:
    """Two of a kind would write the same metrics."""
    kinds: set[str] = set()
    for probe in probes:
        if not isinstance(probe, Probe):
            raise ConfigError(f"Study.probes: {probe!r} is none: Sharpness(radii=(0.05,)), say")
        kind = type(probe).__name__
        if kind in kinds:
            raise ConfigError(f"Study.probes: a second {kind}: declare one of a kind (it may have several radii)")
        kinds.add(kind)


def varying_params(cells: Iterable[Mapping[str, Scalar]]) -> list[str]:
    """Names that tell the cells apart, in order of appearance.

    Those with more than one value among the cells where they mean something: a parameter of one method means nothing in
    another's cells; one that was added later and left at its default is absent, but means something in every cell of
    the same kind. What follows from others is left out, such as a digest from the data set or epochs that differ only
    between networks.
    """
    listed = list(cells)
    names = dict.fromkeys(key for params in listed for key in params)
    candidates = [name for name in names if len(_values(name, listed)) > 1]
    kept: list[str] = []
    for name in sorted(candidates, key=lambda name: KINDS.index(name) if name in KINDS else len(KINDS)):
        if not _follows(name, kept, listed):
            kept.append(name)
    return [name for name in candidates if name in kept]


def _follows(name: str, others: Sequence[str], cells: Sequence[Mapping[str, Scalar]]) -> bool:
    """Whether cells that agree in ``others`` agree in ``name``."""
    found: dict[str, set[str]] = {}
    for params in cells:
        agreed = repr([params.get(other, "absent") for other in others])
        found.setdefault(agreed, set()).add(repr(params.get(name, "absent")))
    return all(len(values) == 1 for values in found.values())


def _values(name: str, cells: Sequence[Mapping[str, Scalar]]) -> set[str]:
    parent = name.rpartition(".")[0]
    having = {str(params.get(parent)) for params in cells if name in params}
    return {repr(params.get(name, "absent")) for params in cells if str(params.get(parent)) in having}


def _label(params: Mapping[str, Scalar], varying: Iterable[str]) -> str:
    differences = [
        f"{key.removeprefix('method.')}={params[key]}" for key in varying if key in params and key != "method"
    ]
    return " ".join([str(params["method"]), *differences])
