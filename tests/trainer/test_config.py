from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.trials import BN_MLP, METHODS, SMALL_AMP, search_trial, tiny
from trainer.config import (
    AdversarialTraining,
    Amp,
    Augment,
    ClipGradients,
    Digits,
    Dropout,
    Erm,
    Holdout,
    Method,
    Mlp,
    Mnist5k,
    Normalization,
    PreActResNet18,
    TrialConfig,
    TwoSpirals,
    Vgg16,
    canonical_json,
    identity,
)
from trainer.declaration import ConfigError, Declaration, added_later, flatten, unflatten

ROOT = Path(__file__).parents[2]

TRIALS = [
    *(tiny(method) for method in METHODS),
    tiny(SMALL_AMP, model=BN_MLP, dataset=Mnist5k(), validation=None, evaluate="test"),
    search_trial(),
    tiny(model=Mlp(hidden=(), norm="none"), lr_milestones=()),
]
every_trial = pytest.mark.parametrize("trial", TRIALS, ids=[trial.trial_id for trial in TRIALS])


# ---- Identity


def written_out(**changes: Any) -> TrialConfig:
    """A trial with nothing left to defaults."""
    fields: dict[str, Any] = {
        "method": Amp(epsilon=0.5, inner_lr=1.0, inner_steps=1, ball="global", bn_stats="clean"),
        "model": Mlp(hidden=(64, 32), norm="batch"),
        "dataset": Digits(digest="a:b"),
        "seed": 3,
        "validation": Holdout(fraction=0.25, seed=1),
        "evaluate": "val+test",
        "epochs": 40,
        "batch_size": 50,
        "lr": 0.05,
        "lr_milestones": (20, 30),
        "lr_decay": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0001,
        "revision": 1,
    }
    return TrialConfig(**(fields | changes))


