"""The report of the golden study: ``python -m tests.golden_report`` writes its texts anew, for a diff to show."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

from analysis.report import report
from tests.golden_study import declared, deliver
from trainer.machine import TRACKING_VARIABLE, Results

FOLDER = Path(__file__).parent / "golden" / "report"


def written(results: Results) -> dict[str, str]:
    """The texts of the report, by file name, from the stored runs; the page aside, which holds the figures."""
    deliver(results)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        files = report(declared(), results, "golden")
    texts = {file.name: file for file in files if file.suffix in (".md", ".tex", ".csv") and file.name != "trials.csv"}
    shown = printed.getvalue().replace(str(results.root), "results")
    return {"terminal.txt": shown} | {name: file.read_text(encoding="utf-8") for name, file in texts.items()}


def main() -> None:
    """Write them."""
    os.environ.pop(TRACKING_VARIABLE, None)
    with tempfile.TemporaryDirectory() as folder:
        texts = written(Results(Path(folder)))
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.iterdir():
        stale.unlink()
    for name, text in texts.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
