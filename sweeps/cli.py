"""``python -m sweeps``: fetch the data of a study, plan, run, search, probe, publish, move and serve it, keep house.

The command line takes a study and facts of the machine, never a hyper-parameter. Exit codes: 0 all trials finished, 1
some failed or diverged, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from search_spaces.catalog import built_in, built_in_tunings, find, find_any, find_final, find_tuning, frozen_of
from search_spaces.search import Tuning
from search_spaces.study import Study
from sweeps.budget import FREE_HOURS, Budget
from sweeps.cluster.job_code import require_lasting_results
from sweeps.cluster.packing import LEAST_SHARE
from sweeps.cost.power import power_lines
from sweeps.data import fetch, printable, require_data, take_in
from sweeps.databases import require_own_databases
from sweeps.filters import Selection, refuse_hyper_parameters
from sweeps.hardware import cores, torch_sees_gpu
from sweeps.ledger import OVER, Ledger, LedgerRow
from sweeps.plan import lines, make_plan
from sweeps.status import status_lines
from sweeps.sweep import ADDRESS_VARIABLE, INTERRUPTED, StudySweep, code_folder, joined, with_pending
from sweeps.versions import refuse_unsafe
from trainer.declaration import ConfigError
from trainer.machine import RESULTS_VARIABLE, Results
from trainer.passwords import hide_passwords

LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned."""
    try:
        options = _parsed(arguments)
        require_lasting_results()
        if options.command in LISTENING:
            refuse_unsafe()
        return int(options.command(options))
    except ConfigError as error:
        print(f"error: {printable(hide_passwords(str(error)))}", file=sys.stderr)
        return 2
    except SQLAlchemyError as error:
        print(f"error: {_ledger_refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _ledger_refusal(error: SQLAlchemyError) -> str:
    """The one line for a ledger that could be opened but does not do its work any more, as on a full disk."""
    cause = " ".join(hide_passwords(str(getattr(error, "orig", None) or error)).split())[:200]
    where = hide_passwords(Results.here().ledger_url)
    return f"ledger {where}: {cause}: once it works again the same command goes on, what was trained is kept"


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Raises ConfigError for options that are hyper-parameters; ends the process for others that there are not."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    refuse_hyper_parameters(unknown)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sweeps", description="Declared studies, each trial trained once.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command, text, *parts in _commands():
        # No abbreviations: --seed would be --seeds.
        sub = commands.add_parser(command.__name__.strip("_"), help=text, description=text, allow_abbrev=False)
        sub.set_defaults(command=command)
        for add in parts:
            add(sub)
    return parser


def _commands() -> Iterator[tuple[Any, ...]]:
    """What does it, what it says of itself, and what adds its arguments."""
    yield _list, "list the built-in studies"
    text = "show a study's cells, how much of it is finished, and what the rest will take"
    yield _plan, text, _add_study, _add_filters, _add_jobs, _add_device, _add_share
    yield _fetch, "bring a study's data into the data folder, from the network where need be", _add_study, _add_filters
    yield _digest, "read a folder of your own images and print the line by which a study declares them", _add_images
    text = "train what is not finished yet, then measure the probes that the study declares"
    yield _run, text, _add_study, _add_filters, _add_budget, _add_jobs, _add_device, _add_share, _add_address
    text = "measure the declared probes of the finished trials"
    yield _probe, text, _add_study, _add_jobs, _add_device, _add_address
    text = "try settings on validation images until each search of a tuning has spent its budget"
    yield _search, text, _add_tuning, _add_budget, _add_jobs, _add_device, _add_share, _add_address
    yield _freeze, "write what the searches have chosen into a file, before the test set is read", _add_tuning
    text = "train what was frozen, and the untuned settings, on all training images; measure it on the test set"
    yield _final, text, _add_tuning, _add_filters, _add_budget, _add_jobs, _add_device, _add_share, _add_address
    text = "send a study to a Ray elsewhere, with the code, as a job, and follow it until its end"
    parts = _add_filters, _add_budget, _add_cluster_jobs, _add_device, _add_share, _add_server, _add_dry_run
    yield _submit, text, _add_study, _add_phase, *parts
    yield _jobs, "list the jobs that submit has sent to a Ray", _add_server
    yield _cancel, "end a job, and wait until it has", _add_study_of_job, _add_job, _add_server
    yield _dashboard, "browse searches in Optuna's own pages, on this machine alone", _add_dashboard_port
    yield _status, "show how far a study is, and why trials failed", _add_study, _add_filters
    text = "train one trial in the foreground to watch it; nothing of it is kept"
    yield _trial, text, _add_trial, _add_code, _add_device
    yield _deliver, "write into MLflow what it lacks of a study, or of all", _add_any_study
    yield _gc, "remove weights that no study needs any more and what killed processes left", _add_files
    yield _forget, "remove one trial: the next run of its study trains it anew", _add_trial
    yield _publish, "put the study's report into MLflow", _add_study
    yield _ui, "browse results in MLflow's own pages, on this machine alone", _add_port, _add_loopback
    yield _server, "run MLflow for other people and machines, behind passwords", _add_port, _add_host
    text = "write all that is known of a study, or tuning, into a file for another ledger"
    yield _export, text, _add_study, _add_file
    yield _import, "take over a study that export wrote, without loss or double", _add_file
    yield _backup, "write the whole results folder, but the data, into a file, while sweeps run", _add_file
    yield _restore, "put what backup wrote into an empty results folder", _add_file
    yield _doctor, "look whether this machine is ready, and whether anything on it lies open", _add_data
    yield _token, "make the token by which the machines of a Ray cluster know each other"


def _add_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", help="a study's name, or the path of your own .py file")


def _add_tuning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="TUNING", help="a tuning's name, or the path of your own .py file")


