"""Where there is no git, as in an image, the commit is the one that the image was built from."""

from __future__ import annotations

import pytest

from sweeps import provenance as module
from sweeps.provenance import COMMIT_VARIABLE, provenance


def test_without_git_the_commit_is_what_the_image_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_git", lambda *arguments: "")
    monkeypatch.setenv(COMMIT_VARIABLE, "3f2a")
    assert provenance()["commit"] == "3f2a"
    monkeypatch.delenv(COMMIT_VARIABLE)
    assert provenance()["commit"] == "unknown"


def test_git_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_git", lambda *arguments: "77c1" if arguments[0] == "rev-parse" else "")
    monkeypatch.setenv(COMMIT_VARIABLE, "3f2a")
    assert provenance()["commit"] == "77c1"
