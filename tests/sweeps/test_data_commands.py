"""``fetch``, ``digest``, and ``run`` without the data: one line, before anything starts."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search_spaces import recipes
from search_spaces.catalog import find
from sweeps.cli import main
from sweeps.data import fetch, require_data
from sweeps.ledger import Ledger
from sweeps.sweep import StudySweep
from trainer.config import Cifar10, Digits, Erm, Holdout, ImageFolder, Mnist5k, TrialConfig, TwoSpirals
from trainer.data.parts import part_files
from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE, Results

STUDY = """
from dataclasses import replace
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import *

STUDY = Study(name="mine", question="?", trials=[
    replace(recipes.digits_mlp(Erm(), seed), dataset={dataset}) for seed in range(3)
])
"""
FOLDER = ImageFolder(digest="0123456789abcdef", classes=2, test=Holdout(fraction=0.5))


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.setenv(RESULTS_VARIABLE, str(tmp_path / "results"))
    return Results(tmp_path / "results")


def study_file(folder: Path, dataset: object) -> str:
    path = folder / "mine.py"
    path.write_text(STUDY.format(dataset=dataset))
    return str(path)


def refusal(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main(command) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.err.startswith("error: ")
    return shown.err.strip().removeprefix("error: ")


def trial(dataset: object) -> TrialConfig:
    return dataclasses.replace(recipes.digits_mlp(Erm(), 0), dataset=dataset)  # type: ignore[arg-type]


# ---- run


def test_run_refuses_before_anything_starts(tmp_path: Path, results: Results) -> None:
    code = f"""
