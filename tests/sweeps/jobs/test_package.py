"""What goes along with a job: our packages and the user's own code, and nothing that is private, foreign or large."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.jobs import package as job_package
from sweeps.jobs.package import CODE, MOST_BYTES_OF_FILE, MOST_FILES, Package, pack
from trainer.custom_source import OURS
from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE


def lay_out(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A repository with little in its packages."""
    root = tmp_path / "repository"
    lay_out(root, {f"{name}/__init__.py": f"{name} = 1\n" for name in OURS})
    lay_out(root, {"analysis/templates/style.css": "p {}", "search_spaces/frozen/tuning.json": "{}"})
    return root


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's study with a network beside it."""
    folder = tmp_path / "mine"
    lay_out(folder, {"own.py": "import nets\n", "nets.py": "width = 8\n", "parts/__init__.py": "", "parts/b.py": "1\n"})
    return folder / "own.py"


def names_of(package: Package) -> list[str]:
    return [name for name in package.files if name.startswith("study/")]


MINE = ["study/nets.py", "study/own.py", "study/parts/__init__.py", "study/parts/b.py"]


def test_our_packages_go_along_whole() -> None:
    package = pack("fig8-digits")
    there = {
        path.relative_to(CODE).as_posix()
        for name in OURS
        for path in (CODE / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert set(package.files) == there
    assert package.reference == "fig8-digits"
    assert package.files["sweeps/jobs/package.py"] == Path(job_package.__file__).read_bytes()


def test_what_is_sent_runs_by_itself(tmp_path: Path) -> None:
    """All modules of ours are found in it, and nothing of this checkout is needed."""
    pack("fig8-digits").write(tmp_path)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    check = "import sweeps.cli, analysis.report; print(sweeps.cli.__file__, analysis.report.__file__)"
    done = subprocess.run([sys.executable, "-c", check], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "sweeps/cli.py"), str(tmp_path / "analysis/report.py")], done.stderr


def test_what_lies_beside_and_beneath_a_study_goes_along(code: Path, own: Path) -> None:
    lay_out(own.parent, {"frozen/mine.json": "{}"})
    package = pack(str(own), code)
    assert package.reference == "study/own.py"
    assert names_of(package) == ["study/frozen/mine.json", *MINE]
    ours = {f"{name}/__init__.py" for name in OURS} | {
        "analysis/templates/style.css",
        "search_spaces/frozen/tuning.json",
    }
    assert set(package.files) - set(names_of(package)) == ours
    assert package.files["study/nets.py"] == b"width = 8\n"


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.py",
        ".git/hooks/hook.py",
        "id_rsa",
        "key.pem",
        "data.csv",
        "settings.json",
        "page.html",
        "__pycache__/own.cpython-311.py",
        "venv/lib/module.py",
        "env/lib/python3.11/site-packages/torch/nn.py",
        ".venv/bin/activate_this.py",
    ],
)
def test_nothing_private_or_foreign_goes_along(code: Path, own: Path, name: str) -> None:
    before = pack(str(own), code)
    lay_out(own.parent, {name: "secret = 1\n"})
    package = pack(str(own), code)
    assert names_of(package) == MINE
    assert package.digest == before.digest


@pytest.mark.parametrize("mark", ["pyvenv.cfg", "conda-meta/history", "ledger.db"])
def test_environments_and_results_are_known_whatever_their_names(code: Path, own: Path, mark: str) -> None:
    lay_out(own.parent, {f"odd/{mark}": "", "odd/lib/code.py": "1\n"})
    assert names_of(pack(str(own), code)) == MINE


