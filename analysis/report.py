"""A study's report: question, answer, tables, figures and how it was done, under ``results/reports/STUDY``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd

from analysis.conduct import FINISHED, failure_rows, protocol_rows
from analysis.document import Document, write_report
from analysis.figures.base import Material
from analysis.figures.draw import draw_all
from analysis.runs import load
from analysis.tables import answer, cells_table, notes, text_rows
from search_spaces.study import Study
from trainer.declaration import ConfigError
from trainer.machine import Results


def report(study: Study, results: Results, reference: str) -> list[Path]:
    """Write the report with its tables, frames and figures, print it; the files are returned.

    reference: what the user calls the study. Raises ConfigError when no trial of the study is finished, or when the
    folder cannot be written.
    """
    frame = load(study, results)
    if not (frame["outcome"] == FINISHED).any():
        again = f"make sweep STUDY={shlex.quote(reference)}"
        raise ConfigError(f"{study.name}: no trial is finished in {results.root}: {again}")
    material = Material(study=study, frame=frame, table=cells_table(study, frame), results=results)
    document = study_document(material, reference)
    frames = {"cells": material.table, "trials": frame}
    return write_report(document, results, frames, draw_all(material))


def study_document(material: Material, reference: str) -> Document:
    """What the report says."""
    study, frame, table = material.study, material.frame, material.table
    failures = failure_rows(frame)
    return Document(
        name=study.name,
        question=study.question,
        answer=answer(frame, table),
        reproduce=reproduce(frame, reference),
        tables={"": text_rows(study, frame, table)} | ({"Not finished": failures} if failures else {}),
        notes=notes(frame, table),
        details={"Protocol: what all trials share": protocol_rows(study)},
    )


def reproduce(frame: pd.DataFrame, reference: str) -> str:
    """The command that trains and reports it again, with the commit where all trials are of one."""
    sweep = f"make sweep STUDY={shlex.quote(reference)}"
    commits = set(frame["commit"].dropna())
    (commit,) = commits if len(commits) == 1 else ("",)
    return f"git checkout {commit} && {sweep}" if re.fullmatch("[0-9a-f]{40}", commit) else sweep
