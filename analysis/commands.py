"""The commands that a report names, for the one who reads it where the study lies."""

from __future__ import annotations

import os
import shlex

from trainer.machine import SUBMITTED_VARIABLE


def make_again(target: str, reference: str) -> str:
    """By which make does ``target`` with the study that the user calls so; a job's study is somewhere else."""
    submitted = os.environ.get(SUBMITTED_VARIABLE)
    return f"make submit {submitted}" if submitted else f"make {target} STUDY={shlex.quote(reference)}"


def make_freeze(reference: str) -> str:
    """By which make writes down what searches have chosen: beside the study's file, which a job has a copy of."""
    if os.environ.get(SUBMITTED_VARIABLE):
        return "make export here, then make import and make freeze where the study's file is (docs/cluster.md)"
    return f"make freeze STUDY={shlex.quote(reference)}"