def _add_any_study(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", nargs="?", help="without it, all studies that trained anything")


def _add_files(parser: argparse.ArgumentParser) -> None:
    text = "your own studies' .py files; of studies that are not named all weights stay"
    parser.add_argument("studies", metavar="FILE", nargs="*", help=text)
    parser.add_argument("--dry-run", action="store_true", help="say what would be freed, and free nothing")


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="PATH", help="with train/ and test/, or with a folder a class")
    parser.add_argument("--size", type=_positive, help="side of a square that images are resized and cropped to")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=3, help="1: grey (default: %(default)s)")


def _add_trial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trial_id", metavar="TRIAL_ID", help="as status prints it, or a run's tag trial_id")


def _add_code(parser: argparse.ArgumentParser) -> None:
    text = "your study's .py file, where a Custom network lies beside it"
    parser.add_argument("--study", metavar="FILE", help=text)


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    text = f"trials at a time (default: {cores()}, or as many as the nodes of the Ray to join have cores)"
    parser.add_argument("--jobs", type=_positive, help=text)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")


def _add_share(parser: argparse.ArgumentParser) -> None:
    text = "of a GPU, 0.25 for four trials on each (default: as many as fit, which the first of a kind finds out)"
    parser.add_argument("--gpus-per-trial", metavar="F", type=_share, help=text)


def _add_address(parser: argparse.ArgumentParser) -> None:
    text = (
        f"of a Ray that is up, HOST:PORT or auto (default: {ADDRESS_VARIABLE}, else a Ray of our own on this machine)"
    )
    parser.add_argument("--address", metavar="ADDRESS", help=text)


def _add_phase(parser: argparse.ArgumentParser) -> None:
    text = "of a tuning (default: search); final trains what was frozen"
    parser.add_argument("--phase", choices=("search", "final"), help=text)


def _add_cluster_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_positive, help="trials at a time (default: as run has it where the job runs)")


def _add_server(parser: argparse.ArgumentParser) -> None:
    text = f"of Ray's server for jobs, http://HOST:8265 (default: {ADDRESS_VARIABLE}, else this machine's)"
    parser.add_argument("--address", metavar="URL", help=text)


def _add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def _add_study_of_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="STUDY", nargs="?", help="its job that is not over")


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", metavar="ID", help="as jobs prints it")


def _add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=5000, help="default: %(default)s")


def _add_loopback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help=argparse.SUPPRESS)  # for whoever asks for another to be told of server


def _add_host(parser: argparse.ArgumentParser) -> None:
    text = "address to listen at (default: %(default)s, this machine alone); 0.0.0.0 for all"
    parser.add_argument("--host", default=LOOPBACK, help=text)
    names = "by which clients call this machine; can be repeated (default: the host)"
    parser.add_argument("--name", dest="names", metavar="NAME", action="append", default=[], help=names)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="such as fig8.zip")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", action="store_true", help="also read the data sets that are here, and verify them")


def _add_dashboard_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=_port, default=8080, help="default: %(default)s")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    help_only = "of the declared trials those with this parameter, such as method=Amp; can be repeated"
    parser.add_argument("--only", metavar="FIELD=VALUE", action="append", default=[], help=help_only)
    parser.add_argument("--seeds", metavar="N", type=_positive, help="the first N seeds of each cell")


