"""Which nodes of a Ray measure probes, while nodes come and go; without a Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sweeps.cluster import probes  # before Ray, for which it sets a token
from sweeps.cluster.node import Node
from sweeps.probe_worker import LOST_WORKER_TRIES, Job
from tests.sweeps.conftest import make_trial
from trainer.declaration import ConfigError
from trainer.machine import Machine, Results

# isort: split
from ray.exceptions import TaskUnschedulableError

GOOD, BLIND, LATE = Node("good", "good", 2), Node("blind", "blind", 2), Node("late", "late", 1)
JOB = Job(make_trial(), (), Machine(data_dir=Path("data")), Results(Path("results")))


class Site:
    """Nodes that there are, of which one is unfit; what was said, and which nodes were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: Node) -> None:
        self.there, self.asked = list(nodes), list[str]()
        self.said: list[str] = []
        monkeypatch.setattr(probes, "alive", lambda: self.there)
        monkeypatch.setattr(probes, "unfit", self._unfit)
        monkeypatch.setattr(probes, "LOOK_EVERY_SECONDS", 0.0)

    def nodes(self, device: str = "cpu") -> probes._Nodes:
        return probes._Nodes(Path("folder"), device, most=9, say=self.said.append)

    def _unfit(self, nodes: Sequence[Node], _folder: Path) -> dict[Node, list[str]]:
        self.asked += [node.id for node in nodes]
        return {node: ["sees nothing"] for node in nodes if node is BLIND}


def test_an_unfit_node_is_told_once_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, GOOD, BLIND)
    nodes = site.nodes()
    for _ in range(2):
        nodes._follow()
        assert list(nodes._ids) == ["good"]
    assert site.said == ["node blind: sees nothing: nothing is measured there"]
    assert site.asked == ["good", "blind"]


def test_one_that_comes_later_is_asked_and_used_and_one_that_goes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(monkeypatch, GOOD)
    nodes = site.nodes()
    nodes._follow()
    site.there.append(LATE)
    nodes._follow()
    assert list(nodes._ids) == ["good", "late"]
    site.there.remove(GOOD)
    nodes._follow()
    assert list(nodes._ids) == ["late"]
    assert site.asked == ["good", "late"]


def test_where_no_fit_node_is_left_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, BLIND)
    with pytest.raises(ConfigError, match="no fit node has a CPU to measure probes: make probe"):
        site.nodes()._follow()
    site.there = [GOOD]
    with pytest.raises(ConfigError, match="no fit node has a GPU, and a CPU beside it"):
        site.nodes("cuda")._follow()
    assert site.asked == ["blind"], "a node without a GPU is not asked"


def test_where_all_are_gone_another_is_waited_for_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    site, slept = Site(monkeypatch, GOOD), list[float]()
    monkeypatch.setattr("time.sleep", slept.append)
    nodes = site.nodes()
    nodes._follow()
    site.there = []
    for _ in range(2):
        nodes._follow()
        assert nodes._done() == []
    assert site.said == ["the last node that measured probes is gone: another one is waited for, 60 s"]
    assert len(slept) == 2, "it does not spin"
    site.there = [LATE]
    nodes._follow()
    assert list(nodes._ids) == ["late"]
    site.there = []
    nodes._follow()
    monkeypatch.setattr(probes, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="no fit node has a CPU to measure probes"):
        nodes._follow()


def test_a_job_is_not_to_blame_for_nodes_that_went_before_it_came_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, GOOD)
    nodes, sent_to, error = site.nodes(), frozenset({"good"}), TaskUnschedulableError("no such node")
    site.there = []
    assert all(nodes._is_tried_again(JOB, sent_to, error) for _ in range(9))
    site.there = [GOOD]
    tried = [nodes._is_tried_again(JOB, sent_to, error) for _ in range(LOST_WORKER_TRIES)]
    assert tried == [True] * (LOST_WORKER_TRIES - 1) + [False], "it would be sent for ever to a node that cannot do it"


def test_what_was_sent_to_nodes_that_are_gone_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    site, cancelled = Site(monkeypatch, GOOD, LATE), list[object]()
    monkeypatch.setattr("ray.cancel", lambda answer, force: cancelled.append(answer))
    nodes = site.nodes()
    nodes._follow()
    lost, kept = probes.Answer.nil(), probes.Answer.from_random()
    nodes._waiting = {lost: (JOB, frozenset({"good"})), kept: (JOB, frozenset({"good", "late"}))}
    assert nodes._stranded() == []
    site.there.remove(GOOD)
    nodes._follow()
    assert nodes._stranded() == [JOB]
    assert cancelled == [lost]
    assert list(nodes._waiting) == [kept]