def test_the_id_of_a_recorded_trial_stays() -> None:
    """Written out by hand: whatever makes this fail orphans every trial recorded before. See ``added_later``."""
    recorded = (
        '{"batch_size":50,"dataset":"Digits","dataset.digest":"a:b","epochs":40,"evaluate":"val+test","lr":0.05,'
        '"lr_decay":0.1,"lr_milestones":[20,30],"method":"Amp","method.ball":"global","method.bn_stats":"clean",'
        '"method.epsilon":0.5,"method.inner_lr":1.0,"method.inner_steps":1,"model":"Mlp","model.hidden":[64,32],'
        '"model.norm":"batch","momentum":0.9,"revision":1,"seed":3,"validation":"Holdout",'
        '"validation.fraction":0.25,"validation.seed":1,"weight_decay":0.0001}'
    )
    assert canonical_json(written_out().params()) == recorded
    assert written_out().trial_id == hashlib.sha256(recorded.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr": 1}, {"lr": 1.0}),
        ({"lr": 1.0}, {"lr": np.float64(1)}),
        ({"lr": 1.0}, {"lr": np.float32(1)}),
        ({"lr": 1.0}, {"lr": np.int64(1)}),
        ({"seed": 3}, {"seed": 3.0}),
        ({"seed": 3}, {"seed": np.int64(3)}),
        ({"seed": 3}, {"seed": np.uint8(3)}),
        ({"seed": 3}, {"seed": np.float64(3)}),
        ({"seed": 3}, {"seed": np.float32(3)}),
        ({"weight_decay": 0}, {"weight_decay": -0.0}),
        ({"lr_milestones": (20, 30)}, {"lr_milestones": [20.0, np.int32(30)]}),
        ({"lr_milestones": (20, 30)}, {"lr_milestones": np.array([20, 30])}),
        ({"evaluate": "val+test"}, {"evaluate": np.str_("val+test")}),
        ({"method": Amp(epsilon=1)}, {"method": Amp(epsilon=1.0, inner_lr=1, inner_steps=np.int16(1))}),  # type: ignore[arg-type]
        ({"model": Mlp(hidden=(4,), norm="none")}, {"model": Mlp(hidden=[4.0], norm="none")}),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_equal_numbers_give_one_id(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert written_out(**one) == written_out(**other)
    assert written_out(**one).trial_id == written_out(**other).trial_id
    assert canonical_json(written_out(**other).params()) == canonical_json(written_out(**one).params())


def variants(declaration: Declaration, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every parameter's name, with a copy of ``declaration`` in which it alone has another value."""
    hints = typing.get_type_hints(type(declaration))
    for field in dataclasses.fields(declaration):  # type: ignore[arg-type]
        value, key = getattr(declaration, field.name), prefix + field.name
        nested = variants(value, key + ".") if isinstance(value, Declaration) else ()
        changed = [(key, other) for other in others(value, hints[field.name])]
        for name, other in [*changed, *nested]:
            try:
                yield name, dataclasses.replace(declaration, **{field.name: other})  # type: ignore[type-var]
            except ConfigError:
                assert field.name == "evaluate", "only this field's values depend on another field"


OPTIONAL: dict[Any, Declaration] = {
    Augment: Augment(flip="horizontal", crop_padding=4),
    Normalization: Normalization(mean=(0.5,), std=(0.2,)),
    ClipGradients: ClipGradients(max_norm=50.0),
}
"""A value of each field that is None unless one asks for more."""


def others(value: Any, hint: Any) -> list[Any]:
    """Valid values of a field other than its own."""
    if typing.get_origin(hint) is Literal:
        return [other for other in typing.get_args(hint) if other != value]
    match value:
        case Erm():
            return [SMALL_AMP]
        case Amp():
            return [Erm()]
        case Digits():
            return [Mnist5k(digest=value.digest)]
        case Mlp():
            return [PreActResNet18()]
        case Holdout():
            return []  # None goes with another ``evaluate``
        case None:
            return [OPTIONAL[kind] for kind in typing.get_args(hint) if kind in OPTIONAL]
        case tuple():
            return [(*value, value[-1] + 1), value[:-1]]
        case str():
            return [value + "0"]
        case int():
            return [value + 1]
        case float():
            return [value * 0.5, math.nextafter(value, 0)]
    raise AssertionError(f"say how a value like {value!r} is changed")


def test_every_change_of_a_field_changes_the_id() -> None:
    trial = written_out()
    found = list(variants(trial))
    ids = [variant.trial_id for _, variant in found]
    assert len({trial.trial_id, *ids}) == 1 + len(ids)
    later = {field.name for field in dataclasses.fields(trial) if field.name not in trial.params()}
    assert {name for name, _ in found} == set(trial.params()) - {"validation"} | later
    assert written_out(validation=None, evaluate="test").trial_id not in {trial.trial_id, *ids}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": Mlp(hidden=(1, 23), norm="none")}, {"model": Mlp(hidden=(12, 3), norm="none")}),
        ({"seed": 1, "epochs": 40}, {"seed": 4, "epochs": 41}),
    ],
)
def test_digits_do_not_run_together(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert written_out(**one).trial_id != written_out(**other).trial_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner(Declaration):
    rate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Before(Declaration):
    inner: Inner
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class After(Declaration):
    """``Before`` as a later version of the code has it."""

    inner: Inner
    steps: int
    clip: float = added_later(0.0)
    widths: tuple[int, ...] = added_later(())
    spread: Literal["others", "all"] = added_later("others")
    second: Inner | None = added_later(None)


def test_a_field_added_later_keeps_the_identity_while_it_has_its_default() -> None:
    before, after = Before(inner=Inner(rate=1), steps=2), After(inner=Inner(rate=1), steps=2)
    assert flatten(after) == flatten(before)
    assert identity(flatten(after)) == identity(flatten(before))
    assert unflatten(After, flatten(before)) == after
    assert flatten(After(inner=Inner(rate=1), steps=2, clip=0, widths=[])) == flatten(before)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"clip": 50}, {"widths": (3,)}, {"spread": "all"}, {"second": Inner(rate=1)}], ids=str
)
def test_a_field_added_later_alters_the_identity_when_it_is_used(changes: dict[str, Any]) -> None:
    plain = After(inner=Inner(rate=1), steps=2)
    used = dataclasses.replace(plain, **changes)
    assert identity(flatten(used)) != identity(flatten(plain))
    assert unflatten(After, flatten(used)) == used
    with pytest.raises(ConfigError, match=f"unknown parameter '{next(iter(changes))}'"):
        unflatten(Before, flatten(used))


