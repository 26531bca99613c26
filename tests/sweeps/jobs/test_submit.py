"""Sending a study as a job, following, listing and cancelling jobs, against a server that answers as Ray's does."""

from __future__ import annotations

import contextlib
import http.server
import os
import shlex
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search_spaces.catalog import find_any
from search_spaces.search import Tuning
from sweeps.cli import main
from sweeps.cluster.ray_token import MODE_VARIABLE, PATH_VARIABLE, TOKEN_VARIABLE
from sweeps.filters import Selection
from sweeps.jobs import server as job_server
from sweeps.jobs.package import pack
from sweeps.jobs.server import DEFAULT_ADDRESS, SERVER_VARIABLE, address
from sweeps.jobs.submit import OF_THE_CLUSTER, Order
from sweeps.sweep import ADDRESS_VARIABLE, StudySweep
from tests.sweeps.conftest import make_study
from tests.sweeps.jobs.fake_jobs import FakeJobs, serving
from trainer.declaration import ConfigError
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE, SUBMITTED_VARIABLE, TRACKING_VARIABLE, Results

pytest.importorskip("aiohttp_cors", reason="Ray has no client for jobs: pip install '.[cluster]'")

OURS = (ADDRESS_VARIABLE, SERVER_VARIABLE, MODE_VARIABLE, TOKEN_VARIABLE, PATH_VARIABLE, SUBMITTED_VARIABLE)
STUDY = """
from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Custom, Erm
from dataclasses import replace

trial = replace(recipes.digits_mlp(Erm(), 0), model=Custom("nets:make"))
STUDY = Study(name="mine", question="Does it go along?", trials=[trial])
"""
TUNING = "tune-table1-small"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's: an empty folder, no token, nothing said of addresses."""
    for name in (*OURS, *OF_THE_CLUSTER, RESULTS_VARIABLE):
        monkeypatch.setenv(name, "")  # first, for what the code sets is taken back then
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(job_server, "LOST_SECONDS", 0.5)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJobs]:
    """With a token: Ray wants one for good in a process that has started a Ray of its own, as another test may have."""
    monkeypatch.setenv(TOKEN_VARIABLE, "0" * 64)
    with serving(FakeJobs()) as fake:
        yield fake


