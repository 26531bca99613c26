"""The forms of a report: nothing that was put in is lost, and what was typed stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.document import Document, write_report
from analysis.figures.base import Drawn
from analysis.index import references, write_index
from analysis.render import Strong
from trainer.declaration import ConfigError
from trainer.machine import Results

DOCUMENT = Document(
    name="my-study",
    question="Is <b>this</b> & [that] text?",
    answer="Amp is lower.\nSo is Sam.",
    reproduce="make sweep STUDY='my study.py'",
    reference="my study.py",
    tables={"": [["method", "test NLL"], ["Erm", "0.3"], ["Amp", Strong("0.2")]], "Second": [["cell"], ["a < b"]]},
    notes=["Means over seeds."],
    findings=["It closes 50%."],
    warnings=["One seed is missing."],
    details={"Run ids": [["run"], ["abc123"]]},
)


def drawn(stem: str) -> Drawn:
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return Drawn(stem, f"What {stem} shows, & how.", figure)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def written(results: Results, *stems: str) -> dict[str, Path]:
    frames = {"cells": pd.DataFrame({"cell": ["Erm"], "n": [3]})}
    files = write_report(DOCUMENT, results, frames, map(drawn, stems), {"table.tex": "\\toprule\n"})
    return {file.name: file for file in files}


class Page(HTMLParser):
    """What a browser would fetch, and the text that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.shown: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fetched = dict(attrs).get("href" if tag == "link" else "src")
        if fetched is not None:
            self.addresses.append(fetched)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def test_page_needs_no_other_file_and_shows_everything(results: Results) -> None:
    text = written(results, "epsilon", "cells")["report.html"].read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"url\(|@import|https?://", text)
    shown = " ".join(page.shown)
    expected = [DOCUMENT.question, *DOCUMENT.answer.splitlines(), DOCUMENT.reproduce, "a < b", "abc123", "One seed is"]
    for part in [*expected, "It closes 50%.", "Means over seeds.", "What epsilon shows, & how.", "Second", "Run ids"]:
        assert part in shown
    assert "<strong>0.2</strong>" in text


def test_markdown_and_summary(results: Results) -> None:
    files = written(results, "epsilon")
    text = files["report.md"].read_text(encoding="utf-8")
    assert "![epsilon](figures/epsilon.png)" in text
    assert "**WARNING: One seed is missing.**" in text
    assert "| Amp | **0.2** |" in text
    found = json.loads(files["report.json"].read_text(encoding="utf-8"))
    assert found["figures"] == ["epsilon.png"]
    assert found["answer"] == DOCUMENT.answer
    assert found["warnings"] == ["One seed is missing."]


def test_frames_and_texts_are_beside_it(results: Results) -> None:
    files = written(results, "epsilon")
    assert pd.read_parquet(files["cells.parquet"]).equals(pd.read_csv(files["cells.csv"]))
    assert files["table.tex"].read_text() == "\\toprule\n"


def test_figures_of_an_earlier_report_go(results: Results) -> None:
    written(results, "epsilon", "old")
    written(results, "epsilon")
    folder = results.report("my-study") / "figures"
    assert {file.name for file in folder.iterdir()} == {"epsilon.png", "epsilon.svg"}


def test_terminal_shows_tables_not_details(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    written(results, "epsilon")
    printed = capsys.readouterr().out
    assert "Is <b>this</b> & [that] text?" in printed
    assert "WARNING: One seed is missing." in printed
    assert "abc123" not in printed
    assert "report.html" in printed


def test_a_folder_that_cannot_be_written_is_one_line(results: Results) -> None:
    results.reports.write_text("a file")
    with pytest.raises(ConfigError, match="RESULTS: cannot write the report"):
        written(results)


def test_index_leads_to_every_report(results: Results) -> None:
    written(results, "epsilon")
    index = write_index(results)
    text = index.read_text(encoding="utf-8")
    (link,) = set(re.findall(r'href="([^"]+)"', text))
    assert (index.parent / link).is_file()
    shown = " ".join(Page(text).shown)
    assert "Amp is lower." in shown
    assert "One seed is missing." in shown
    assert len(Page(text).addresses) == 1


def test_index_knows_what_users_called_their_studies(results: Results) -> None:
    written(results)
    assert references(results) == ["my study.py"]


def test_no_report_is_said(results: Results) -> None:
    with pytest.raises(ConfigError, match="no report yet: make sweep"):
        write_index(results)
