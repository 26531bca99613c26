"""Submission to a real Ray: a job outlives its client, is found again, cancelled, and goes on where it stopped."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sweeps.cluster.ray_token import MODE_VARIABLE, TOKEN_VARIABLE
from sweeps.ledger import Ledger
from sweeps.sweep import ADDRESS_VARIABLE
from tests.cluster.lab import submitted, wait_until
from tests.docker.parts import COMMANDS, ROOT
from tests.docker.servers import free_ports, service, status
from trainer.checkpoint import load_checkpoint
from trainer.machine import LEDGER_VARIABLE, RESULTS_VARIABLE, TRACKING_VARIABLE, Results

pytest.importorskip("aiohttp_cors", reason="Ray has no job server: pip install '.[cluster]'")

pytestmark = pytest.mark.cluster

NETWORK = """
import os
import time

import trainer
from torch import nn


class Paced(nn.Sequential):
    def forward(self, images):
        if self.training:
            time.sleep(self.pause)
        return super().forward(images)


def make(shape, classes, pause):
    with open(os.environ["SWEEPS_RESULTS"] + "/imported", "a") as file:
        file.write(f"{__file__} {trainer.__file__}\\n")
    network = Paced(nn.Flatten(), nn.Linear(shape[1] * shape[2], 8), nn.ReLU(), nn.Linear(8, classes))
    network.pause = pause
    return network
"""
EPOCHS = 40
STUDY = """
from dataclasses import replace

from search_spaces import recipes
from search_spaces.study import Study
from trainer.config import Amp, Custom, Erm

PACED = Custom("nets:make", arguments={"pause": PAUSE})
STUDY = Study(
    name="NAME",
    question="Does a job outlive its client?",
    trials=[
        replace(recipes.digits_mlp(method, 0), model=PACED, epochs=EPOCHS, lr_milestones=())
        for method in (Erm(), Amp(epsilon=0.2))
    ],
)
"""

SLOW_TO_END = """
trap 'sleep 6; touch "$SWEEPS_RESULTS/stored"; exit 0' TERM
touch "$SWEEPS_RESULTS/started"
while :; do sleep 0.1; done
"""
SEND = """
import sys
from pathlib import Path
from sweeps.jobs.server import PHASE, STUDY, JobServer
from sweeps.jobs.submit import STOP_SECONDS, STOP_VARIABLE

env, told = {STOP_VARIABLE: str(STOP_SECONDS)}, {STUDY: "slow", PHASE: "run"}
assert JobServer(sys.argv[1]).send("slow-run-1", "sh driver.sh", Path("code"), env, told)
"""


@dataclass(frozen=True)
class Head:
    """A Ray of one node that takes jobs. results: the folder that its jobs are to write into."""

    url: str
    token: str
    results: Path
    log: Path

    def client(self, **other: str) -> dict[str, str]:
        """The environment of somebody who sends jobs."""
        dropped = (TRACKING_VARIABLE, LEDGER_VARIABLE, RESULTS_VARIABLE)
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        ray = {MODE_VARIABLE: "token", TOKEN_VARIABLE: self.token, ADDRESS_VARIABLE: self.url}
        return kept | ray | {"PYTHONPATH": str(ROOT), "SWEEPS_COMMIT": "1" * 40} | other

    def call(self, folder: Path, *arguments: str, **other: str) -> tuple[int, str]:
        """The exit code of ``python -m sweeps ARGUMENTS`` in ``folder``, and what it prints."""
        command = [sys.executable, "-m", "sweeps", *arguments]
        done = subprocess.run(
            command, cwd=folder, env=self.client(**other), capture_output=True, text=True, timeout=180, check=False
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def head(folder: Path) -> Iterator[Head]:
    """Its environment names the results, as the image's does; of this checkout its workers have another copy."""
    gcs, jobs, client, agent = free_ports(4)
    found = Head(f"http://127.0.0.1:{jobs}", secrets.token_hex(16), folder / "submit-results", folder / "submit-head")
    found.results.mkdir()
    ports = [f"--port={gcs}", f"--dashboard-port={jobs}", f"--ray-client-server-port={client}"]
    place = ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/s", f"--dashboard-agent-listen-port={agent}"]
    size = ["--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats"]
    settings = {"HOME": str(folder), MODE_VARIABLE: "token", TOKEN_VARIABLE: found.token}
    settings |= {RESULTS_VARIABLE: str(found.results), "MPLCONFIGDIR": f"{folder}/matplotlib"}
    start = [str(COMMANDS / "ray"), "start", "--head", "--block"]
    with service(*start, *ports, *place, *size, log=found.log, **settings) as head:
        head.wait_until(lambda: status(f"http://127.0.0.1:{agent}/api/healthz") == 200, seconds=180)
        head.wait_until(lambda: status(f"{found.url}/") == 200)
        yield found


def lay_out(folder: Path, name: str, epochs: int, pause: float) -> str:
    """A study with a network beside it, in a folder below; the path by which it is called."""
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine/nets.py").write_text(NETWORK)
    text = STUDY.replace("NAME", name).replace("EPOCHS", str(epochs)).replace("PAUSE", str(pause))
    (folder / f"mine/{name}.py").write_text(text)
    return f"mine/{name}.py"