# ---- Round trips


@every_trial
def test_a_trial_survives_its_parameters(trial: TrialConfig) -> None:
    through_json = json.loads(json.dumps(trial.params()))
    for params in (trial.params(), through_json, json.loads(canonical_json(trial.params()))):
        again = TrialConfig.from_params(params)
        assert again == trial
        assert again.trial_id == trial.trial_id
        assert again.params() == trial.params()
    assert pickle.loads(pickle.dumps(trial)) == trial


@settings(deadline=None, max_examples=50)
@given(
    st.floats(1e-300, 1e300),
    st.floats(1e-300, 1e300),
    st.integers(1, 10**6),
    st.integers(0, 2**63 - 1),
    st.lists(st.integers(1, 10**9), max_size=4),
)
def test_numbers_survive_exactly(epsilon: float, lr: float, steps: int, seed: int, hidden: list[int]) -> None:
    trial = tiny(
        Amp(epsilon=epsilon, inner_lr=lr, inner_steps=steps), seed, model=Mlp(hidden=tuple(hidden), norm="none"), lr=lr
    )
    again = TrialConfig.from_params(json.loads(canonical_json(trial.params())))
    assert again == trial
    assert again.trial_id == trial.trial_id


def test_parameters_are_flat_and_named_as_the_fields_are() -> None:
    params = tiny(Amp(epsilon=0.25)).params()
    assert params["method"] == "Amp"
    assert params["method.epsilon"] == 0.25
    assert params["lr_milestones"] == [2]
    assert not [key for key in tiny(Erm()).params() if key.startswith("method.")]
    without = tiny(validation=None, evaluate="test").params()
    assert without["validation"] is None
    assert not [key for key in without if key.startswith("validation.")]


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"gradient_clip": 50.0}, ["unknown parameter 'gradient_clip'", "TrialConfig"]),
        ({"method.tau": 1.0}, ["unknown parameter 'method.tau'", "Amp"]),
        ({"method": "Erm"}, ["unknown parameter 'method.", "Erm"]),
        ({"method": "Adam"}, ["method = 'Adam'", "Erm, Dropout"]),
        ({"dataset": "Cifar11"}, ["dataset = 'Cifar11'", "Mnist5k, Digits"]),
        ({"dataset": None}, ["dataset"]),
        ({"validation": None}, ["unknown parameter 'validation."]),
        ({"method.epsilon": -1}, ["Amp.epsilon = -1.0"]),
        ({"seed": "0"}, ["TrialConfig.seed = '0'"]),
    ],
    ids=str,
)
def test_parameters_that_this_code_does_not_know_are_refused(changes: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        TrialConfig.from_params(tiny(SMALL_AMP).params() | changes)
    assert_one_line(caught.value, *fragments)


# ---- Refusals


def assert_one_line(error: Exception, *fragments: str) -> None:
    message = str(error)
    assert "\n" not in message
    assert [fragment for fragment in fragments if fragment not in message] == [], message


def amp(**changes: Any) -> Amp:
    return Amp(**({"epsilon": 0.5} | changes))


def mlp(**changes: Any) -> Mlp:
    return Mlp(**({"hidden": (4,), "norm": "none"} | changes))


def holdout(**changes: Any) -> Holdout:
    return Holdout(**({"fraction": 0.5} | changes))


@pytest.mark.parametrize(
    ("declare", "field", "value", "hint"),
    [
        (amp, "epsilon", -1, "-1.0: must be > 0 (for training without perturbation use Erm())"),
        (amp, "epsilon", 0, "0.0: must be > 0 (for training without perturbation use Erm())"),
        (amp, "epsilon", "0.5", "'0.5': must be a finite number"),
        (amp, "epsilon", math.nan, "nan: must be a finite number"),
        (amp, "epsilon", math.inf, "inf: must be a finite number"),
        (amp, "epsilon", True, "True: must be a finite number"),
        (amp, "epsilon", None, "None: must be a finite number"),
        (amp, "epsilon", [0.5], "[0.5]: must be a finite number"),
        (amp, "epsilon", b"0.5", "must be a finite number"),
        (amp, "epsilon", np.True_, "must be a finite number"),
        pytest.param(amp, "epsilon", 10**400, "must be a finite number", id="an integer beyond all floats"),
        (amp, "inner_lr", 0, "0.0: must be > 0"),
        (amp, "inner_steps", 0, "0: must be >= 1 (for training without perturbation use Erm())"),
        (amp, "inner_steps", True, "True: must be a whole number"),
        (amp, "inner_steps", np.True_, "must be a whole number"),
        (amp, "inner_steps", 1.5, "1.5: must be a whole number"),
        (amp, "inner_steps", "1", "'1': must be a whole number"),
        (amp, "inner_steps", math.nan, "nan: must be a whole number"),
        (amp, "ball", "box", "'box': must be one of 'global', 'per_tensor'"),
        (amp, "ball", None, "None: must be one of"),
        (amp, "bn_stats", "none", "'none': must be one of 'clean', 'all'"),
        (mlp, "hidden", (4, 0), "(4, 0): must be widths >= 1"),
        (mlp, "hidden", "64", "'64': must be a sequence"),
        (mlp, "hidden", 64, "64: must be a sequence"),
        (mlp, "hidden", (4, "5"), "'5': must be a whole number"),
        (mlp, "norm", True, "True: must be one of 'batch', 'none'"),
        (holdout, "fraction", 0, "0.0: must be in (0, 1)"),
        (holdout, "fraction", 1, "1.0: must be in (0, 1)"),
        (holdout, "seed", -1, "-1: must be in [0, 2^32)"),
        (holdout, "seed", 2**32, "4294967296: must be in [0, 2^32)"),
        (tiny, "seed", -1, "-1: must be in [0, 2^63)"),
        (tiny, "seed", 2**63, f"{2**63}: must be in [0, 2^63)"),
        pytest.param(tiny, "seed", 10**400, "must be in [0, 2^63)", id="a seed beyond all floats"),
        (tiny, "epochs", 0, "0: must be >= 1"),
        (tiny, "batch_size", 0, "0: must be >= 1"),
        (tiny, "batch_size", False, "False: must be a whole number"),
        (tiny, "lr", 0, "0.0: must be > 0"),
        (tiny, "lr_decay", 1.5, "1.5: must be in (0, 1]"),
        (tiny, "lr_decay", 0, "0.0: must be in (0, 1]"),
        (tiny, "momentum", 1, "1.0: must be in [0, 1)"),
        (tiny, "weight_decay", -1e-4, "-0.0001: must be >= 0"),
        (tiny, "lr_milestones", (2, 1), "(2, 1): must be rising and within [1, epochs = 3)"),
        (tiny, "lr_milestones", (2, 2), "(2, 2): must be rising"),
        (tiny, "lr_milestones", (0, 2), "(0, 2): must be rising and within [1, epochs = 3)"),
        (tiny, "lr_milestones", (1, 3), "(1, 3): must be rising and within [1, epochs = 3)"),
        (tiny, "evaluate", "test", "'test': must be one with 'val' exactly when validation is a Holdout"),
        (tiny, "evaluate", "train", "'train': must be one of 'val', 'test', 'val+test'"),
        (tiny, "method", "Amp", "'Amp': must be Erm or Dropout"),
        (tiny, "method", mlp(), "must be Erm or Dropout"),
        (tiny, "method", Amp, "must be Erm or Dropout"),
        (tiny, "model", None, "None: must be Mlp"),
        (tiny, "validation", 0.5, "0.5: must be Holdout or None"),
    ],
)
def test_a_bad_value_is_refused_in_a_line_that_names_it(
    declare: Callable[..., Declaration], field: str, value: Any, hint: str
) -> None:
    owner = {amp: "Amp", mlp: "Mlp", holdout: "Holdout", tiny: "TrialConfig"}[declare]
    with pytest.raises(ConfigError) as caught:
        declare(**{field: value})
    assert_one_line(caught.value, f"{owner}.{field} = ", hint)


@pytest.mark.parametrize("evaluate", ["val", "val+test"])
def test_measuring_on_a_split_that_is_not_there_is_refused(evaluate: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny(validation=None, evaluate=evaluate)
    assert_one_line(caught.value, f"TrialConfig.evaluate = '{evaluate}'", "validation")


@pytest.mark.parametrize("evaluate", ["val", "test", "val+test"])
def test_only_a_trial_that_reads_the_test_set_is_final(evaluate: str) -> None:
    validation = Holdout(fraction=0.5) if "val" in evaluate else None
    expected = "final" if "test" in evaluate else "search"
    assert tiny(evaluate=evaluate, validation=validation).phase == expected


def test_a_wrong_pairing_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="epsilon"):
        Erm(epsilon=0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Amp(0.5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="epsilon"):
        Amp()  # type: ignore[call-arg]


@pytest.mark.parametrize("declaration", [Erm(), SMALL_AMP, BN_MLP, Digits(), holdout(), tiny()], ids=repr)
def test_declarations_cannot_be_changed(declaration: Declaration) -> None:
    for field in dataclasses.fields(declaration):  # type: ignore[arg-type]
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(declaration, field.name, 1)
    with pytest.raises((AttributeError, TypeError)):
        declaration.epsilonn = 1  # type: ignore[attr-defined]
    assert hash(declaration) == hash(dataclasses.replace(declaration))  # type: ignore[type-var]


def test_what_a_reader_must_decide_has_no_default() -> None:
    required = {field.name for field in dataclasses.fields(TrialConfig) if field.default is dataclasses.MISSING}
    assert {"method", "model", "dataset", "seed", "validation", "evaluate"} <= required


# ---- Imports


@pytest.mark.parametrize(
    "module", ["trainer.config", "trainer.records", "trainer.machine", "trainer.declaration", "search_spaces.recipes"]
)
def test_declarations_and_records_need_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'numpy', 'ray', 'mlflow'}} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_methods_of_these_tests_are_all_there_are() -> None:
    """A reminder: a method added to the union belongs into ``trials.METHODS``."""
    assert {type(method) for method in METHODS} == set(typing.get_args(Method))


