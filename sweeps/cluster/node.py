"""One node of a Ray, as far as trials are concerned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GPU_KIND = "accelerator_type:"
"""How Ray's resource begins that each node with GPUs of a kind has one of."""


@dataclass(frozen=True, slots=True)
class Node:
    """One that is alive. name: for people. gpu_kind: such as ``A100``; empty where Ray does not know it."""

    id: str
    name: str
    cpus: int
    gpus: int = 0
    gpu_kind: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Node:
        """What ``ray.nodes()`` tells of it."""
        has = told["Resources"]
        kinds = [name.removeprefix(GPU_KIND) for name in sorted(has) if name.startswith(GPU_KIND)]
        name = f"{told['NodeManagerHostname']} ({told['NodeManagerAddress']})"
        return cls(told["NodeID"], name, int(has.get("CPU", 0)), int(has.get("GPU", 0)), (kinds or [""])[0])


def trials_at_once(nodes: Iterable[Node], device: str, per_gpu: int | None = None) -> int:
    """How many trials find a core of their own; on GPUs, one beside a GPU.

    per_gpu: so many share a GPU at most; None where memory alone will tell.
    """
    if device == "cpu":
        return sum(node.cpus for node in nodes)
    return sum(node.cpus if per_gpu is None else min(node.cpus, node.gpus * per_gpu) for node in nodes if node.gpus)
