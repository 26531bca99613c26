"""A user's own network: found and digested without an import, imported as declared, refused in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainer.config import Custom, Dropout, Mlp, TrialConfig
from trainer.custom_source import search_path, source_digest, source_files
from trainer.declaration import ConfigError
from trainer.loop import train
from trainer.machine import Machine
from trainer.models import custom
from trainer.models.registry import build_model
from trainer.settings import SETTINGS

from .trials import numbers, tiny

SHAPE = (1, 8, 8)
NET = """
from torch import nn

def make_net(*, shape, classes, width=8):
    channels, height, pixels = shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * pixels, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, classes),
    )
"""


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """A process that has imported no user's module; everything is put back."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    custom._imported.clear()
    for name in set(sys.modules) - set(modules):
        if name.startswith("my_"):
            del sys.modules[name]
    assert sys.path == path
    assert {name for name, module in modules.items() if sys.modules.get(name) is not module} == set()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, on the path as it is while the study's file is read; the working directory is another."""
    (tmp_path / "study").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "study"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path / "study"


def write(file: Path, source: str = NET) -> Path:
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(source)
    return file


def build(declared: Custom, code_dir: Path, seed: int = 1) -> nn.Module:
    return build_model(declared, SHAPE, 10, seed, code_dir)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def refusal(source: str, folder: Path, function: str = "make_net", **arguments: str | int | float) -> str:
    """The line with which a network of this ``source`` is refused."""
    write(folder / "my_net.py", source)
    with pytest.raises(ConfigError) as caught:
        build(Custom(f"my_net:{function}", arguments=arguments), folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"Custom.function = 'my_net:{function}': ")
    return message


def test_a_network_is_built_with_its_arguments(folder: Path) -> None:
    write(folder / "my_net.py")
    model = build(Custom("my_net:make_net", arguments={"width": 5}), folder)
    assert model(torch.zeros(3, *SHAPE)).shape == (3, 10)
    assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [5, 10]