COLOUR = Normalization(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
POLICY = Augment(flip="none", crop_padding=1, policy="cifar10")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"model": Vgg16(width=1)}, "TrialConfig.model = .* must be one for images of 8 × 8 pixels: this one needs 32"),
        ({"augment": Augment(flip="none", crop_padding=8)}, "Augment.crop_padding = 8: must be < 8"),
        ({"augment": Augment(flip="none", crop_padding=0, cutout=16)}, "Augment.cutout = 16: must be < 16"),
        ({"augment": POLICY}, "TrialConfig.augment = .* without policy: AutoAugment is defined for three channels"),
        ({"normalization": COLOUR}, "TrialConfig.normalization = .* one number for each of 1 channels"),
        (
            {"method": Dropout(rate=0.1), "model": Mlp(hidden=(), norm="none")},
            "TrialConfig.model = .* a network with a ReLU",
        ),
        (
            {"method": Dropout(rate=0.1, placement="released")},
            "TrialConfig.model = .* PreActResNet18 or Vgg16 with Dropout.placement",
        ),
        ({"dataset": TwoSpirals(), "augment": OPTIONAL[Augment]}, "TrialConfig.dataset = .* images, not points"),
        (
            {"dataset": TwoSpirals(), "method": AdversarialTraining(step=1.0)},
            "TrialConfig.dataset = .* images, not points, with AdversarialTraining",
        ),
        ({"momentum": 0.0, "momentum_form": "nesterov"}, "TrialConfig.momentum = 0.0: must be > 0"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_declared(changes: dict[str, Any], refusal: str) -> None:
    with pytest.raises(ConfigError, match=refusal) as caught:
        tiny(**changes)
    assert "\n" not in str(caught.value)