import sys
from sweeps.cli import main
assert main(["run", {study_file(tmp_path, "Cifar10()")!r}]) == 2
print(sorted({{"ray", "torch", "mlflow"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr
    cure = f"make fetch STUDY={tmp_path}/mine.py RESULTS={results.root}"
    assert done.stderr == f"error: Cifar10: not in {results.data}: fetch it once with `{cure}`\n"


def test_what_it_says_to_run_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my studies").mkdir()
    message = refusal(capsys, "run", study_file(tmp_path / "my studies", "Cifar10()"))
    assert f"make fetch STUDY='{tmp_path}/my studies/mine.py' RESULTS=" in message


def test_run_asks_for_a_folder_of_images(tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "run", study_file(tmp_path, FOLDER))
    assert message.startswith(
        f"ImageFolder: imagefolder-all-0123456789abcdef.pt is not in {results.data}: run `make digest FOLDER=PATH"
        f" RESULTS={results.root}` here"
    )


def test_data_that_trials_bring_by_themselves_are_not_asked_for(tmp_path: Path) -> None:
    require_data([trial(dataset) for dataset in (Digits(), Mnist5k(), TwoSpirals())], tmp_path, "STUDY=x")


@pytest.mark.parametrize("dataset", [Cifar10(), FOLDER])
def test_every_part_must_be_there(tmp_path: Path, dataset: Cifar10 | ImageFolder) -> None:
    trials = [trial(Digits()), trial(dataset)]
    for path in part_files(dataset, tmp_path).values():
        with pytest.raises(ConfigError, match=type(dataset).__name__):
            require_data(trials, tmp_path, "STUDY=x")
        path.touch()
    require_data(trials, tmp_path, "STUDY=x")


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    trials = [trial(dataset) for dataset in (Cifar10(), Digits(), FOLDER, Cifar10())]
    with pytest.raises(ConfigError) as caught:
        require_data(trials, tmp_path, "STUDY=x")
    assert re.fullmatch(r"Cifar10: not in .* STUDY=x`; ImageFolder: .* is not in .*", str(caught.value))


def test_what_is_finished_needs_no_data(tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run`` then delivers and counts; only what is left to train needs its data."""
    reference = study_file(tmp_path, "Cifar10()")
    ran: list[str] = []

    def run(sweep: StudySweep, *_: object) -> int:
        ran.append(sweep.study.name)
        return 0

    monkeypatch.setattr("sweeps.run.run", run)
    assert main(["run", reference]) == 2
    ids = [trial.trial_id for trial in find(reference).trials]
    ledger = Ledger(results.ledger_url)
    for left in (2, 1, 0):
        lease = ledger.lease(ids, "me", "mine")
        assert lease is not None
        assert ledger.settle(lease.trial_id, "me", "finished")
        assert main(["run", reference]) == (2 if left else 0)
    assert ran == ["mine"]


# ---- fetch


def test_fetch_brings_what_a_package_ships(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = study_file(tmp_path, "Digits()")
    for word in ("now", "already"):
        assert main(["fetch", reference]) == 0
        assert capsys.readouterr().out == f"Digits: {word} in {results.data}, verified\n"
    assert all(path.exists() for path in part_files(Digits(), results.data).values())


def test_fetch_has_nothing_to_do_for_points(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", study_file(tmp_path, "TwoSpirals()")]) == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert not results.data.exists()


def test_fetch_without_a_network(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    message = refusal(capsys, "fetch", study_file(tmp_path, "Cifar10()"))
    assert re.match(
        r"Cifar10: could not be downloaded \(.*refused.*\): try again, or put cifar-10-python\.tar\.gz \(", message
    )
    assert f"into {results.data} " in message


def test_fetch_goes_on_with_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [trial(dataset) for dataset in (FOLDER, Digits(), TwoSpirals())]
    with pytest.raises(ConfigError, match=r"^ImageFolder: .* is not in"):
        fetch(trials, tmp_path)
    assert capsys.readouterr().out.startswith(f"Digits: now in {tmp_path}, verified\nTwoSpirals: made anew")


def test_fetch_cannot_bring_a_users_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "make digest FOLDER=PATH" in refusal(capsys, "fetch", study_file(tmp_path, FOLDER))


@pytest.mark.parametrize("command", ["fetch", "digest"])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    results.root.touch()
    argument = study_file(tmp_path, "Digits()") if command == "fetch" else str(images(tmp_path / "mine"))
    assert f"{results.data}: cannot write to it" in refusal(capsys, command, argument)


# ---- digest


def images(folder: Path) -> Path:
    for place in range(10):
        path = folder / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), 20 * place, dtype="uint8")).save(path)
    return folder


def declared_in(output: str) -> ImageFolder:
    """What the last line is, pasted into a study."""
    last = output.strip().splitlines()[-1]
    declared = eval(f"dict({last})", {"ImageFolder": ImageFolder, "Holdout": Holdout})["dataset"]
    assert isinstance(declared, ImageFolder)
    return declared


def test_digest_prints_the_declaration_that_trains(
    tmp_path: Path, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["digest", str(images(tmp_path / "mine"))]) == 0
    output = capsys.readouterr().out
    assert "10 images [3, 4, 6] of 2 classes: a, b" in output
    assert re.search(r'^dataset=ImageFolder\(digest="[0-9a-f]{16}", classes=2, test=Holdout\(', output, re.MULTILINE)
    declared = declared_in(output)
    require_data([trial(declared)], results.data, "STUDY=x")
    assert main(["fetch", study_file(tmp_path, declared)]) == 0
    assert capsys.readouterr().out == f"ImageFolder: already in {results.data}, verified\n"


def test_digest_of_a_split_folder_with_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "test"):
        images(tmp_path / "mine" / part)
    assert main(["digest", str(tmp_path / "mine"), "--size", "3", "--channels", "1"]) == 0
    output = capsys.readouterr().out
    assert "10 train and 10 test images [1, 3, 3] of 2 classes" in output
    declared = declared_in(output)
    assert declared.test is None
    assert re.fullmatch("([0-9a-f]{16}):\\1", declared.digest), "both parts hold the same images here"
    assert "test=" not in output


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", r"a\x1b[31m\udcff, é"), ("ascii", r"a\x1b[31m\udcff, \xe9")])
def test_names_of_classes_are_shown_with_escapes(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    for name in ("a\x1b[31m\udcff", "é"):
        shutil.copytree(images(tmp_path / "mine") / "a", tmp_path / "odd" / name)
    output = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr("sys.stdout", output)
    assert main(["digest", str(tmp_path / "odd")]) == 0
    output.seek(0)
    assert output.readline() == f"10 images [3, 4, 6] of 2 classes: {shown}\n"


def test_digest_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "digest", str(tmp_path / "none")) == f"{tmp_path / 'none'}: no such folder"
    assert refusal(capsys, "digest", f"{tmp_path}/a\x1b[31m\nb") == f"{tmp_path}/a\\x1b[31m\\nb: no such folder"
    assert refusal(capsys, "digest", "") == "PATH is empty: name the folder of your images"
