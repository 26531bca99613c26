"""What figures are drawn from, of trials whose numbers are made up and so known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.base import Material
from analysis.probes import COLUMNS
from analysis.tables import cells_table
from search_spaces.study import Study
from tests.analysis.frames import made_frame
from trainer.config import TrialConfig
from trainer.machine import Results

NO_FOLDER = Results(Path("no-such-folder"))


def made_material(
    study: Study,
    numbers: Callable[[TrialConfig], Mapping[str, float] | str],
    epochs: Callable[[TrialConfig], Iterable[tuple[int, str, float]]] | None = None,
    probes: Callable[[TrialConfig], Mapping[str, float]] | None = None,
) -> Material:
    """numbers: as for ``made_frame``. epochs: epoch, metric and value. probes: metrics of a probe called Sharpness."""
    frame = made_frame(study, numbers)
    material = Material(study=study, frame=frame, table=cells_table(study, frame), results=NO_FOLDER)
    labels = dict(zip(frame["trial_id"], frame["cell"], strict=True))
    about = [(trial, (trial.trial_id, labels[trial.trial_id], trial.seed)) for trial in study.trials]
    rows = [(*key, metric, epoch, value) for trial, key in about for epoch, metric, value in (epochs or _none)(trial)]
    names = ["trial_id", "cell", "seed", "metric", "epoch", "value"]
    kinds = {**dict.fromkeys(("trial_id", "cell", "metric"), "category"), "value": "float64"}
    history = pd.DataFrame(rows, columns=names).astype(kinds)
    found = [
        (*key, "Sharpness", "0" * 16, metric, value)
        for trial, key in about
        for metric, value in (probes(trial) if probes else {}).items()
    ]
    vars(material).update(history=history, probes=pd.DataFrame(found, columns=list(COLUMNS)))  # as if read already
    return material


def _none(_: TrialConfig) -> tuple[()]:
    return ()


def panel(figure: Figure, title: str) -> Axes:
    """The one with this title."""
    (found,) = (axes for axes in figure.axes if axes.get_title() == title)
    return found


def points(axes: Axes, label: str) -> list[tuple[float, float]]:
    """Of all lines of this label, gaps left out, rounded."""
    lines = [line.get_xydata() for line in axes.lines if line.get_label() == label]
    both = np.concatenate([np.asarray(line, dtype=float) for line in lines]) if lines else np.empty((0, 2))
    kept = both[~np.isnan(both).any(axis=1)].round(6)
    return sorted((float(x), float(y)) for x, y in kept)
