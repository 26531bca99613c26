"""What the trials of a run take of the Ray at hand: a core each, and on GPUs one, or a share of one."""

from __future__ import annotations

from collections.abc import Iterable

from sweeps.estimate import memory_kind
from sweeps.hardware import hardware
from sweeps.packing import share, trials_per_gpu, trials_that_share
from sweeps.sweep import ADDRESS_VARIABLE, Sweep
from trainer.declaration import ConfigError
from trainer.records import GpuMemory

WHOLE = 1.0
ROUNDING = 1e-6  # shares are sums of ten-thousandths


class Room:
    """For the trials of ``sweep`` on so many CPUs and GPUs. alone: one at a time, with a GPU to itself.

    A trial whose like was never measured on this hardware gets a whole GPU, and finds out how many could share it.

    Raises ConfigError where no trial would ever find room: Tune would wait for it for ever.
    """

    def __init__(self, sweep: Sweep, cpus: int, gpus: int, alone: bool = False) -> None:
        if cpus < 1:
            raise ConfigError(f"{ADDRESS_VARIABLE}: that Ray has no CPU for trials: start its nodes with --num-cpus")
        if sweep.device == "cuda" and gpus < 1:
            raise ConfigError("--device cuda: Ray sees no GPU: train with --device cpu")
        self.jobs = 1 if alone else min(sweep.jobs, cpus)
        self._gpus = gpus if sweep.device == "cuda" else 0
        self._given = WHOLE if alone else sweep.gpus_per_trial
        if self._gpus and self._given is not None:
            self.jobs = min(self.jobs, self._gpus * trials_that_share(self._given))
        self._ledger, self._hardware = sweep.ledger, hardware(sweep.device)
        self._trials = sweep.trials
        self._kinds: dict[str, str] = {}
        kinds = {self._kind(trial_id) for trial_id in sweep.trials} if self._gpus else set()
        self._known = self._ledger.gpu_memory(list(kinds), self._hardware)

    def _kind(self, trial_id: str) -> str:
        if trial_id not in self._kinds:
            self._kinds[trial_id] = memory_kind(self._trials[trial_id])
        return self._kinds[trial_id]

    def share(self, trial_id: str) -> float:
        """Of a GPU that the trial gets; 0 on CPUs."""
        if not self._gpus:
            return 0.0
        if self._given is not None:
            return self._given
        known = self._known.get(self._kind(trial_id))
        return share(trials_per_gpu(known, self._most_on_gpu)) if known else WHOLE

    def to_find_out(self, trial_id: str) -> int:
        """How many trials may share a GPU at most, where this one is to find out how many do; else 0."""
        unknown = self._gpus and self._given is None and self._kind(trial_id) not in self._known
        return self._most_on_gpu if unknown and self._most_on_gpu > 1 else 0

    def learn(self, trial_id: str, memory: GpuMemory) -> None:
        """The trial took ``memory``: its like need no more from now on, of whatever study."""
        kind = self._kind(trial_id)
        self._known[kind] = memory
        self._ledger.keep_gpu_memory(kind, self._hardware, memory)

    def fitting(self, trial_ids: Iterable[str], held: Iterable[float]) -> list[str]:
        """Those of the trials for which there is room beside others that hold such shares."""
        free = self._gpus - sum(held) + ROUNDING
        return [trial_id for trial_id in trial_ids if self.share(trial_id) <= free]

    def at_once(self, trial_id: str) -> int:
        """How many of its like fit at a time."""
        return min(self.jobs, self._gpus * trials_that_share(self.share(trial_id))) if self._gpus else self.jobs

    @property
    def _most_on_gpu(self) -> int:
        return max(1, self.jobs // self._gpus)
