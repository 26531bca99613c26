"""Data sets beside runs: which images a trial reads, and what for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
from mlflow.entities import Run

from search_spaces import recipes
from search_spaces.study import Study
from sweeps.tracking.inputs import CONTEXT, DIGEST_LENGTH, SOURCES, dataset_inputs
from sweeps.tracking.tracker import Delivery
from tests.sweeps.conftest import Desk, make_records, make_study, make_trial
from trainer.config import Cifar10, Dataset, Erm, Svhn, TrialConfig, TwoSpirals

TRIAL = make_trial()
TRAIN, TEST = TRIAL.dataset.digest.split(":")  # type: ignore[union-attr]  # of Digits


def rows(trial: TrialConfig) -> list[tuple[str, str, dict[str, str]]]:
    """Name, digest and tags of each input."""
    found = dataset_inputs(trial.params())
    return [(one.dataset.name, one.dataset.digest, {tag.key: tag.value for tag in one.tags}) for one in found]


def of_run(run: Run) -> list[tuple[str, str, str]]:
    """Name, digest and context of each input that MLflow has."""
    assert run.inputs is not None
    found = [(one.dataset, {tag.key: tag.value for tag in one.tags}) for one in run.inputs.dataset_inputs]
    return sorted((dataset.name, dataset.digest, tags[CONTEXT]) for dataset, tags in found)


IN_MLFLOW = [
    ("Digits test", TEST, "test"),
    ("Digits training", TRAIN, "training"),
    ("Digits validation", TRAIN, "validation"),
]


def test_a_final_trial_reads_three_parts_of_which_two_share_the_training_images() -> None:
    share = {"split_seed": "0"}
    assert rows(TRIAL) == [
        ("Digits training", TRAIN, {CONTEXT: "training", "share": "0.666667", **share}),
        ("Digits validation", TRAIN, {CONTEXT: "validation", "share": "0.333333", **share}),
        ("Digits test", TEST, {CONTEXT: "test"}),
    ]


def test_a_search_trial_never_reads_the_test_images() -> None:
    assert [tags[CONTEXT] for _, _, tags in rows(replace(TRIAL, evaluate="val"))] == ["training", "validation"]


def test_without_a_split_all_training_images_are_trained_on() -> None:
    whole = rows(replace(TRIAL, validation=None, evaluate="test"))
    assert whole == [("Digits training", TRAIN, {CONTEXT: "training"}), ("Digits test", TEST, {CONTEXT: "test"})]


def test_an_archive_has_one_digest_and_files_have_one_each() -> None:
    def digests(dataset: Dataset) -> list[str]:
        return [digest for _, digest, _ in rows(replace(TRIAL, dataset=dataset, validation=None, evaluate="test"))]

    assert digests(Cifar10()) == [Cifar10().digest.removeprefix("md5:")] * 2
    assert digests(Svhn()) == Svhn().digest.split(":")[1:]


def test_what_has_no_digest_is_known_by_its_parameters() -> None:
    spirals = recipes.spirals_mlp(Erm(), 0)
    trials = spirals, replace(spirals, seed=1), replace(spirals, dataset=TwoSpirals(noise=0.5))
    first, same, other = ({digest for _, digest, _ in rows(trial)} for trial in trials)
    assert first == same != other
    assert len(first) == 1


def test_the_source_says_what_is_declared() -> None:
    dataset = dataset_inputs(TRIAL.params())[0].dataset
    source = json.loads(dataset.source)
    assert source == {"from": "package scikit-learn", "dataset": "Digits", "dataset.digest": f"{TRAIN}:{TEST}"}
    assert dataset.source_type == "package"


def test_every_data_set_has_a_source() -> None:
    assert set(SOURCES) == {kind.__name__ for kind in get_args(Dataset)}


@pytest.mark.parametrize("kind", [kind for kind in get_args(Dataset) if hasattr(kind, "sizes")])
def test_mlflow_takes_every_digest(kind: type[Cifar10]) -> None:
    trial = replace(TRIAL, dataset=kind())
    assert all(0 < len(digest) <= DIGEST_LENGTH for _, digest, _ in rows(trial))


def test_trials_cells_and_copies_show_their_data_once(desk: Desk) -> None:
    study = make_study()
    trial, cell = study.trials[0], study.cells()[0]
    for _ in range(2):  # a second driver replays
        tracker = desk.tracker(study)
        tracker.write(Delivery(trial, "leased", make_records()[:1]))
        tracker.write(Delivery(trial, "finished", make_records()))
    later = Study(name="later", question="And now?", trials=(trial, make_trial(seed=7)))
    desk.tracker(later).copy(trial, "toy")
    runs = desk.run("toy", trial.trial_id), desk.run("toy", cell.cell_id), desk.run("later", trial.trial_id)
    assert [of_run(run) for run in runs] == [IN_MLFLOW] * 3


def test_a_kill_between_data_and_parameters_loses_neither(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study()
    trial, tracker = study.trials[0], desk.tracker(study)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(desk.client), "log_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            tracker.write(Delivery(trial, "leased"))
    desk.tracker(study).write(Delivery(trial, "finished", make_records()))
    run = desk.run("toy", trial.trial_id)
    assert of_run(run) == IN_MLFLOW
    assert run.data.params["method"] == "Erm"
