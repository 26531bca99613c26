"""What a check of the machine has found: a verdict, and a line that says why and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweeps.data import printable
from trainer.passwords import hide_passwords

Verdict = Literal["ok", "warning", "FAILED"]


@dataclass(frozen=True, slots=True)
class Finding:
    """about: what was looked at. said: what was found and, unless it is well, the cure."""

    verdict: Verdict
    about: str
    said: str

    def line(self) -> str:
        """For the terminal; without passwords, whoever has put them into a text."""
        return f"{self.verdict:8} {self.about:10} {printable(hide_passwords(self.said))}"


def ok(about: str, said: str) -> Finding:
    """All is well."""
    return Finding("ok", about, said)


def warning(about: str, said: str) -> Finding:
    """It works, and may not for long, or not for everybody."""
    return Finding("warning", about, said)


def failed(about: str, said: str) -> Finding:
    """It does not work, or lies open."""
    return Finding("FAILED", about, said)
