"""What the README shows works as it stands there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from search_spaces.catalog import find, find_tuning
from trainer.declaration import ConfigError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_study_of_ones_own_can_be_planned(tmp_path: Path) -> None:
    path = tmp_path / "my_study.py"
    path.write_text(next(block for block in python_blocks() if "STUDY = Study(" in block))
    study = find(str(path))
    assert len(study.trials) == 20
    assert [cell.label for cell in study.cells()] == ["Erm", "Amp epsilon=0.1", "Amp epsilon=0.3", "Amp epsilon=1.0"]


def test_the_study_of_ones_own_images_can_be_planned(tmp_path: Path) -> None:
    path = tmp_path / "my_images.py"
    path.write_text(next(block for block in python_blocks() if "IMAGES = ImageFolder(" in block))
    study = find(str(path))
    assert len(study.trials) == 30
    assert len(study.cells()) == 6


def test_the_tuning_of_ones_own_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "my_search.py"
    path.write_text(next(block for block in python_blocks() if "STUDY = Tuning(" in block))
    tuning = find_tuning(str(path))
    assert [(search.name, search.budget, search.seeds) for search in tuning.searches] == [
        ("erm", 20, 3),
        ("amp", 20, 3),
    ]


def test_probes_are_read_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPS_RESULTS", str(tmp_path))
    block = next(block for block in python_blocks() if "load_probes(" in block)
    with pytest.raises(ConfigError, match=r"DecisionBoundary of trial .* is not measured yet"):
        exec(block)


def test_the_network_of_ones_own_is_trained(tmp_path: Path) -> None:
    from trainer.loop import train
    from trainer.machine import Machine

    blocks = python_blocks()
    (tmp_path / "my_models.py").write_text(next(block for block in blocks if "def make_net(" in block))
    declared = next(call for call in re.findall(r"`model=(Custom\(.*?\))`", README))
    study = next(block for block in blocks if "STUDY = Study(" in block)
    study = study.replace("import Amp,", "import Custom, Amp,").replace('Mlp(hidden=(512,), norm="none")', declared)
    (tmp_path / "my_study.py").write_text(study)
    first = find(str(tmp_path / "my_study.py")).trials[0]
    trial = dataclasses.replace(first, epochs=1, lr_milestones=())
    assert type(trial.model).__name__ == "Custom"
    (record,) = train(trial, Machine(data_dir=tmp_path / "data", code_dir=tmp_path))
    assert record.metrics["test/nll"] < 2.4


def test_the_loop_of_ones_own_learns() -> None:
    import torch

    torch.manual_seed(0)
    names: dict[str, object] = {}
    block = next(block for block in python_blocks() if "amp_gradient(" in block)
    exec(block, names)
    loss = names["loss"]
    assert isinstance(loss, torch.Tensor)
    assert loss.item() < 0.9  # from ln 3 = 1.1


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)", README))))
def test_targets_exist(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE) or target.startswith("sweep-")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