def test_a_network_is_trained_and_resumed_like_a_built_in_one(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    write(folder / "my_net.py")
    machine = Machine(data_dir=data_dir, code_dir=folder)
    trial = tiny(model=Custom("my_net:make_net", arguments={"width": 16}))
    found = numbers(train(trial, machine))
    assert found[-1]["train/criterion"] < found[0]["train/criterion"]
    assert found == numbers(train(tiny(model=Mlp(hidden=(16,), norm="batch")), machine))
    assert numbers(train(tiny(Dropout(rate=0.5), model=trial.model), machine)) != found


def test_equal_seeds_equal_weights_whatever_was_imported_before(folder: Path) -> None:
    """A module that draws when it is imported draws once a process: the first trial's weights must not differ by it."""
    write(folder / "my_net.py", "import torch\nnoise = torch.randn(7)\n" + NET)
    declared = Custom("my_net:make_net")
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, second, other = build(declared, folder), build(declared, folder), build(declared, folder, seed=2)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_check_of_the_output_leaves_no_trace(folder: Path) -> None:
    remembers = (
        "    net.register_forward_hook(lambda *_: setattr(net, 'graded', torch.is_grad_enabled()))\n    return net\n"
    )
    write(folder / "my_net.py", "import torch\n" + NET.replace("return", "net =") + remembers)
    model = build(Custom("my_net:make_net"), folder)
    assert not model.graded
    (norm,) = (module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0
    assert torch.equal(norm.running_mean, torch.zeros(8))  # type: ignore[arg-type]
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_lazy_layers_have_their_weights(folder: Path) -> None:
    network = "nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))"
    write(folder / "my_net.py", f"from torch import nn\ndef make_net(*, shape, classes): return {network}\n")
    one, other = (build(Custom("my_net:make_net"), folder) for _ in range(2))
    assert sum(parameter.numel() for parameter in one.parameters()) == 650
    assert torch.equal(weights(one), weights(other))


def test_the_digest_follows_the_source_and_not_its_line_endings(folder: Path) -> None:
    file = write(folder / "my_net.py")
    digest = source_digest("my_net")
    assert digest == source_digest("my_net", [folder])
    file.write_bytes(NET.replace("\n", "\r\n").encode())
    assert source_digest("my_net") == digest
    file.write_text(NET + "# a comment\n")
    assert source_digest("my_net") != digest


def test_the_digest_of_a_package_covers_all_its_files_and_their_names(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path / "copy"):
        write(place / "my_nets" / "__init__.py", "from my_nets.deep.net import make_net\n")
        write(place / "my_nets" / "deep" / "__init__.py", "")
        write(place / "my_nets" / "deep" / "net.py")
        write(place / "my_nets" / "notes.txt", "")
    digest = source_digest("my_nets")
    assert source_digest("my_nets", [tmp_path / "copy"]) == digest
    (folder / "my_nets" / "notes.txt").write_text("changed")
    assert source_digest("my_nets") == digest
    inner = source_digest("my_nets.deep.net")
    write(folder / "my_nets" / "deep" / "net.py", NET + "\n")
    assert source_digest("my_nets") != digest
    assert source_digest("my_nets.deep.net") != inner
    write(folder / "my_nets" / "deep" / "net.py")
    (folder / "my_nets" / "deep" / "net.py").rename(folder / "my_nets" / "net.py")
    assert source_digest("my_nets") != digest


IMPORTS = ("import my_layers", "from my_layers import act", "import my_parts.deep", "def f():\n    import my_layers\n")


@pytest.mark.parametrize("imports", IMPORTS)
def test_the_digest_follows_what_the_module_imports_from_beside_it(folder: Path, imports: str) -> None:
    write(folder / "my_net.py", f"import numpy, torch, trainer.loop\n{imports}\n" + NET)
    layers = write(folder / "my_layers.py", "act = 1\n")
    write(folder / "my_parts" / "__init__.py", "from .deep import *\n")
    write(folder / "my_parts" / "deep.py", "import my_layers\n")
    write(folder / "my_other.py", "import my_net\n")
    before = source_digest("my_net")
    write(folder / "my_other.py", "import my_net, sys\n")
    assert source_digest("my_net") == before
    layers.write_text("act = 2\n")
    assert source_digest("my_net") != before
    layers.write_text("act = 1\r\n")
    assert source_digest("my_net") == before


def test_a_changed_import_is_refused_and_imported_again(folder: Path) -> None:
    """In one process, as a worker's: what it imported for the trial before must not stay."""
    write(folder / "my_net.py", "from my_layers import WIDTH\n" + NET.replace("width=8", "width=WIDTH"))
    layers = write(folder / "my_layers.py", "WIDTH = 3\n")
    declared = Custom("my_net:make_net")
    assert weights(build(declared, folder)).numel() == 64 * 3 + 3 + 6 + 40
    layers.write_text("WIDTH = 4\n")
    with pytest.raises(ConfigError, match="the source is now"):
        build(declared, folder)
    assert weights(build(Custom("my_net:make_net"), folder)).numel() == 64 * 4 + 4 + 8 + 50


def test_two_folders_may_hold_different_modules_of_one_name_to_import(folder: Path, tmp_path: Path) -> None:
    for place, width in ((folder, 3), (tmp_path / "other", 4)):
        write(place / "my_net.py", "from my_layers import WIDTH\n" + NET.replace("width=8", "width=WIDTH"))
        write(place / "my_layers.py", f"WIDTH = {width}\n")
    first = Custom("my_net:make_net")
    second = Custom("my_net:make_net", digest=source_digest("my_net", search_path(tmp_path / "other")))
    for _ in range(2):
        assert weights(build(first, folder)).numel() == 64 * 3 + 3 + 6 + 40
        assert weights(build(second, tmp_path / "other")).numel() == 64 * 4 + 4 + 8 + 50


def test_the_digest_is_known_without_running_the_source(folder: Path) -> None:
    write(folder / "my_net.py", "raise RuntimeError")
    assert Custom("my_net:make_net").digest == source_digest("my_net")
    assert "my_net" not in sys.modules


def test_the_digest_is_part_of_the_identity_and_survives_the_way_through_parameters(folder: Path) -> None:
    file = write(folder / "my_net.py")
    one = tiny(model=Custom("my_net:make_net", arguments={"width": 3}))
    file.write_text(NET + "\n\n")
    other = tiny(model=Custom("my_net:make_net", arguments={"width": 3}))
    assert one.trial_id != other.trial_id
    file.unlink()
    assert TrialConfig.from_params(one.params()) == one


def test_the_study_s_folder_is_looked_in_before_the_working_directory(folder: Path) -> None:
    """In the same order when a study is declared and when it is trained."""
    write(Path.cwd() / "my_net.py", "raise RuntimeError('not this one')")
    file = write(folder / "my_net.py")
    assert source_files("my_net", search_path()) == [file] == source_files("my_net", search_path(folder))
    build(Custom("my_net:make_net"), folder)
    file.unlink()
    assert source_files("my_net", search_path()) == [Path.cwd() / "my_net.py"]


def test_what_lies_beside_the_module_can_be_imported_now_and_when_it_is_called(folder: Path) -> None:
    write(folder / "my_helpers.py")
    write(
        folder / "my_net.py",
        "def make_net(**sizes):\n    from my_helpers import make_net\n    return make_net(**sizes)\n",
    )
    declared = Custom("my_net:make_net")
    sys.path.remove(str(folder))
    try:
        assert build(declared, folder)(torch.zeros(2, *SHAPE)).shape == (2, 10)
    finally:
        sys.path.insert(0, str(folder))


@pytest.mark.parametrize("function", ["my_nets:make_net", "my_nets.net:make_net"])
def test_a_package(folder: Path, function: str) -> None:
    write(folder / "my_nets" / "__init__.py", "from .net import make_net\n")
    write(folder / "my_nets" / "net.py", "from my_nets.parts import make_net\n")
    write(folder / "my_nets" / "parts.py")
    assert build(Custom(function), folder)(torch.zeros(2, *SHAPE)).shape == (2, 10)


def test_a_changed_source_is_refused_when_the_trial_starts(folder: Path) -> None:
    file = write(folder / "my_net.py")
    declared = Custom("my_net:make_net")
    build(declared, folder)
    file.write_text(NET.replace("width=8", "width=9"))
    with pytest.raises(
        ConfigError, match=rf"^Custom.digest = '{declared.digest}': the source is now .*my_net.py.*anew"
    ):
        build(declared, folder)


def test_a_process_imports_a_changed_source_again(folder: Path) -> None:
    """At the same length and within a second, which Python's own cache of compiled code does not notice."""
    file = write(folder / "my_net.py")
    for width in (8, 9, 8):
        file.write_text(NET.replace("width=8", f"width={width}"))
        model = build(Custom("my_net:make_net"), folder)
        assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [width, 10]


def test_a_module_that_something_else_imported_before_it_changed_is_imported_again(folder: Path) -> None:
    file = write(folder / "my_net.py", "old = True\n")
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    __import__("my_net")
    sys.dont_write_bytecode = before
    file.write_text(NET)
    build(Custom("my_net:make_net"), folder)
    assert not hasattr(sys.modules["my_net"], "old")


def test_an_unchanged_source_is_imported_once(folder: Path) -> None:
    write(folder / "my_net.py", "import sys\nsys.my_imports = getattr(sys, 'my_imports', 0) + 1\n" + NET)
    try:
        for _ in range(3):
            build(Custom("my_net:make_net"), folder)
        assert sys.my_imports == 1  # type: ignore[attr-defined]
    finally:
        del sys.my_imports  # type: ignore[attr-defined]


@pytest.mark.parametrize("function", ["my_nets:make_net", "my_nets.net:make_net"])
def test_studies_in_two_folders_may_use_one_name(folder: Path, tmp_path: Path, function: str) -> None:
    """As files and as packages, and one after the other in a process."""
    folders = {5: folder, 6: tmp_path / "other", 7: tmp_path / "third"}
    for width, place in folders.items():
        if width == 7 and function.startswith("my_nets:"):
            write(place / "my_nets.py", NET.replace("width=8", f"width={width}"))
            continue
        write(place / "my_nets" / "__init__.py", "from .net import make_net\n")
        write(place / "my_nets" / "net.py", NET.replace("width=8", f"width={width}"))
    for width in (5, 6, 7, 5):
        place = folders[width]
        declared = Custom(function, digest=source_digest(function.partition(":")[0], [place]))
        model = build(declared, place)
        assert [layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)] == [width, 10]


def test_equal_sources_in_two_folders(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path / "copy"):
        write(place / "my_net.py")
        declared = Custom("my_net:make_net")
        build(declared, place)
        assert Path(str(sys.modules["my_net"].__file__)) == place / "my_net.py"


def test_a_foreign_module_of_the_name_does_not_win(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "site" / "my_net" / "__init__.py", "raise RuntimeError('a foreign package')")
    write(folder / "my_net.py")
    sys.path.insert(0, str(tmp_path / "site"))
    try:
        declared = Custom("my_net:make_net", digest=source_digest("my_net", [folder]))
        assert build(declared, folder)(torch.zeros(2, *SHAPE)).shape == (2, 10)
    finally:
        sys.path.remove(str(tmp_path / "site"))


@pytest.mark.parametrize("name", ["trainer", "search_spaces", "math", "torch"])
def test_a_name_that_the_process_uses_is_refused_and_stays_what_it_was(folder: Path, name: str) -> None:
    write(folder / f"{name}.py")
    used = sys.modules.get(name)
    declared = Custom(f"{name}:make_net")
    with pytest.raises(
        ConfigError, match=rf"^Custom.function = '{name}:make_net': '{name}' means .*: rename .*{name}.py$"
    ):
        build(declared, folder)
    assert sys.modules.get(name) is used
    assert Custom is sys.modules["trainer.config"].Custom


def test_no_source(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^Custom.function: no source of module 'my_nothing' beside the study's file"
    ):
        Custom("my_nothing:make_net")
    write(folder / "my_nets" / "net.py")
    with pytest.raises(ConfigError, match=r"'my_nets.net' .* \(each package on the way needs an __init__.py\)$"):
        Custom("my_nets.net:make_net")
    write(folder / "my_net.py")
    with pytest.raises(ConfigError, match=r"no source of module 'my_net\.inner'"):
        Custom("my_net.inner:make_net")
    write(folder / "my_compiled.pyc")
    with pytest.raises(ConfigError, match="no source of module 'my_compiled'"):
        Custom("my_compiled:make_net")
    with pytest.raises(ConfigError, match="no source of module 'my_gone'"):
        build(Custom("my_gone:make_net", digest="0" * 16), folder)


@pytest.mark.parametrize(
    "function", ["my_net", "my_net:", ":make", "my net:make", "my_net:make.net", "1net:make", "a.b"]
)
def test_a_function_is_named_by_module_and_name(function: str) -> None:
    with pytest.raises(ConfigError, match="must be 'module:function'"):
        Custom(function, digest="0" * 16)


def test_a_missing_function(folder: Path) -> None:
    assert "no such function in" in refusal(NET, folder, function="make_nett")
    assert "no such function in" in refusal("make_net = 3", folder)


def test_what_the_user_s_code_raises_is_named_and_chained(folder: Path) -> None:
    assert "its import raised ZeroDivisionError: division by zero" in refusal("1 / 0", folder)
    assert "its import raised SyntaxError" in refusal("def make_net(", folder)
    assert "its import raised SystemExit: 3" in refusal("raise SystemExit(3)", folder)
    assert "raised KeyError: 'two lines'" in refusal("def make_net(**_): raise KeyError('two lines')", folder)
    assert "raised ValueError: two lines" in refusal("def make_net(**_): raise ValueError('two\\nlines')", folder)
    assert "raised TypeError: make_net() got an unexpected keyword argument 'widht'" in refusal(NET, folder, widht=3)
    write(folder / "my_net.py", "def make_net(**_): raise ValueError('mine')")
    with pytest.raises(ConfigError) as caught:
        build(Custom("my_net:make_net"), folder)
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "mine"


def test_what_is_no_network_for_the_data(folder: Path) -> None:
    head = "from torch import nn\ndef make_net(*, shape, classes): return "
    assert "returned function: must be a torch.nn.Module" in refusal(head + "lambda images: images", folder)
    assert "gives [2, 64] for 2 images: must be logits [2, 10]" in refusal(head + "nn.Flatten()", folder)
    narrow = refusal(head + "nn.Sequential(nn.Flatten(), nn.Linear(64, classes - 1))", folder)
    assert "gives [2, 9] for 2 images: must be logits [2, 10]" in narrow
    wrong = "in evaluation mode on images [2, 1, 8, 8] its network raised RuntimeError"
    assert wrong in refusal(head + "nn.Linear(3, classes)", folder)
    several = "from torch import nn\nclass Two(nn.Module):\n  def forward(self, x): return x, x\n"
    assert "gives tuple for 2 images" in refusal(several + "def make_net(**_): return Two()", folder)


def test_one_network_for_all_trials_is_refused(folder: Path) -> None:
    """Else the second trial of a process would go on with the first one's weights."""
    cached = "import functools\n" + NET.replace("def make_net", "@functools.cache\ndef make_net")
    write(folder / "my_net.py", cached)
    declared = Custom("my_net:make_net")
    first = build(declared, folder)
    with pytest.raises(ConfigError, match="returned a network that another trial has: must make a new one each time"):
        build(declared, folder)
    assert first is not None


def test_nothing_compiled_is_left_beside_the_source(folder: Path) -> None:
    write(folder / "my_net.py")
    build(Custom("my_net:make_net"), folder)
    assert [path.name for path in folder.iterdir()] == ["my_net.py"]


def test_the_import_system_is_put_back(folder: Path) -> None:
    before = list(sys.path)
    write(folder / "my_net.py")
    build(Custom("my_net:make_net"), folder)
    refusal("1 / 0", folder)
    assert sys.path == before
    assert not sys.dont_write_bytecode


MEDDLING = """
import random
import numpy
import torch

def meddle():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(3)
    torch.set_grad_enabled(False)
    torch.backends.mkldnn.enabled = False
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = False
    torch.set_float32_matmul_precision("medium")

meddle()
"""


@pytest.mark.parametrize("where", ["import", "function"])
def test_what_a_network_sets_for_the_process_is_undone(folder: Path, data_dir: Path, where: str) -> None:
    """Else the numbers of another trial in the same worker would depend on it."""
    call = "" if where == "import" else "    meddle()\n    torch.set_default_dtype(torch.float32)\n"
    source = NET.replace("    channels, height", f"{call}    channels, height")
    write(folder / "my_net.py", (MEDDLING if call == "" else MEDDLING.removesuffix("meddle()\n")) + source)
    machine = Machine(data_dir=data_dir, code_dir=folder)
    other = tiny(model=Mlp(hidden=(8,), norm="batch"))
    alone = numbers(train(other, machine))
    before = [get() for get, _ in SETTINGS]
    own = tiny(model=Custom("my_net:make_net"))
    first = numbers(train(own, machine))
    assert [get() for get, _ in SETTINGS] == before
    assert numbers(train(other, machine)) == alone
    assert numbers(train(own, machine)) == first  # imported before, or not


def test_weights_drawn_with_numpy_and_python_follow_the_seed(folder: Path) -> None:
    source = NET.replace(
        "    channels, height",
        "    import random, numpy\n    width = 1 + int(numpy.random.randint(1000)) + random.randrange(1000)\n"
        "    channels, height",
    )
    write(folder / "my_net.py", source)
    widths = []
    for seed in (1, 1, 2):
        np.random.rand(3)
        model = build(Custom("my_net:make_net"), folder, seed)
        widths.append(next(layer.out_features for layer in model.modules() if isinstance(layer, nn.Linear)))
    assert widths[0] == widths[1] != widths[2]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("net = nn.Sequential(nn.Flatten())\n    return net", "its network gives .* for 2 images"),
        (
            "net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).requires_grad_(False)\n    return net",
            "no parameter that requires a gradient",
        ),
        (
            "net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
            "    nn.init.constant_(net[1].bias, float('nan'))\n    return net",
            "not finite before any training",
        ),
        (
            "class Net(nn.Sequential):\n        def forward(self, x):\n            y = super().forward(x)\n"
            "            return (y, y) if self.training else y\n"
            "    return Net(nn.Flatten(), nn.Linear(64, classes))",
            "its network gives tuple for 2 images",
        ),
        (
            "class Net(nn.Sequential):\n        def forward(self, x):\n            assert not self.training, 'no'\n"
            "            return super().forward(x)\n"
            "    return Net(nn.Flatten(), nn.Linear(64, classes))",
            r"in training mode on images .* its network raised AssertionError: no",
        ),
    ],
    ids=["shape", "frozen", "nan", "tuple in training", "raises in training"],
)
def test_networks_that_cannot_be_trained_are_refused_in_one_line(folder: Path, body: str, why: str) -> None:
    source = f"from torch import nn\n\ndef make_net(shape, classes):\n    {body}\n"
    assert re.search(why, refusal(source, folder))