def test_the_results_at_hand_stay_here(code: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(own.parent, {"trained/code.py": "1\n"})
    assert "study/trained/code.py" in names_of(pack(str(own), code))
    monkeypatch.setenv(RESULTS_VARIABLE, str(own.parent / "trained"))
    assert names_of(pack(str(own), code)) == MINE


def test_links_are_followed_within_the_folder_alone(code: Path, own: Path, tmp_path: Path) -> None:
    folder = own.parent
    lay_out(tmp_path, {"elsewhere/far.py": "far\n", "mine/.env": "TOKEN=1\n"})
    links = {"near.py": folder / "nets.py", "far.py": tmp_path / "elsewhere/far.py", "env.py": folder / ".env"}
    links |= {"gone.py": folder / "not there.py", "elsewhere": tmp_path / "elsewhere", "loop": folder}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    package = pack(str(own), code)
    assert names_of(package) == sorted([*MINE, "study/near.py"])
    assert package.files["study/near.py"] == b"width = 8\n"
    assert {path.name for path in package.left_out} == set(links) - {"near.py"}


def test_a_study_in_the_root_of_the_repository_brings_no_package_twice(code: Path, own: Path) -> None:
    shutil.copytree(own.parent, code, dirs_exist_ok=True)
    lay_out(code, {"tests/test_it.py": "", "benchmarks/one.py": "", "docker/entry/healthy.py": ""})
    assert names_of(pack(str(code / "own.py"), code)) == MINE


def test_a_study_above_the_repository_brings_nothing_of_it(code: Path, tmp_path: Path) -> None:
    lay_out(tmp_path, {"above.py": "1\n"})
    assert names_of(pack(str(tmp_path / "above.py"), code)) == ["study/above.py"]


def test_a_study_in_one_of_our_packages_is_sent_with_it(code: Path) -> None:
    lay_out(code, {"search_spaces/studies/new.py": "1\n"})
    package = pack(str(code / "search_spaces/studies/new.py"), code)
    assert package.reference == "search_spaces/studies/new.py"
    assert package.reference in package.files
    assert names_of(package) == []


def test_a_large_file_is_named(code: Path, own: Path) -> None:
    lay_out(own.parent, {"fits.py": "#" * MOST_BYTES_OF_FILE})
    assert "study/fits.py" in pack(str(own), code).files
    lay_out(own.parent, {"images.py": "#" * (MOST_BYTES_OF_FILE + 200_000)})
    with pytest.raises(
        ConfigError, match=r"a file is larger than 1\.0 MiB; the largest: \S+/mine/images\.py \(1\.2 MiB"
    ):
        pack(str(own), code)


def test_a_large_package_names_its_largest_files(code: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_package, "MOST_BYTES", 2500)
    lay_out(own.parent, {"one.py": "#" * 1400})
    pack(str(own), code)
    lay_out(own.parent, {"two.py": "#" * 1500})
    with pytest.raises(ConfigError, match=r"together; the largest: \S+/mine/two\.py \S+ MiB\), \S+/mine/one\.py"):
        pack(str(own), code)


def test_a_study_among_very_many_files_needs_a_folder_of_its_own(code: Path, own: Path) -> None:
    for number in range(MOST_FILES):
        (own.parent / f"m{number}.py").touch()
    with pytest.raises(ConfigError, match=f"mine: more than {MOST_FILES} files"):
        pack(str(own), code)


def test_a_file_that_cannot_be_read_is_named(code: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=r"\.py: cannot be read: Permission denied"):
        pack(str(own), code)


TREES = st.dictionaries(
    st.from_regex(r"(?:[a-z]{1,4}/)?[a-z]{1,6}\.py", fullmatch=True), st.binary(max_size=40), min_size=1, max_size=6
)


@settings(max_examples=25, deadline=None)
@given(TREES, st.data())
def test_the_digest_is_of_names_and_contents_alone(tree: dict[str, bytes], data: st.DataObject) -> None:
    """Not of when and in which order files were written; and of every name and every byte."""
    shuffled = data.draw(st.permutations(list(tree)))
    digests = []
    for names, time in ((list(tree), 1e9), (shuffled, 1.5e9)):
        with tempfile.TemporaryDirectory() as folder:
            Package("x", {name: tree[name] for name in names}).write(Path(folder, "laid"))
            for path in Path(folder, "laid").rglob("*.py"):
                os.utime(path, (time, time))
            lay_out(Path(folder, "code"), {f"{name}/__init__.py": "" for name in OURS})
            lay_out(Path(folder, "laid"), {"zz_study.py": ""})
            digests.append(pack(f"{folder}/laid/zz_study.py", Path(folder, "code")).digest)
    assert digests[0] == digests[1]
    name = shuffled[0]
    changed = [tree | {name: tree[name] + b"x"}, {f"y{one}": text for one, text in tree.items()}]
    assert len({Package("x", dict(sorted(one.items()))).digest for one in [tree, *changed]}) == 3


def test_bytes_do_not_wander_between_files() -> None:
    assert Package("x", {"a": b"1", "b": b"2"}).digest != Package("x", {"a": b"1b\x002"}).digest


def test_the_list_of_what_is_sent(code: Path, own: Path) -> None:
    package = pack(str(own), code)
    lines = list(package.lines())
    assert lines[:-1] == [f"{len(data):10,}  {name}" for name, data in package.files.items()]
    assert lines[-1].split() == f"{package.size:,} bytes in {len(package.files)} files, digest {package.digest}".split()
    assert package.size == sum(len(data) for data in package.files.values())