@pytest.fixture
def submit(ray: FakeJobs, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The exit code of ``submit`` there, and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        code = main(["submit", *arguments, "--address", ray.address])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return call


def refused(*arguments: str, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command is refused."""
    code = main(arguments)
    printed = capfd.readouterr()
    assert code == 2, printed.out + printed.err
    (line,) = printed.err.splitlines()
    return line.removeprefix("error: ")


def test_the_server_is_found_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address(None) == DEFAULT_ADDRESS == "http://127.0.0.1:8265"
    monkeypatch.setenv(ADDRESS_VARIABLE, "http://lab:8265/")
    assert address(None) == "http://lab:8265"
    monkeypatch.setenv(SERVER_VARIABLE, "https://jobs.lab.example.org")
    assert address(None) == "https://jobs.lab.example.org"
    assert address("http://other:1") == "http://other:1"


@pytest.mark.parametrize(
    "wrong", ["lab:6379", "auto", "ray://lab:10001", "http://", "http://lab:8265/page", "local", "http://a@lab:1"]
)
def test_the_address_of_a_ray_to_join_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"jobs go to the page of Ray's head, http://HOST:8265") as caught:
        address(wrong)
    assert str(caught.value).startswith(f"RAY_ADDRESS = {wrong}: ")


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(ConfigError, match=r"http://me:\*\*\*@lab:8265/x"):
        address("http://me:secret@lab:8265/x")


def test_where_nothing_answers_one_line_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for command in (("jobs",), ("cancel", "--job", "x"), ("submit", "fig8-digits")):
            line = refused(*command, "--address", url, capfd=capfd)
            assert line.startswith(f"RAY_ADDRESS = {url}: nothing answers there ([Errno 111] Connection refused)")


def test_a_job_whose_server_stays_away_goes_on(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise job_server.UnansweredError("nothing answers")

    monkeypatch.setattr(job_server.JobServer, "follow", lost)
    code, printed = submit("fig8-digits")
    assert code == 130
    last = printed.splitlines()[-1]
    assert last.startswith("nothing answers. Where Ray goes on, so does job fig8-digits-run-1; ")
    assert last.endswith(f": make submit STUDY=fig8-digits RAY_ADDRESS={ray.address}")


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """A page of somebody else's."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("status", [200, 404, 500])
def test_what_is_no_ray_is_told_so(
    status: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "status", status)
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            line = refused("jobs", "--address", f"http://127.0.0.1:{server.server_port}", capfd=capfd)
        finally:
            server.shutdown()
            thread.join()
    assert "no Ray answers there, but something else" in line


@pytest.mark.parametrize(("status", "what"), [(401, "its token"), (403, "another token")])
def test_who_has_no_token_is_told_where_it_belongs(
    ray: FakeJobs, status: int, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ray.status = status
    line = refused("jobs", "--address", ray.address, capfd=capfd)
    assert line.startswith(f"{ray.address}: this Ray asks for {what}: RAY_AUTH_TOKEN_PATH names the file")


@pytest.mark.parametrize("name", [TOKEN_VARIABLE, PATH_VARIABLE, "file"])
def test_a_token_that_there_is_will_be_sent(name: str, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default Ray's client would keep it to itself."""
    job_server._use_token()
    assert MODE_VARIABLE not in os.environ
    if name == "file":
        (environment / ".ray").mkdir()
        (environment / ".ray/auth_token").write_text("0" * 32)
    else:
        monkeypatch.setenv(name, "0" * 32)
    job_server._use_token()
    assert os.environ[MODE_VARIABLE] == "token"


def test_a_study_is_sent_and_its_log_followed(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPS_COMMIT", "1" * 40)
    ray.log = ["Runtime env is setting up.\n", "fig8-digits: 4 of 4", " finished\n"]
    code, printed = submit("fig8-digits", "--seeds", "1", "--jobs", "3", "--max-hours", "2.5")
    assert code == 0
    first, second, *log = printed.splitlines()
    assert first == f"Job fig8-digits-run-1 is sent to {ray.address}: its log follows, and Ctrl-C leaves it running."
    at = f"RAY_ADDRESS={ray.address}"
    assert second == f"All jobs: make jobs {at}. To stop it: make cancel JOB=fig8-digits-run-1 {at}"
    assert log == ["Runtime env is setting up.", "fig8-digits: 4 of 4 finished"]
    (job,) = ray.sent
    order = Order("fig8-digits", find_any("fig8-digits"), selection=Selection(seeds=1), options=())
    options = "--jobs 3 --device cpu --max-hours 2.5 --seeds 1"
    assert job["entrypoint"] == order.entrypoint("fig8-digits").replace("--yes --seeds 1", f"--yes {options}")
    assert job["metadata"]["sweeps.digest"] == pack("fig8-digits").digest
    assert ray.files() == dict(pack("fig8-digits").files)
    assert job["runtime_env"]["working_dir"].startswith("gcs://")
    named = f"STUDY=fig8-digits {at}"
    variables = {"SWEEPS_SUBMITTED": named, "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    commit = job["runtime_env"]["env_vars"].pop("SWEEPS_COMMIT")
    assert len(commit.removesuffix("-dirty")) == 40
    assert job["runtime_env"]["env_vars"] == variables
    assert not any(name.startswith("entrypoint_") for name in job)  # else it would not run on the head


def test_no_address_or_password_of_this_machine_is_sent(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER_VARIABLE, "postgresql+psycopg://ledger:hunter2@db/ledger")
    monkeypatch.setenv(TRACKING_VARIABLE, "http://mlflow.here:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    code, printed = submit("fig8-digits")
    assert code == 0
    assert "SWEEPS_LEDGER_URL, MLFLOW_TRACKING_URI: not sent, the job uses the cluster's own\n" in printed
    told = b"".join(ray.bodies) + b"".join(ray.files().values()) + printed.encode()
    assert b"sweeps.digest" in told
    assert b"hunter2" not in told
    assert b"mlflow.here" not in told


def test_an_absolute_results_folder_is_named_to_the_job(
    ray: FakeJobs,
    submit: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(RESULTS_VARIABLE, "/mnt/shared results")
    assert submit("fig8-digits")[0] == 0
    monkeypatch.setenv(RESULTS_VARIABLE, "results")  # what make says where the user says nothing
    assert submit("fig8-digits")[0] == 0
    shared, silent = (job["runtime_env"]["env_vars"] for job in ray.sent)
    assert shared[RESULTS_VARIABLE] == "/mnt/shared results"
    assert shared[SUBMITTED_VARIABLE].startswith("STUDY=fig8-digits RESULTS='/mnt/shared results' RAY_ADDRESS=")
    assert RESULTS_VARIABLE not in silent
    monkeypatch.setenv(RESULTS_VARIABLE, "my/results")
    line = refused("submit", "fig8-digits", "--address", ray.address, capfd=capfd)
    assert line == "RESULTS=my/results: must be an absolute path that all nodes of the Ray see"


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0, ""),
        ({"status": "FAILED", "driver_exit_code": 1}, 1, ""),
        ({"status": "FAILED", "driver_exit_code": 2}, 2, ""),
        ({"status": "FAILED", "driver_exit_code": 130}, 130, "; what was trained is kept"),
        ({"status": "FAILED", "driver_exit_code": -9}, 130, "The driver of job fig8-digits-run-1 died: exit code -9: "),
        ({"status": "FAILED", "message": "Job supervisor\nactor died"}, 130, "died: Job supervisor actor died; what"),
        ({"status": "STOPPED"}, 130, "Job fig8-digits-run-1 was stopped; what was trained is kept"),
        ({"status": "GONE"}, 130, "Ray does not know job fig8-digits-run-1 any more: its head was started anew"),
    ],
)
def test_the_exit_code_is_the_drivers(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], outcome: dict[str, object], code: int, said: str
) -> None:
    ray.becomes = outcome
    found, printed = submit("fig8-digits")
    assert found == code
    last = printed.splitlines()[-1]
    if said:
        assert said in last
        assert last.endswith(f"To go on: make submit STUDY=fig8-digits RAY_ADDRESS={ray.address}")
    else:
        assert last.startswith("All jobs:")


def test_a_connection_that_breaks_loses_and_doubles_nothing(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]]
) -> None:
    ray.log, ray.cuts = [f"line {number} ε\n" for number in range(6)], [4, 2, 5]
    code, printed = submit("fig8-digits")
    assert code == 0
    assert ray.cuts == []
    assert printed.splitlines()[2:] == [f"line {number} ε" for number in range(6)]


@contextlib.contextmanager
def _once_followed(ray: FakeJobs, act: Callable[[], None]) -> Iterator[None]:
    """Let something happen while a log is followed."""

    def wait() -> None:
        assert ray.followed.wait(30)
        time.sleep(0.3)  # for what was sent to be printed
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join()


def test_a_silent_log_is_asked_again(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine that lost its power no connection tells."""
    monkeypatch.setattr(job_server, "SILENT_SECONDS", 0.3)
    ray.log, ray.becomes = ["at work\n"], None

    with _once_followed(ray, lambda: ray.jobs.clear()):
        code, printed = submit("fig8-digits")
    assert code == 130
    assert printed.count("at work\n") == 1
    assert "Ray does not know job fig8-digits-run-1 any more" in printed


def test_a_head_that_is_just_starting_is_waited_for(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_server, "LOST_SECONDS", 60.0)
    ray.faults = 2
    code, printed = submit("fig8-digits")
    assert (code, ray.faults) == (0, 0), printed


def test_the_log_of_a_job_that_is_not_known_is_not_asked_for(ray: FakeJobs) -> None:
    """Ray would write into a log of its own who has asked, with the token."""
    assert job_server.JobServer(ray.address).follow("fig8-run-1") is None
    assert ray.tailed == []


def test_a_server_that_stays_away_is_given_up() -> None:
    with serving(FakeJobs()) as other:
        server = job_server.JobServer(other.address)
    with pytest.raises(job_server.UnansweredError, match=f"{other.address}: nothing answers there any more"):
        server.follow("x-run-1")


def test_ctrl_c_leaves_the_job_running(ray: FakeJobs, submit: Callable[..., tuple[int, str]]) -> None:
    ray.log, ray.becomes = ["at work\n"], None
    with _once_followed(ray, lambda: os.kill(os.getpid(), signal.SIGINT)):
        code, printed = submit("fig8-digits", "--seeds", "1")
    assert code == 130
    assert "at work" in printed
    how = f"make submit STUDY=fig8-digits RAY_ADDRESS={ray.address} SEEDS=1"
    assert printed.splitlines()[-1] == f"Job fig8-digits-run-1 goes on. To follow it again: {how}"
    assert ray.stopped == []


def test_the_same_again_follows_the_job_that_is_there(ray: FakeJobs, submit: Callable[..., tuple[int, str]]) -> None:
    assert submit("fig8-digits")[0] == 0
    for state in ("PENDING", "RUNNING"):
        ray.jobs[0]["status"] = state
        ray.log = ["seen again\n"]
        code, printed = submit("fig8-digits")
        assert code == 0
        assert printed.startswith(f"Job fig8-digits-run-1 is there already, at {ray.address}: its log follows")
        assert "seen again" in printed
    assert len(ray.sent) == 1


@pytest.mark.parametrize("state", ["FAILED", "STOPPED", "SUCCEEDED"])
def test_what_is_over_is_sent_again(ray: FakeJobs, submit: Callable[..., tuple[int, str]], state: str) -> None:
    ray.add("fig8-digits-run-9", state)
    ray.add("fig8-digits-search-12")
    assert submit("fig8-digits")[0] == 0
    assert [job["submission_id"] for job in ray.sent] == ["fig8-digits-run-10"]


def test_other_options_and_other_code_wait(
    ray: FakeJobs,
    submit: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert submit("fig8-digits")[0] == 0
    ray.jobs[0]["status"] = "RUNNING"
    wait = f"is not over: wait for its end, or make cancel JOB=fig8-digits-run-1 RAY_ADDRESS={ray.address}"
    line = refused("submit", "fig8-digits", "--seeds", "1", "--address", ray.address, capfd=capfd)
    assert line == f"fig8-digits: job fig8-digits-run-1 has other options and {wait}"
    monkeypatch.setenv(RESULTS_VARIABLE, "/mnt/other")
    line = refused("submit", "fig8-digits", "--address", ray.address, capfd=capfd)
    assert line == f"fig8-digits: job fig8-digits-run-1 has other options and {wait}"
    ray.jobs[0]["metadata"]["sweeps.digest"] = "0"
    line = refused("submit", "fig8-digits", "--address", ray.address, capfd=capfd)
    assert line == f"fig8-digits: job fig8-digits-run-1 has other code and {wait}"
    assert len(ray.sent) == 1


def test_of_two_clients_at_the_same_moment_one_sends(ray: FakeJobs, submit: Callable[..., tuple[int, str]]) -> None:
    assert submit("fig8-digits")[0] == 0
    (job,) = ray.jobs
    ray.jobs, ray.sent = [], []
    ray.taken = [job | {"status": "RUNNING"}]
    code, printed = submit("fig8-digits")
    assert code == 0
    assert printed.startswith("Job fig8-digits-run-1 is there already")
    assert ray.sent == []


def test_a_job_of_somebody_else_with_such_a_name_is_passed_over(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]]
) -> None:
    ray.add("fig8-digits-run-1", "SUCCEEDED")
    ray.jobs[0]["metadata"] = {}
    code, printed = submit("fig8-digits")
    assert code == 0
    assert printed.startswith("Job fig8-digits-run-2 is sent to")


def test_what_the_server_refuses_is_one_line(ray: FakeJobs, capfd: pytest.CaptureFixture[str]) -> None:
    ray.refusal = "Traceback (most recent call last):\n  ...\nRuntimeError: no agent\n"
    line = refused("submit", "fig8-digits", "--address", ray.address, capfd=capfd)
    assert line == f"{ray.address}: RuntimeError: no agent"


@pytest.fixture
def own(environment: Path) -> Path:
    """A study with a network beside it, in a folder that is not the working directory."""
    (environment / "mine").mkdir()
    (environment / "mine/nets.py").write_text("def make(shape, classes):\n    raise NotImplementedError\n")
    (environment / "mine/it's own.py").write_text(STUDY)
    return environment / "mine/it's own.py"


def test_a_study_of_ones_own_goes_along_with_its_network(
    ray: FakeJobs, submit: Callable[..., tuple[int, str]], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LEDGER_VARIABLE, "postgresql+psycopg://ledger@127.0.0.1:1/ledger")  # it is not asked
    code, printed = submit("mine/it's own.py")
    assert code == 0, printed
    (job,) = ray.sent
    assert job["submission_id"] == "mine-run-1"
    assert f"sweeps run {shlex.quote(f'study/{own.name}')} --yes" in job["entrypoint"]
    assert ray.files()["study/nets.py"] == (own.parent / "nets.py").read_bytes()
    submitted = job["runtime_env"]["env_vars"]["SWEEPS_SUBMITTED"]
    assert shlex.split(submitted) == ["STUDY=mine/it's own.py", f"RAY_ADDRESS={ray.address}"]


def test_a_study_that_needs_what_does_not_go_along_is_not_sent(
    ray: FakeJobs,
    own: Path,
    environment: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (own.parent / "nets.py").rename(environment / "nets.py")  # in the working directory it is found, but here alone
    monkeypatch.setenv("PYTHONPATH", str(environment), prepend=":")
    find_any(str(own))
    line = refused("submit", str(own), "--address", ray.address, capfd=capfd)
    assert line.startswith(f"{own}: does not load from what is sent, the .py files beside and beneath it: ")
    assert "no source of module 'nets'" in line
    assert ray.sent == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("fig8-digit",), "no study named 'fig8-digit'"),
        (("broken.py",), "broken.py:1: ZeroDivisionError"),
        (("fig8-digits", "--only", "method=Nobody"), "--only method=Nobody: no trial has this value"),
        (("fig8-digits", "--phase", "final"), "--phase final: fig8-digits is a study, not a search: leave it out"),
        (("fig8-digits", "--gpus-per-trial", "0.5"), "--gpus-per-trial 0.5: trials on a CPU take no GPU"),
        ((TUNING, "--seeds", "1"), "--seeds 1: a search is tried whole"),
        ((TUNING, "--phase", "final", "--only", "method=Nobody"), "--only method=Nobody: no trial has this value"),
        (("tuning.py", "--phase", "final"), "mine: nothing is frozen yet"),
    ],
)
def test_what_the_driver_would_refuse_is_not_sent(
    ray: FakeJobs, environment: Path, arguments: tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (environment / "broken.py").write_text("1 / 0\n")
    text = f"from search_spaces.catalog import find_any\nfrom dataclasses import replace\nT = find_any({TUNING!r})\n"
    (environment / "tuning.py").write_text(text + "STUDY = replace(T, name='mine')\n")
    assert refused("submit", *arguments, "--address", ray.address, capfd=capfd).startswith(why)
    assert ray.bodies == []


def test_a_tuning_is_searched_or_its_verdict_trained(ray: FakeJobs, submit: Callable[..., tuple[int, str]]) -> None:
    assert isinstance(find_any(TUNING), Tuning)
    assert submit(TUNING)[0] == 0
    ray.jobs[0]["status"] = "RUNNING"  # the other phase is another job
    assert submit(TUNING, "--phase", "final", "--seeds", "1")[0] == 0
    search, final = ray.sent
    assert f"python -m sweeps fetch {TUNING} || exit $?; python -m sweeps search {TUNING} --yes" in search["entrypoint"]
    assert f"python -m sweeps fetch {TUNING} || exit $?; python -m sweeps final {TUNING} --yes" in final["entrypoint"]
    assert final["submission_id"] == f"{TUNING}-final-1"
    assert f"search_spaces/frozen/{TUNING}.json" in ray.files()
    assert " PHASE=final" in final["runtime_env"]["env_vars"]["SWEEPS_SUBMITTED"]


def test_a_dry_run_asks_nobody(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nowhere = "http://127.0.0.1:1"
    assert main(["submit", "mine/it's own.py", "--dry-run", "--address", nowhere]) == 0
    printed = capfd.readouterr().out.splitlines()
    package = pack(str(own))
    assert printed[:-2] == list(package.lines())
    assert printed[-2] == f"{nowhere} would run: " + Order(
        str(own), find_any(str(own)), options=("--device", "cpu")
    ).entrypoint(package.reference)
    assert printed[-1] == "Nothing is sent"


COMMAND = """#!/bin/sh
echo "$@" >> calls
[ "$3" != "$FAILS" ] || exit "$CODE"
"""


def drive(folder: Path, entrypoint: str, fails: str = "", code: int = 0) -> tuple[int, list[str], str]:
    """Run a job's line in a shell; what was called there for python."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin/python").write_text(COMMAND)
    (folder / "bin/python").chmod(stat.S_IRWXU)
    (folder / "calls").unlink(missing_ok=True)
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "FAILS": fails, "CODE": str(code)}
    done = subprocess.run(["/bin/sh", "-c", entrypoint], cwd=folder, env=env, capture_output=True, text=True)
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").exists() else []
    return done.returncode, [call.removeprefix("-m ") for call in calls], done.stderr


FETCH, TRAIN = "sweeps fetch s.py --seeds 2", "sweeps run s.py --yes --jobs 2 --seeds 2"
SHOW = ["analysis report s.py", "sweeps publish s.py"]


@pytest.mark.parametrize(
    ("fails", "code", "calls"),
    [
        ("", 0, [FETCH, TRAIN, *SHOW]),
        ("fetch", 2, [FETCH]),
        ("run", 1, [FETCH, TRAIN, *SHOW]),
        ("run", 2, [FETCH, TRAIN]),
        ("run", 130, [FETCH, TRAIN]),
        ("report", 2, [FETCH, TRAIN, SHOW[0]]),
        ("publish", 2, [FETCH, TRAIN, *SHOW]),
    ],
)
def test_the_driver_does_what_make_sweep_does(tmp_path: Path, fails: str, code: int, calls: list[str]) -> None:
    order = Order("x", make_study(), selection=Selection(seeds=2), options=("--jobs", "2"))
    called = drive(tmp_path, order.entrypoint("s.py"), fails, code)
    assert called == (code, calls, "")


def test_nothing_of_an_order_is_read_by_the_shell(tmp_path: Path) -> None:
    evil = 'it\'s $(touch gone); `touch gone` && "x".py'
    selection = Selection(only=("seed=0",))
    code, calls, printed = drive(
        tmp_path, Order("x", make_study(), selection=selection, options=(evil,)).entrypoint(evil)
    )
    assert (code, printed) == (0, "")
    assert calls[1] == f"sweeps run {evil} --yes {evil} --only seed=0"
    assert not (tmp_path / "gone").exists()


def test_a_job_says_how_it_is_submitted_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sweep = StudySweep(make_study(), "study/own.py", Results(tmp_path), None, 2, "cpu", Selection(seeds=1))  # type: ignore[arg-type]
    assert sweep.how_to_go_on.endswith(f"To go on: make sweep STUDY=study/own.py RESULTS={tmp_path} SEEDS=1")
    monkeypatch.setenv(SUBMITTED_VARIABLE, "STUDY='my own.py' RESULTS=/r")
    assert sweep.how_to_go_on.endswith("To go on: make submit STUDY='my own.py' RESULTS=/r SEEDS=1")


def test_the_table_shows_jobs_of_ours(ray: FakeJobs, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "--address", ray.address]) == 0
    assert capfd.readouterr().out == f"No jobs at {ray.address} yet: make submit sends one\n"
    ray.add("fig8-run-2", "FAILED", driver_exit_code=2, message="failed, last logs:\nerror: no \x1b[2J data\n")
    ray.add("fig8-run-1", "SUCCEEDED", end_time=1_700_000_000_000 + 3_725_000, start_time=1_700_000_000_000)
    ray.add("fig8-search-1", "FAILED", message="runtime_env setup failed:\n  no disk")
    ray.add("fig8-final-1", "FAILED", driver_exit_code=1, message="a log")
    ray.jobs += [{**ray.jobs[0], "submission_id": "theirs", "metadata": {"name": "theirs"}}]
    ray.jobs += [{**ray.jobs[0], "submission_id": None, "job_id": "01000000", "type": "DRIVER"}]
    ray.jobs[0]["start_time"] += 10
    ray.jobs[2]["start_time"] += 20
    assert main(["jobs", "--address", ray.address]) == 0
    header, *rows = (line.split(maxsplit=6) for line in capfd.readouterr().out.splitlines())
    assert header == ["job", "study", "phase", "state", "started", "took", "why"]
    assert [row[0] for row in rows] == ["fig8-run-1", "fig8-final-1", "fig8-run-2", "fig8-search-1"]
    assert rows[0][1:4] == ["fig8", "run", "succeeded"]
    assert rows[0][6] == "1 h 02 min"
    assert rows[1][6].endswith("exit code 1: some trials failed or diverged")
    assert rows[2][6].endswith(r"exit code 2: error: no \x1b[2J data")
    assert rows[3][6].endswith("runtime_env setup failed: no disk")


def cancelled(ray: FakeJobs, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["cancel", *arguments, "--address", ray.address])
    return code, capfd.readouterr().out


def test_a_job_is_cancelled_by_its_name_or_its_study(
    ray: FakeJobs, own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("fig8-run-1", "fig8-run-2", "mine-run-1", "other-run-1"):
        ray.add(name, "FAILED" if name == "fig8-run-1" else "RUNNING")
    code, printed = cancelled(ray, capfd, "fig8")
    assert code == 0
    assert printed.endswith(
        "Job fig8-run-2: stopped; what was trained is kept, and make submit of the same study goes on\n"
    )
    assert cancelled(ray, capfd, str(own))[0] == 0
    assert cancelled(ray, capfd, "--job", "other-run-1")[0] == 0
    assert cancelled(ray, capfd, "--job", "fig8-run-1") == (0, "Job fig8-run-1 is over already: failed\n")
    assert ray.stopped == ["fig8-run-2", "mine-run-1", "other-run-1"]


def test_a_job_that_does_not_end_is_said(
    ray: FakeJobs, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.jobs.listing.STOP_SECONDS", -29.5)
    monkeypatch.setattr(FakeJobs, "_end", lambda *_: None)
    ray.add("fig8-run-1")
    code, printed = cancelled(ray, capfd, "fig8")
    assert code == 1
    assert printed.splitlines()[-1].startswith("Job fig8-run-1 has not ended yet: make jobs RAY_ADDRESS=http://")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "which job? make cancel JOB=ID, or STUDY=NAME"),
        (("--job", "theirs"), "--job theirs: there is no such job at "),
        (("fig9",), "fig9: no job of it goes on at "),
        (("fig8",), "fig8: fig8-search-1, fig8-final-1: name one, make cancel JOB=fig8-search-1"),
    ],
)
def test_no_job_but_the_one_that_is_meant_is_cancelled(
    ray: FakeJobs, arguments: tuple[str, ...], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ray.add("fig8-search-1")
    ray.add("fig8-final-1")
    ray.add("x-run-1", metadata={"name": "theirs"}, submission_id="theirs")
    assert refused("cancel", *arguments, "--address", ray.address, capfd=capfd).startswith(why)
    assert ray.stopped == []