def _add_budget(parser: argparse.ArgumentParser) -> None:
    hours = f"refuse what is estimated at more core- or GPU-hours (without it, more than {FREE_HOURS:g} is asked about)"
    parser.add_argument("--max-hours", metavar="H", type=_hours, help=hours)
    parser.add_argument("--max-trials", metavar="N", type=_positive, help="refuse to train more trials")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours > 0")
    return hours


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than one: a trial uses one GPU, or a share of it")
    if not LEAST_SHARE <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of a GPU from {LEAST_SHARE} to 1")
    return share


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")
    return int(text)


def _port(text: str) -> int:
    port = _positive(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"{port} is not a port: 1 to 65535")
    return port


def _list(_options: argparse.Namespace) -> int:
    studies, tunings = built_in().values(), built_in_tunings().values()
    width = max(map(len, (*built_in(), *built_in_tunings())))
    for study in studies:
        print(f"{study.name:{width}} {len(study.trials):5} trials    {study.question}")
    for tuning in tunings:
        print(f"{tuning.name:{width}} {len(tuning.searches):5} searches  {tuning.question}")
    return 0


def _opened() -> tuple[Results, Ledger]:
    results = Results.here()
    _require_writable(results)
    require_own_databases(results)
    return results, Ledger(results.ledger_url)


def _open(study: Study) -> tuple[Results, Ledger]:
    results, ledger = _opened()
    ledger.declare(study.name, study.trials)
    return results, ledger


def _require_writable(results: Results) -> None:
    try:
        results.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results.root):  # of a name that no other driver tries at the same moment
            pass
    except OSError as error:
        raise ConfigError(f"RESULTS ({RESULTS_VARIABLE}): cannot write to {results.root}: {error.strerror}") from error


def _existing_ledger() -> Ledger | None:
    results = Results.here()
    require_own_databases(results)
    return Ledger(results.ledger_url) if results.has_ledger() else None


def _ledger_there_is() -> Ledger:
    ledger = _existing_ledger()
    if ledger is None:
        raise ConfigError(f"RESULTS ({RESULTS_VARIABLE}): no ledger in {Results.here().root}: make sweep makes one")
    return ledger


def _rows(study: Study, ledger: Ledger | None) -> dict[str, LedgerRow]:
    """The study's trials, without writing anything: what no ledger has is pending."""
    ids = [trial.trial_id for trial in study.trials]
    return with_pending(study, ledger.rows(ids) if ledger else {})


def _at_once(options: argparse.Namespace, study: Study) -> int:
    """Trials at a time: as the user says, or fewer where the study's question needs that."""
    jobs = _wanted_at_once(options, _gpus_per_trial(options))
    return min(jobs, study.at_once or jobs)


def _wanted_at_once(options: argparse.Namespace, gpus_per_trial: float | None) -> int:
    """As the user says, else a trial for each core of this machine, or of the Ray to join.

    Of such a Ray's nodes those that there are now: for nodes that may come later, ``--jobs`` says how many trials then.
    """
    if options.jobs is None and (address := joined()) and not address.startswith("http"):  # that is a server for jobs
        from sweeps.cluster.connection import room_of_theirs

        return room_of_theirs(options.device, gpus_per_trial)
    return int(options.jobs or cores())


def _gpus_per_trial(options: argparse.Namespace) -> float | None:
    """Raises ConfigError on a CPU."""
    share: float | None = options.gpus_per_trial
    if share is not None and options.device != "cuda":
        raise ConfigError(f"--gpus-per-trial {share:g}: trials on a CPU take no GPU: leave it out, or --device cuda")
    return share


def _require_gpu(device: str) -> None:
    """Refuse what would otherwise be refused with an experiment made in MLflow; of a Ray to join only that can tell."""
    ours = os.environ.get(ADDRESS_VARIABLE, "") in ("", "local")
    if device == "cuda" and ours and not torch_sees_gpu():
        raise ConfigError("--device cuda: torch sees no GPU on this machine: train with --device cpu")


def _plan(options: argparse.Namespace) -> int:
    declared, gpus = find_any(options.study), _gpus_per_trial(options)
    if isinstance(declared, Tuning):
        return _plan_search(declared, options, gpus)
    study, ledger = _selection(options).of(declared), _existing_ledger()
    rows, jobs, code_dir = _rows(study, ledger), _at_once(options, declared), code_folder(options.study)
    plan = make_plan(study, rows, ledger, jobs, options.device, gpus, code_dir)
    known = ledger.measured([trial.trial_id for trial in declared.trials]) if ledger else {}
    print("\n".join([*lines(plan), *power_lines(declared, study, known)]))
    return 0


def _plan_search(tuning: Tuning, options: argparse.Namespace, gpus: float | None) -> int:
    from sweeps.search.commands import plan_of

    _refuse_filters(options)
    print("\n".join(plan_of(tuning, options.study, _wanted_at_once(options, gpus), options.device, gpus).lines()))
    return 0


