"""What plans see of a user's own images and networks, and say where they cannot see anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sweeps.plan
from search_spaces.study import Study
from sweeps.cli import main
from sweeps.cost.estimate import Estimate, Known, cost_of, epoch_seconds, examples, kind, measured
from sweeps.cost.network import NetworkCost, network_cost
from sweeps.cost.own import Own, _counted, own_cost, own_costs
from sweeps.hardware import hardware
from sweeps.ledger import LedgerRow
from sweeps.plan import lines, make_plan
from tests.sweeps.conftest import make_records, make_trial
from trainer.config import Custom, Holdout, ImageFolder, Mlp, Model, PreActResNet18, SmallCnn, TrialConfig
from trainer.custom_source import source_digest
from trainer.data.image_folder import Folder
from trainer.data.parts import part_files
from trainer.data.splits import Examples
from trainer.machine import RESULTS_VARIABLE, Results

ERM = make_trial()
SHAPE = (3, 9, 7)
NETWORK = """
import os
from torch import nn

def net(shape, classes, width=5):
    return nn.Sequential(nn.Conv2d(shape[0], width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.LazyLinear(classes))

def raising(shape, classes):
    raise ValueError("two\\nlines")

def ending(shape, classes):
    os._exit(3)
"""

Net = Callable[[str], TrialConfig]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user has ``nets.py`` and the results."""
    (tmp_path / "nets.py").write_text(NETWORK)
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "results"))
    return tmp_path


@pytest.fixture
def net(folder: Path) -> Net:
    """The trial of a network that a function of ``nets.py`` makes."""
    digest = source_digest("nets", [folder, folder])
    return lambda function: replace(ERM, model=Custom(f"nets:{function}", digest=digest))


def images_in(data_dir: Path, **numbers: int) -> ImageFolder:
    parts = {
        part: Examples(torch.full((number, *SHAPE), number, dtype=torch.uint8), torch.arange(number) % 3)
        for part, number in numbers.items()
    }
    stored = Folder(parts, ["a", "b", "c"])  # type: ignore[arg-type]
    stored.store(data_dir)
    return stored.declaration


def seen(trial: TrialConfig, folder: Path) -> Own:
    found = own_cost(trial, folder / "results" / "data", folder)
    assert isinstance(found, Own), found
    return found


def unseen(trial: TrialConfig, folder: Path) -> str:
    found = own_cost(trial, folder / "results" / "data", folder)
    assert isinstance(found, str)
    assert "\n" not in found
    return found


@pytest.mark.parametrize("model", [Mlp(hidden=(12, 5), norm="batch"), SmallCnn(width=3), PreActResNet18(width=4)])
def test_torch_counts_of_a_built_in_network_what_is_known_of_it(model: Model, tmp_path: Path) -> None:
    counted, known = _counted(replace(ERM, model=model), (1, 8, 8), tmp_path), network_cost(model, (1, 8, 8), 10)
    assert known is not None
    assert (counted.forward, counted.backward, counted.layers) == (known.forward, known.backward, known.layers)
    assert counted.weights > known.weights  # biases and BatchNorm's parameters are among them


def test_the_cost_of_ones_own_network_by_hand(folder: Path, net: Net) -> None:
    convolution, linear, inner = 5 * 9, 5 * 36 * 10, 36
    forward = 2 * (convolution * inner + linear)
    weights = convolution + 5 + 10 + linear + 10
    cost = NetworkCost(forward, 2 * forward - 2 * convolution * inner, weights, layers=2)
    assert seen(net("net"), folder) == Own((600, 1197), cost)


def test_a_folder_that_is_split_has_the_sizes_of_its_parts(folder: Path) -> None:
    trial = replace(ERM, dataset=images_in(folder / "results" / "data", train=30, test=12))
    own, cost = seen(trial, folder), network_cost(ERM.model, SHAPE, 3)
    assert cost is not None
    assert own == Own((30, 12), cost)
    assert examples(replace(trial, validation=Holdout(fraction=0.2)), own) == pytest.approx((24, 6 + 12))


def test_of_one_that_is_not_the_declared_share_is_the_test_set(folder: Path) -> None:
    dataset = images_in(folder / "results" / "data", all=40)
    for share in (0.2, 0.75):
        own = seen(replace(ERM, dataset=replace(dataset, test=Holdout(fraction=share))), folder)
        assert own.images == pytest.approx((40 * (1 - share), 40 * share))


def test_ones_own_network_on_ones_own_images(folder: Path, net: Net) -> None:
    trial = replace(net("net"), dataset=images_in(folder / "results" / "data", train=30, test=12))
    assert seen(trial, folder).cost.layers == 2
    assert seen(trial, folder).cost.forward == 2 * (15 * 9 * 35 + 5 * 35 * 3)


