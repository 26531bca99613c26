"""The nodes of a Ray that a driver has joined: what each has, and whether it is fit to train the driver's trials."""

from __future__ import annotations

import hashlib
import platform
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.cluster.job_code import CODE, code_travels
from sweeps.cluster.node import Node
from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE

ANSWER_SECONDS = 60.0
"""A node may have to unpack the code and start a process first, beside trials of other drivers."""
ONE_FOLDER = f"RESULTS ({RESULTS_VARIABLE}) must be one folder that all nodes see under this path"
CLOCK_SECONDS = 5.0
"""As much as clocks may differ: checkpoints and records are stamped where they are made."""


def alive() -> list[Node]:
    """Those of the Ray that this process is connected to."""
    return [Node.of(told) for told in ray.nodes() if told["Alive"]]  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a node tells of itself. refusal: why it cannot write to the folder, if so. clock: Unix seconds."""

    versions: Mapping[str, str]
    clock: float
    sees_folder: bool
    refusal: str | None = None


def look(folder: str, answer: str) -> Seen:
    """Run on a node: look at the driver's folder, and leave a file named ``answer`` in it."""
    place, refusal = Path(folder), None
    if not place.is_dir():
        return Seen(versions(), time.time(), sees_folder=False)
    try:
        (place / answer).write_text(answer, encoding="utf-8")
    except OSError as error:
        refusal = error.strerror or str(error)
    return Seen(versions(), time.time(), sees_folder=True, refusal=refusal)


def versions() -> dict[str, str]:
    """Of what makes numbers, and of what must agree for nodes to understand each other."""
    known = {name: version(name) for name in ("torch", "ray", "numpy")}
    return {"Python": platform.python_version(), **known, "code": _code_digest()}


def _code_digest() -> str:
    """First 8 hex digits of SHA-256 over what trains: where the code does not go along a node may have another one."""
    content = hashlib.sha256()
    for package in ("trainer", "sweeps"):
        for file in sorted((CODE / package).rglob("*.py")):
            content.update(file.relative_to(CODE).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return content.hexdigest()[:8]


def require_fit(nodes: Sequence[Node], folder: Path) -> None:
    """Raise ConfigError, one line, for nodes that are ``unfit``."""
    if found := unfit(nodes, folder):
        raise ConfigError(clauses(found))


def unfit(nodes: Sequence[Node], folder: Path) -> dict[Node, list[str]]:
    """Nodes on which trials would not be those of this driver, with what is wrong; the dead ones are left out.

    folder: the driver's own in its results, of a name that is no other's. Nothing is asked where all CPUs are on the
    driver's node.
    """
    asked = [node for node in nodes if node.cpus]
    if all(node.id == ray.get_runtime_context().get_node_id() for node in asked):
        return {}
    found: dict[Node, list[str]] = {}
    for node, fault in _faults(asked, folder):
        found.setdefault(node, []).append(fault)
    left = {node.id for node in alive()} if found else set()
    return {node: faults for node, faults in found.items() if node.id in left}


def clauses(found: Mapping[Node, Sequence[str]]) -> str:
    """One clause for each thing that is wrong, with the nodes of which it is."""
    named: dict[str, list[str]] = {}
    for node, faults in found.items():
        for fault in faults:
            named.setdefault(fault, []).append(node.name)
    told = (f"node{'s' * (len(names) > 1)} {', '.join(names)}: {fault}" for fault, names in named.items())
    return "; ".join(told)


def _faults(nodes: Sequence[Node], folder: Path) -> Iterator[tuple[Node, str]]:
    """What is wrong with each node, after all were asked at once."""
    sent, ours, task = time.time(), versions(), ray.remote(look)
    answers = {node: f"answer-{node.id[:16]}-{secrets.token_hex(8)}" for node in nodes}
    asked = {_asked(task, node, folder, answer): node for node, answer in answers.items()}
    left, end = list(asked), time.monotonic() + ANSWER_SECONDS
    while left:
        done, left = ray.wait(left, timeout=max(0.0, end - time.monotonic()))
        if not done:
            break
        for fault in _faults_of(done[0], folder / answers[asked[done[0]]], ours, sent):
            yield asked[done[0]], fault
    for late in left:
        ray.cancel(late, force=True)
        yield asked[late], f"no answer in {ANSWER_SECONDS:.0f} seconds: mend it, or take it out of the Ray"


def _asked(task: Any, node: Node, folder: Path, answer: str) -> ray.ObjectRef[Seen]:
    """A task that takes no CPU, so that it waits for no trial, on this node and no other."""
    here = NodeAffinitySchedulingStrategy(node.id, soft=False)
    asked: ray.ObjectRef[Seen] = task.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(
        str(folder), answer
    )
    return asked


def _faults_of(done: ray.ObjectRef[Seen], answer: Path, ours: Mapping[str, str], sent: float) -> Iterator[str]:
    try:
        seen = ray.get(done)
    except Exception as error:  # Ray's own, or whatever importing this module there raises
        cure = "" if code_travels() else f": must be at {CODE} there as well, or go along with make submit"
        yield f"cannot run this code ({' '.join(str(error).split())[-200:]}){cure}"
        return
    yield from faults(seen, ours, sent, time.time(), answer)


def faults(seen: Seen, ours: Mapping[str, str], sent: float, received: float, answer: Path) -> Iterator[str]:
    """What is wrong with a node that has answered between these two times; each with its cure."""
    results = answer.parent.parents[1]
    if not seen.sees_folder:
        yield f"{results} is not there, or is not the driver's: {ONE_FOLDER}"
    elif seen.refusal:
        yield f"cannot write to {results} ({seen.refusal}): let the user of its Ray do so"
    elif not _is_answered(answer):
        yield f"what it writes to {results} is not seen by the driver: {ONE_FOLDER}"
    if other := differences(seen.versions, ours):
        yield f"{other}: install the same there, as from requirements.lock, and start its Ray again"
    if not sent - CLOCK_SECONDS <= seen.clock <= received + CLOCK_SECONDS:
        off = min(abs(seen.clock - sent), abs(seen.clock - received))
        yield f"its clock is off by {off:.0f} s: let NTP set it"


def _is_answered(answer: Path) -> bool:
    try:
        return answer.read_text(encoding="utf-8") == answer.name
    except OSError:
        return False


def differences(found: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """Such as ``torch 2.13.0, not 2.14.1``; empty where there are none."""
    return ", ".join(f"{name} {found.get(name)}, not {ours[name]}" for name in ours if found.get(name) != ours[name])