def _refuse_filters(options: argparse.Namespace) -> None:
    """Of a search there is no part: methods that had another budget, or other seeds, cannot be compared."""
    if given := _selection(options).as_options():
        raise ConfigError(f"{given}: a search is tried whole, for all methods get the same budget: leave it out")


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(tuple(options.only), options.seeds)


def _status(options: argparse.Namespace) -> int:
    declared = find_any(options.study)
    if isinstance(declared, Tuning):
        from sweeps.search.commands import status

        _refuse_filters(options)
        return status(declared, options.study)
    study = _selection(options).of(declared)
    rows = _rows(study, _existing_ledger())
    print("\n".join(status_lines(study, rows, options.study, Results.here())))
    return 0


def _trial(options: argparse.Namespace) -> int:
    from sweeps.rerun import rerun

    row, results = _ledger_there_is().find(options.trial_id), Results.here()
    return rerun(row, results, options.device, code_folder(options.study or ""))


def _deliver(options: argparse.Namespace) -> int:
    from sweeps.deliver import deliver, deliver_all

    ledger, results = _ledger_there_is(), Results.here()
    if options.study is None:
        return deliver_all(built_in(), ledger, results)
    declared = find_any(options.study)
    if isinstance(declared, Tuning):
        from sweeps.search.commands import deliver as deliver_search

        return deliver_search(declared, options.study, ledger, results)
    return deliver(declared, _rows(declared, ledger), ledger, results)


def _gc(options: argparse.Namespace) -> int:
    from sweeps.housekeeping import collect_garbage

    declared = [*built_in().values(), *built_in_tunings().values(), *map(find_any, options.studies)]
    collect_garbage(declared, _ledger_there_is(), Results.here(), options.dry_run)
    return 0


def _forget(options: argparse.Namespace) -> int:
    from sweeps.housekeeping import forget

    ledger = _ledger_there_is()
    forget(ledger.find(options.trial_id), ledger, Results.here())
    return 0


def _run(options: argparse.Namespace) -> int:
    return _run_study(find(options.study), options, "sweep")


def _final(options: argparse.Namespace) -> int:
    return _run_study(find_final(options.study), options, "final")


def _run_study(declared: Study, options: argparse.Namespace, command: str) -> int:
    _use_address(options)
    selection, gpus = _selection(options), _gpus_per_trial(options)
    study = selection.of(declared)
    results, ledger = _open(declared)
    sweep = StudySweep(declared, options.study, results, ledger, cores(), options.device, selection, gpus, command)
    rows = sweep.rows()
    left = [trial for trial in study.trials if rows[trial.trial_id].state not in OVER]
    require_data(left, results.data, sweep.named)
    if left:  # else no Ray is needed, nor one to be asked
        sweep = replace(sweep, jobs=_at_once(options, declared))
    plan = make_plan(study, rows, ledger, sweep.jobs, options.device, gpus, sweep.code_dir)
    if not Budget(options.yes, options.max_hours, options.max_trials).approve(plan):
        print("Nothing was trained")
        return INTERRUPTED

    if plan.estimates:
        _require_gpu(options.device)
    from sweeps.run import run  # MLflow, and Ray when there is work: seconds that the other commands do not need

    return run(sweep, plan.time() if plan.seconds else "time not known yet", plan.peak)


def _use_address(options: argparse.Namespace) -> None:
    if options.address is not None:
        os.environ[ADDRESS_VARIABLE] = options.address  # where Ray itself looks as well


def _search(options: argparse.Namespace) -> int:
    _use_address(options)
    tuning, gpus = find_tuning(options.study), _gpus_per_trial(options)
    results, ledger = _opened()
    from sweeps.run import search
    from sweeps.search.commands import opened, plan_of_sweep

    jobs = _wanted_at_once(options, gpus)
    with opened(tuning, options.study, results, ledger, jobs, options.device, gpus) as sweep:
        bases = [search.base for search in tuning.searches]
        require_data(bases, results.data, sweep.named)
        plan = plan_of_sweep(sweep)
        if not Budget(options.yes, options.max_hours, options.max_trials).approve(plan):
            print("Nothing was trained")
            return INTERRUPTED
        if plan.estimates:
            _require_gpu(options.device)
        return search(sweep, plan.time() if plan.seconds else "time not known yet", plan.peak)


