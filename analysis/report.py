"""A study's report: question, answer, tables, figures and how it was done, under ``results/reports/STUDY``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis.commands import make_again
from analysis.conduct import FINISHED, details, failure_rows
from analysis.document import Document, Section, write_report
from analysis.figures.base import Material
from analysis.figures.draw import draw_all
from analysis.images import described, images_of
from analysis.measured import PROBE_NOTES, answers, probe_rows
from analysis.pivot import Pivot, pivots
from analysis.published import published_finding, published_notes, published_rows, published_table
from analysis.render import latex_table, markdown_table
from analysis.runs import load
from analysis.sentences import answer, notes, over_blocks, selection_notes, warnings
from analysis.tables import cells_table, selection_rows, text_rows
from search_spaces.study import Study
from trainer.config import ImageFolder
from trainer.declaration import ConfigError
from trainer.machine import Results


def report(study: Study, results: Results, reference: str) -> list[Path]:
    """Write the report with its tables, frames and figures, print it; the files are returned.

    reference: what the user calls the study. Raises ConfigError when no trial of the study is finished, or when the
    folder cannot be written.
    """
    frame = load(study, results)
    if not (frame["outcome"] == FINISHED).any():
        raise ConfigError(f"{study.name}: no trial is finished in {results.root}: {make_again('sweep', reference)}")
    material = Material(study=study, frame=frame, table=cells_table(study, frame), results=results)
    published, layouts = published_table(study, frame), pivots(study, frame, material.table)
    document = study_document(material, published, layouts, reference)
    frames = {"cells": material.table, "trials": frame} | ({} if published.empty else {"published": published})
    texts = {name: text for layout in layouts for name, text in _files(layout, study.name).items()}
    texts["cells.tex"] = latex_table(text_rows(study, frame, material.table), study.question, f"tab:{study.name}")
    return write_report(document, results, frames, draw_all(material), texts, {"history": material.history})


def _files(layout: Pivot, study: str) -> dict[str, str]:
    """By name: for a paper, for Markdown and for a spreadsheet."""
    as_csv = pd.DataFrame(layout.flat[1:], columns=layout.flat[0]).to_csv(index=False)
    texts = {"tex": layout.latex(study), "md": markdown_table(layout.flat) + "\n", "csv": as_csv}
    return {f"{layout.stem}.{ending}": text for ending, text in texts.items()}


def study_document(material: Material, published: pd.DataFrame, layouts: Sequence[Pivot], reference: str) -> Document:
    """What the report says."""
    study, frame, table = material.study, material.frame, material.table
    failures, ranking = failure_rows(frame), answer(frame, table)
    asked = answers(material)
    return Document(
        name=study.name,
        question=study.question,
        answer="\n".join(asked) or ranking,
        reproduce=reproduce(frame, reference, digested(study, material.results.data)),
        reference=reference,
        tables={"": text_rows(study, frame, table)} | ({"Not finished": failures} if failures else {}),
        findings=[
            *(ranking.splitlines() if asked else []),
            *filter(None, [published_finding(published)]),
            *over_blocks(frame, table),
        ],
        warnings=warnings(frame),
        notes=[
            *notes(frame, table, images_of(study, material.results.data)),
            *([] if len(published) else published_notes(published)),
        ],
        sections=list(_sections(material, published, layouts)),
        details=details(study, frame),
    )


def _sections(material: Material, published: pd.DataFrame, layouts: Sequence[Pivot]) -> Iterator[Section]:
    if len(published):
        yield Section("Against the paper", published_rows(published), published_notes(published))
    for layout in layouts:
        yield Section(f"In the paper's layout {layout.title}".strip(), layout.flat, [layout.caption])
    if selection := selection_rows(material.table):
        yield Section("Last epoch, best on test, best on validation", selection, selection_notes(material.table))
    if measured := probe_rows(material):
        yield Section("What probes measured", measured, PROBE_NOTES)


def digested(study: Study, data_dir: Path) -> list[str]:
    """The commands that read the user's own images as they were read; where nobody has kept how, what may be said."""
    commands = []
    for dataset in dict.fromkeys(trial.dataset for trial in study.trials):
        if isinstance(dataset, ImageFolder):
            known = described(dataset, data_dir)
            size = f" SIZE={known[0].size}" * (known[0].size is not None) if known else " [SIZE=N]"
            channels = " CHANNELS=1" * (known[0].channels == 1) if known else " [CHANNELS=1]"
            commands.append(f"make digest FOLDER=PATH{size}{channels}")
    return commands


def reproduce(frame: pd.DataFrame, reference: str, before: Sequence[str]) -> str:
    """The command that trains and reports it again; of a built-in study with the commit, where all trials are of one.

    A user's own file need not be in any commit. before: the commands that come before it, ``digested``.
    """
    sweep = " && ".join([*before, make_again("sweep", reference)])
    commits = set(frame["commit"].dropna())
    (commit,) = commits if len(commits) == 1 else ("",)
    known = re.fullmatch("[0-9a-f]{40}", commit) and not reference.endswith(".py")
    return f"git checkout {commit} && {sweep}" if known else sweep
