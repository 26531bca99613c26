"""``python -m analysis``: reading what was trained. Exit codes: 0 done, 2 bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from search_spaces.catalog import built_in_tunings, find_any
from search_spaces.search import Tuning
from search_spaces.study import Study
from trainer.declaration import ConfigError
from trainer.machine import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and figures of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("report", help="print a study's or a search's tables, write them and its figures")
    command.add_argument("study", metavar="STUDY", help="a study's or a search's name, or the path of your .py file")
    options = parser.parse_args(arguments)
    try:
        _report(find_any(options.study), Results.here(), options.study)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    return 0


def _report(found: Study | Tuning, results: Results, reference: str) -> None:
    """A tuning's two reports, the second one once there is a verdict; a final study's; any other study's."""
    # pandas, MLflow and matplotlib: seconds that a wrong name need not cost
    from analysis.report import report
    from analysis.search_report import search_report
    from analysis.verdict import has_verdict, verdict

    tunings = {tuning.final_name: tuning for tuning in built_in_tunings().values()}
    if isinstance(found, Tuning):
        search_report(found, results, reference)
        if has_verdict(found, results, reference):
            verdict(found, results, reference)
    elif found.name in tunings:
        verdict(tunings[found.name], results, tunings[found.name].name)
    else:
        report(found, results, reference)