def _freeze(options: argparse.Namespace) -> int:
    tuning, path = find_tuning(options.study), frozen_of(options.study)
    results = Results.here()
    ledger = _ledger_there_is()
    from sweeps.search.commands import opened
    from sweeps.search.freeze import freeze, frozen_lines

    with opened(tuning, options.study, results, ledger) as sweep:
        print("\n".join(frozen_lines(freeze(sweep, path), path, sweep.named)))
    return 0


def _submit(options: argparse.Namespace) -> int:
    from sweeps.jobs.server import address
    from sweeps.jobs.submit import Order, submit

    declared = find_any(options.study)
    if isinstance(declared, Tuning) and options.phase != "final":
        _refuse_filters(options)
    order = Order(options.study, declared, options.phase, _selection(options), _for_the_driver(options))
    return submit(order, address(options.address), options.dry_run)


def _for_the_driver(options: argparse.Namespace) -> list[str]:
    """The options that are facts of the machine, and budgets, as they were given."""
    given = {
        "--jobs": options.jobs,
        "--device": options.device,
        "--gpus-per-trial": _gpus_per_trial(options),
        "--max-hours": options.max_hours,
        "--max-trials": options.max_trials,
    }
    return [text for name, value in given.items() if value is not None for text in (name, str(value))]


def _jobs(options: argparse.Namespace) -> int:
    from sweeps.jobs.listing import show_jobs
    from sweeps.jobs.server import JobServer, address

    show_jobs(JobServer(address(options.address)))
    return 0


def _cancel(options: argparse.Namespace) -> int:
    from sweeps.jobs.listing import cancel
    from sweeps.jobs.server import JobServer, address

    return cancel(JobServer(address(options.address)), options.study, options.job)


def _dashboard(options: argparse.Namespace) -> int:
    from sweeps.servers.dashboard import serve

    serve(Results.here(), options.port)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    declared = find_any(options.study)
    if isinstance(declared, Tuning):
        _refuse_filters(options)
        fetch((search.base for search in declared.searches), Results.here().data)
    else:
        fetch(_selection(options).of(declared).trials, Results.here().data)
    return 0


def _digest(options: argparse.Namespace) -> int:
    take_in(options.folder, options.size, options.channels, Results.here().data)
    return 0


def _probe(options: argparse.Namespace) -> int:
    from sweeps.probe import probe

    study = find(options.study)
    _use_address(options)
    results, ledger = _open(study)
    jobs = _wanted_at_once(options, 1.0 if options.device == "cuda" else None)
    return probe(StudySweep(study, options.study, results, ledger, jobs, options.device))


def _publish(options: argparse.Namespace) -> int:
    declared = find_any(options.study)
    results, ledger = _opened()
    if isinstance(declared, Tuning):
        from sweeps.search.commands import publish_searched

        published = publish_searched(declared, options.study, results, ledger)
    else:
        published = _publish_study(declared, results, ledger)
    if published:
        from sweeps.tracking.publish import shown_at

        print(f"In MLflow as well: {shown_at(declared.name, results)}")
    return 0


def _publish_study(study: Study, results: Results, ledger: Ledger) -> bool:
    from sweeps.tracking.publish import publish

    ledger.declare(study.name, study.trials)
    return publish(study, results, ledger)


def _ui(options: argparse.Namespace) -> int:
    from sweeps.servers.ui import serve

    if options.host not in (None, LOOPBACK, "localhost"):
        raise ConfigError(f"--host {options.host}: ui asks nobody for a password: make server HOST={options.host} does")
    serve(Results.here(), options.port)
    return 0


def _server(options: argparse.Namespace) -> int:
    from sweeps.servers.server import Address, serve

    results = Results.here()
    _require_writable(results)
    serve(results, Address(options.host, options.port, options.names))
    return 0


def _export(options: argparse.Namespace) -> int:
    from sweeps.transfer.study import export_study

    export_study(options.study, options.file, _ledger_there_is(), Results.here())
    return 0


def _import(options: argparse.Namespace) -> int:
    from sweeps.transfer.study import import_study

    results, ledger = _opened()
    return import_study(options.file, ledger, results)


def _backup(options: argparse.Namespace) -> int:
    from sweeps.transfer.backup import back_up

    back_up(options.file, Results.here())
    return 0


def _restore(options: argparse.Namespace) -> int:
    from sweeps.transfer.backup import restore

    restore(options.file, Results.here())
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from sweeps.doctor.doctor import doctor

    return doctor(Results.here(), options.data)


def _token(_options: argparse.Namespace) -> int:
    from sweeps.cluster.ray_token import make_token

    print("\n".join(make_token()))
    return 0


LISTENING = frozenset({_run, _search, _final, _submit, _server, _ui, _dashboard, _token})
"""Commands that start Ray or open a socket, or come before that: no library may be one that is known to be unsafe."""
