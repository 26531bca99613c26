"""What the trials of a run take of the Ray at hand: a core each, and on GPUs one, or a share of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeps.cluster.node import Node
from sweeps.cluster.packing import Place, share, trials_per_gpu, trials_that_share
from sweeps.cost.estimate import memory_kind
from sweeps.hardware import hardware
from sweeps.sweep import Sweep
from trainer.declaration import ConfigError
from trainer.records import GpuMemory

WHOLE = 1.0
ROUNDING = 1e-6  # shares are sums of ten-thousandths


@dataclass(frozen=True, slots=True)
class _Pool:
    """The GPUs of one kind, and the cores beside them; of trials on CPUs all cores."""

    gpu_kind: str
    cpus: int
    gpus: int

    def left_for(self, share: float, held: Sequence[Place]) -> float:
        """How many more trials find a core and such a share there, beside those that hold places."""
        here = [place.share for place in held if place.gpu_kind == self.gpu_kind]
        return min((self.gpus - sum(here) + ROUNDING) / share, self.cpus - len(here))


class Room:
    """For the trials of ``sweep`` on these nodes. alone: one at a time, with a GPU to itself.

    A trial whose like was never measured on a kind of GPU gets a whole one, and finds out how many could share it. What
    is free on nodes of one kind is one sum: to which of them a trial goes, and when, is for Ray to say.

    Raises ConfigError where no trial would ever find room: Tune would wait for it for ever.
    """

    def __init__(self, sweep: Sweep, nodes: Sequence[Node], alone: bool = False) -> None:
        self._sweep, self._alone = sweep, alone
        self._given = WHOLE if alone else sweep.gpus_per_trial
        self._trials = sweep.trials
        self._kinds: dict[str, str] = {}
        self._known: dict[str, dict[str, GpuMemory]] = {}
        if not any(node.cpus for node in nodes):
            raise ConfigError(
                "no node of this Ray has a CPU for trials: make ray-worker brings one, make ray-head CPUS=N lets the"
                " head train (of ray start --num-cpus=N)"
            )
        if self._on_gpus and not any(node.gpus for node in nodes):
            raise ConfigError("--device cuda: Ray sees no GPU: train with --device cpu")
        if self._on_gpus and not any(node.gpus and node.cpus for node in nodes):
            raise ConfigError(
                "this Ray's nodes with GPUs have no CPU: start them with CPUS=N (of ray start --num-cpus=N)"
            )
        self.follow(nodes)

    @property
    def _on_gpus(self) -> bool:
        return self._sweep.device == "cuda"

    def follow(self, nodes: Sequence[Node]) -> None:
        """From now on for the trials on these nodes: some may have come, or gone.

        Where none is left, as before: the trials wait, which Ray's autoscaler sees.
        """
        pools = _gpu_pools(nodes) if self._on_gpus else [_Pool("", sum(node.cpus for node in nodes), 0)]
        if any(pool.cpus for pool in pools):
            self._pools = pools
            self.jobs = 1 if self._alone else min(self._sweep.jobs, sum(map(self._most_in, pools)))

    def _most_in(self, pool: _Pool) -> int:
        """How many trials find room there at most."""
        if not pool.gpus or self._given is None:
            return pool.cpus
        return min(pool.cpus, pool.gpus * trials_that_share(self._given))

    def place(self, trial_id: str, held: Iterable[Place]) -> Place | None:
        """Where most of the trial's like would fit beside others that hold such places; None while there is no room."""
        held = list(held)
        if len(held) >= self.jobs:
            return None
        if not self._on_gpus:
            return Place()
        shares = {pool: self._share(trial_id, pool) for pool in self._pools}
        left = {pool: pool.left_for(shares[pool], held) for pool in self._pools}
        pool = max(left, key=left.__getitem__)
        if left[pool] < 1:
            return None
        return Place(pool.gpu_kind, shares[pool], self._to_find_out(trial_id, pool))

    def fitting(self, trial_ids: Iterable[str], held: Iterable[Place]) -> list[str]:
        """Those of the trials for which there is room beside others that hold such places."""
        held, fit = list(held), dict[str, bool]()
        found = []
        for trial_id in trial_ids:
            alike = self._kind(trial_id) if self._on_gpus else ""
            if alike not in fit:
                fit[alike] = self.place(trial_id, held) is not None
            if fit[alike]:
                found.append(trial_id)
        return found

    def at_once(self, trial_id: str) -> int:
        """How many of its like fit at a time."""
        if not self._on_gpus:
            return self.jobs
        fit = (min(p.cpus, p.gpus * trials_that_share(self._share(trial_id, p))) for p in self._pools)
        return min(self.jobs, sum(fit))

    def learn(self, trial_id: str, place: Place, memory: GpuMemory) -> None:
        """The trial took ``memory`` there: its like need no more from now on, of whatever study."""
        kind, name = self._kind(trial_id), _hardware(place.gpu_kind)
        self._known_on(place.gpu_kind)[kind] = memory
        self._sweep.ledger.keep_gpu_memory(kind, name, memory)

    def _kind(self, trial_id: str) -> str:
        if trial_id not in self._kinds:
            self._kinds[trial_id] = memory_kind(self._trials[trial_id])
        return self._kinds[trial_id]

    def _known_on(self, gpu_kind: str) -> dict[str, GpuMemory]:
        """What is known of the trials' kinds on this kind of GPU."""
        if gpu_kind not in self._known:
            kinds = {self._kind(trial_id) for trial_id in self._trials}
            self._known[gpu_kind] = self._sweep.ledger.gpu_memory(list(kinds), _hardware(gpu_kind))
        return self._known[gpu_kind]

    def _share(self, trial_id: str, pool: _Pool) -> float:
        if self._given is not None:
            return self._given
        known = self._known_on(pool.gpu_kind).get(self._kind(trial_id))
        return share(trials_per_gpu(known, self._most_on_gpu(pool))) if known else WHOLE

    def _to_find_out(self, trial_id: str, pool: _Pool) -> int:
        unknown = self._given is None and self._kind(trial_id) not in self._known_on(pool.gpu_kind)
        most = self._most_on_gpu(pool)
        return most if unknown and most > 1 else 0

    def _most_on_gpu(self, pool: _Pool) -> int:
        return max(1, min(self.jobs, pool.cpus) // pool.gpus)


def _gpu_pools(nodes: Sequence[Node]) -> list[_Pool]:
    """Nodes without a GPU have no part in it, nor have those without a core."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        if node.gpus and node.cpus:
            found.setdefault(node.gpu_kind, []).append(node)
    return [_Pool(kind, sum(n.cpus for n in those), sum(n.gpus for n in those)) for kind, those in found.items()]


def _hardware(gpu_kind: str) -> str:
    """The name under which the ledger keeps what was measured on such a GPU: the kind's own on whatever machine."""
    return gpu_kind or hardware("cuda")
