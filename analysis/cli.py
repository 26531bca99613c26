"""``python -m analysis``: reading what was trained. Exit codes: 0 done, 2 bad input, 130 interrupted."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from search_spaces.catalog import built_in, built_in_tunings, find_any
from search_spaces.search import Tuning
from search_spaces.study import Study
from trainer.declaration import ConfigError
from trainer.machine import Results
from trainer.passwords import hide_passwords

STUDY_HELP = "a study's or a search's name, or the path of your .py file"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ConfigError as error:
        print(f"error: {hide_passwords(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and figures of what was trained.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("report", help="print a study's or a search's tables, write them and its figures")
    command.add_argument("study", metavar="STUDY", help=STUDY_HELP)
    command.set_defaults(run=lambda options: _report(find_any(options.study), Results.here(), options.study))
    command = commands.add_parser("report-all", help="the same of all that has finished trials, and an index of them")
    command.set_defaults(run=lambda options: _report_all(Results.here()))
    command = commands.add_parser("compare", help="which settings and which numbers of two studies differ")
    command.add_argument("study", metavar="STUDY", help=STUDY_HELP)
    command.add_argument("other", metavar="OTHER", help="another one")
    command.set_defaults(run=lambda options: _compare(options.study, options.other, Results.here()))
    command = commands.add_parser("theory", help="draw the paper's Figures 1, 3 and 4, which need no training")
    command.set_defaults(run=lambda options: _theory(Results.here()))
    return parser


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


def _report_all(results: Results) -> None:
    """The built-in ones, and a user's own that were reported before and whose files are where they were."""
    from analysis.document import short_path
    from analysis.index import references, write_index
    from analysis.runs import begun

    tunings = built_in_tunings()
    final = {tuning.final_name for tuning in tunings.values()}  # reported with their tunings
    started = begun(results)
    own = [reference for reference in references(results) if reference.endswith(".py")]
    for name in [name for name in built_in() | tunings if name in started and name not in final]:
        _try_report(name, results)
    for reference in own:
        _try_report(reference, results)
    print(short_path(write_index(results)))


def _try_report(reference: str, results: Results) -> None:
    """One that cannot be made, for its file is gone say, keeps none of the others back."""
    try:
        _report(find_any(reference), results, reference)
    except ConfigError as error:
        print(f"{reference}: its report stays as it is: {error}")


def _compare(first: str, second: str, results: Results) -> None:
    from analysis.contrast import contrast_report

    contrast_report(_study(first), _study(second), results, (first, second))


def _study(reference: str) -> Study:
    found = find_any(reference)
    if isinstance(found, Tuning):
        final = shlex.quote(found.final_name)
        raise ConfigError(f"{reference}: a tuning has no settings of its own to compare: its final study is {final}")
    return found


def _theory(results: Results) -> None:
    from analysis.document import report_folder, short_path
    from analysis.figures.base import save_figures
    from analysis.figures.theory import draw_theory

    with report_folder(results, "theory") as folder:
        pictures = save_figures(draw_theory(), folder)
    for picture in pictures:
        print(f"{picture.caption}\n{short_path(picture.png)}\n{short_path(picture.svg)}\n")