def state_of(head: Head, name: str) -> dict[str, str]:
    """Of the study's trials, as the ledger has them."""
    return {row.trial_id: row.state for row in Ledger(Results(head.results).ledger_url).studies()[name]}


def test_a_study_with_its_network_is_trained_by_what_was_sent(head: Head, tmp_path: Path) -> None:
    study = lay_out(tmp_path, "short", epochs=2, pause=0.0)
    code, printed = head.call(tmp_path, "submit", study)
    assert code == 0, printed
    assert "short: 2 of 2 finished" in printed
    assert (head.results / "reports/short/report.md").is_file()
    assert list(state_of(head, "short").values()) == ["finished"] * 2
    imported = {path for line in (head.results / "imported").read_text().splitlines() for path in line.split()}
    assert {path for path in imported if "working_dir_files" not in path} == set()
    assert not (tmp_path / "results").exists()
    code, printed = head.call(tmp_path, "submit", study)
    assert code == 0, printed
    assert "short: 2 of 2 already finished" in printed
    code, printed = head.call(tmp_path, "jobs")
    assert code == 0
    assert [line.split()[:4] for line in printed.splitlines()[1:]] == [
        ["short-run-1", "short", "run", "succeeded"],
        ["short-run-2", "short", "run", "succeeded"],
    ]


def test_a_job_outlives_its_clients_is_cancelled_and_goes_on(head: Head, tmp_path: Path) -> None:
    study = lay_out(tmp_path, "long", epochs=EPOCHS, pause=0.05)
    with submitted(tmp_path, head.client(), study) as first:
        wait_until(lambda: "2 at a time" in first.printed, lambda: first.printed)
        os.killpg(first.process.pid, signal.SIGINT)
        assert first.wait(20) == 130
        assert f"Job long-run-1 goes on. To follow it again: make submit STUDY={study}" in first.printed
    with submitted(tmp_path, head.client(), study) as second:
        wait_until(lambda: "2 at a time" in second.printed, lambda: second.printed)
        assert second.printed.startswith("Job long-run-1 is there already")
        second.close_terminal()
    code, printed = head.call(tmp_path, "submit", study, "--jobs", "1")
    assert (code, printed.startswith("error: long: job long-run-1 has other options")) == (2, True), printed
    stored = [Results(head.results).checkpoint(trial_id) for trial_id in state_of(head, "long")]
    with submitted(tmp_path, head.client(), study) as third:
        wait_until(lambda: all(path.exists() for path in stored), lambda: third.printed)
        cancelled = time.time()
        code, printed = head.call(tmp_path, "cancel", study)
        assert (code, "Job long-run-1: stopped" in printed) == (0, True), printed
        assert third.wait(30) == 130
        last = f"Interrupted; what was trained is kept. To go on: make submit STUDY={study}"
        assert last in third.printed, third.printed
    code, printed = head.call(tmp_path, "submit", study)
    assert code == 0, printed
    assert "Job long-run-2 is sent" in printed
    assert set(state_of(head, "long").values()) == {"finished"}
    kept = [checkpoint.records for path in stored if (checkpoint := load_checkpoint(path, path.stem))]
    assert [[record.epoch for record in records] for records in kept] == [list(range(1, EPOCHS + 1))] * 2
    assert all(records[0].timestamp / 1000 < cancelled < records[-1].timestamp / 1000 for records in kept)


def test_a_driver_has_time_to_store_what_it_has(head: Head, tmp_path: Path) -> None:
    """Ray itself would give it 3 seconds; it gives its trials and MLflow 15."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/driver.sh").write_text(SLOW_TO_END)
    send = subprocess.run([sys.executable, "-c", SEND, head.url], cwd=tmp_path, env=head.client(), check=False)
    assert send.returncode == 0
    wait_until((head.results / "started").exists, lambda: head.call(tmp_path, "jobs")[1])
    code, printed = head.call(tmp_path, "cancel", "slow")
    assert (code, "Job slow-run-1: stopped" in printed) == (0, True), printed
    assert (head.results / "stored").exists()


def test_who_lacks_the_token_is_told(head: Head, tmp_path: Path) -> None:
    code, printed = head.call(tmp_path, "jobs", RAY_AUTH_TOKEN=head.token[::-1])
    assert (code, f"{head.url}: this Ray asks for another token" in printed) == (2, True), printed
    code, printed = head.call(tmp_path, "jobs", RAY_AUTH_TOKEN="", RAY_AUTH_MODE="disabled", HOME=str(tmp_path))
    assert (code, f"{head.url}: this Ray asks for its token" in printed) == (2, True), printed


def test_results_go_where_the_client_says(head: Head, tmp_path: Path) -> None:
    study, elsewhere = lay_out(tmp_path, "elsewhere", epochs=1, pause=0.0), tmp_path / "shared results"
    elsewhere.mkdir()
    code, printed = head.call(tmp_path, "submit", study, SWEEPS_RESULTS=str(elsewhere))
    assert code == 0, printed
    assert (elsewhere / "ledger.db").is_file()
    assert (elsewhere / "reports/elsewhere/report.md").is_file()
