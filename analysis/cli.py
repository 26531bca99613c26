"""``python -m analysis``: reading what was trained. Exit codes: 0 done, 2 bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from search_spaces.catalog import find
from trainer.declaration import ConfigError
from trainer.machine import Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and figures of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("report", help="print a study's table, write its tables and figures")
    command.add_argument("study", metavar="STUDY", help="a study's name, or the path of your own .py file")
    options = parser.parse_args(arguments)
    try:
        study = find(options.study)
        from analysis.report import report  # pandas, MLflow and matplotlib: seconds that a wrong name need not cost

        report(study, Results.here(), options.study)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    return 0