def test_why_nothing_can_be_told(folder: Path, net: Net) -> None:
    data = folder / "results" / "data"
    trial = replace(ERM, dataset=images_in(data, train=30, test=12))
    part_files(trial.dataset, data)["train"].write_bytes(b"half")
    assert unseen(trial, folder).endswith("is damaged: run `make digest FOLDER=PATH` again")
    part_files(trial.dataset, data)["test"].unlink()
    assert "is not in" in unseen(trial, folder)
    assert unseen(net("raising"), folder) == "Custom.function = 'nets:raising': raised ValueError: two lines"
    assert "the source is now" in unseen(replace(ERM, model=Custom("nets:net", digest="0" * 16)), folder)


def test_what_was_seen_makes_the_estimate_that_a_declaration_would(net: Net) -> None:
    trial, cost = net("net"), cost_of(ERM)
    assert cost is not None
    own = Own((600, 1197), cost)
    assert epoch_seconds(trial, 1e9, own) == epoch_seconds(ERM, 1e9)
    expected = Known([], 1e9).estimate(ERM)
    assert Known([], 1e9, {kind(trial): own}).estimate(trial) == expected
    assert expected.source == "FLOPs"
    assert Known([], None, {kind(trial): own}).estimate(trial) == Estimate(None, "unknown", expected.checkpoint_bytes)


def test_a_network_that_ends_the_process_is_no_harm_to_others(folder: Path, net: Net) -> None:
    trials = {name: net(name) for name in ("net", "ending")}
    found = own_costs(trials, folder / "results" / "data", folder)
    assert found == {
        "net": own_cost(trials["net"], folder, folder),
        "ending": "a process that looked at a network of yours was lost",
    }


def rows(study: Study) -> dict[str, LedgerRow]:
    ids = [trial.trial_id for trial in study.trials]
    return {id_: LedgerRow(id_, "", study.name, "pending", None, None, None) for id_ in ids}


def test_a_plan_looks_once_at_each_kind_and_tells_why_it_does_not_know(
    folder: Path, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [replace(trial, seed=seed) for seed in (0, 1) for trial in (net("net"), net("raising"), ERM)]
    study, asked = Study(name="mine", question="?", trials=trials), list[str]()

    def here(trials: dict[str, TrialConfig], data_dir: Path, code_dir: Path) -> dict[str, Own | str]:
        assert data_dir == Results.here().data
        asked.extend(trials)
        return {alike: own_cost(trial, data_dir, code_dir) for alike, trial in trials.items()}

    monkeypatch.setattr(sweeps.plan, "own_costs", here)
    plan = make_plan(study, rows(study), None, 1, "cpu", code_dir=folder)
    assert asked == [kind(net("net")), kind(net("raising"))]
    sources = [plan.estimates[trial.trial_id].source for trial in trials]
    assert sources == ["FLOPs", "unknown", "FLOPs"] * 2
    told = [line for line in lines(plan) if line.startswith("Not known: ")]
    assert told == ["Not known: Custom.function = 'nets:raising': raised ValueError: two lines"]


class Measuring:
    """A ledger in which the ERM trial of a network was measured."""

    def __init__(self, trial: TrialConfig) -> None:
        self._trial = trial

    def measured_kinds(self, *_: object) -> list[object]:
        records = [replace(record, metrics={**record.metrics, "epoch_seconds": 2.0}) for record in make_records()]
        return [measured(self._trial, records, hardware("cpu"), 7)]


def test_what_is_built_in_or_was_measured_is_not_looked_at(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.plan, "own_costs", lambda *_: pytest.fail("looked"))
    built_in, own = (Study(name="mine", question="?", trials=[trial]) for trial in (ERM, net("net")))
    assert make_plan(built_in, rows(built_in), None, 1, "cpu").reasons == ()
    known = make_plan(own, rows(own), Measuring(net("net")), 1, "cpu")  # type: ignore[arg-type]
    assert known.estimates[own.trials[0].trial_id] == Estimate(6.0, "measured", 7)


def test_the_command_finds_the_network_beside_the_study(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text(
        "from dataclasses import replace\n"
        "from search_spaces.study import Study\n"
        "from tests.sweeps.conftest import make_trial\n"
        "from trainer.config import Custom\n"
        "STUDY = Study(name='mine', question='?', trials=[replace(make_trial(), model=Custom('nets:net'))])\n"
    )

    def here(trials: dict[str, TrialConfig], data_dir: Path, code_dir: Path) -> dict[str, Own | str]:
        return {alike: own_cost(trial, data_dir, code_dir) for alike, trial in trials.items()}

    monkeypatch.setattr(sweeps.plan, "own_costs", here)
    assert main(["plan", str(folder / "mine.py")]) == 0
    assert "(from FLOPs at an assumed" in capsys.readouterr().out
