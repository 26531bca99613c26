"""What a probe measured of a trained model, stored whole or not at all. No torch here: readers need none."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.files import write_atomically
from trainer.probe_config import Probe

ABOUT = "about"
"""The entry of the file that says what the arrays are; no array has that name."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """metrics: by their MLflow names (``probe/hessian/trace``). arrays: by the names that each probe documents."""

    metrics: Mapping[str, float]
    arrays: Mapping[str, NDArray[Any]]

    def finite_metrics(self) -> dict[str, float]:
        """What a tracking store can keep: at a radius that is too large a loss may overflow."""
        return {name: value for name, value in self.metrics.items() if math.isfinite(value)}

    def save(self, path: Path, probe: Probe) -> None:
        """Write an ``.npz`` file that also says which probe this is. Raises OSError."""
        about = json.dumps({"params": probe.params(), "metrics": dict(self.metrics)})
        entries: dict[str, Any] = {ABOUT: np.array(about), **self.arrays}
        write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **entries))


def load_measurement(path: Path) -> Measurement | None:
    """The inverse of ``save``; None when there is no file or what is there cannot be read (then it is measured anew).

    Raises OSError when the machine does not let it be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return read_measurement(content)


def read_measurement(content: bytes) -> Measurement | None:
    """The measurement that a file's content is; None when it is damaged."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != ABOUT}
            return Measurement(json.loads(str(stored[ABOUT]))["metrics"], arrays)
    except Exception:  # out of a damaged file zip and json raise whatever they come upon
        return None
