"""Whoever lacks the token or the password, and whoever comes from another page or under another name, is refused."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.doctor.stores import of_server
from tests.cluster.lab import Lab, basic
from tests.docker.servers import status
from trainer.machine import TRACKING_VARIABLE, Results

pytestmark = pytest.mark.cluster

EVIL = "evil.example"
WAYS = {
    "nothing shown": {},
    "a wrong secret": {"Authorization": "WRONG"},
    "another origin": {"Authorization": "RIGHT", "Origin": f"https://{EVIL}"},
    "another page's form": {"Authorization": "RIGHT", "Origin": f"https://{EVIL}", "Sec-Fetch-Site": "cross-site"},
    "a foreign Host without the secret": {"Host": EVIL},
}


@pytest.fixture(scope="module")
def lab(servers: Lab) -> Iterator[Lab]:
    """With a head, which takes jobs."""
    servers.start_head()
    yield servers
    servers.end_ray()


def test_the_doctor_finds_it_well_with_the_password_alone(
    servers: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.reader().items():
        monkeypatch.setenv(name, value)
    assert {(finding.verdict, finding.about) for finding in of_server(Results(tmp_path))} == {
        ("ok", "MLflow"),
        ("ok", "clock"),
    }
    assert servers.tracking_uri in os.environ[TRACKING_VARIABLE]
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another one")
    (finding,) = of_server(Results(tmp_path))
    assert finding.verdict == "FAILED"
    assert "asks for a password" in finding.said


def post(url: str, headers: dict[str, str], body: dict[str, object]) -> int:
    """The status of the answer to this request to write something."""
    sent = {"Content-Type": "application/json", **headers}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def shown(way: dict[str, str], right: str, wrong: str) -> dict[str, str]:
    """The headers of one of WAYS."""
    secrets = {"RIGHT": right, "WRONG": wrong}
    return {name: secrets.get(value, value) for name, value in way.items()}


@pytest.mark.parametrize("way", WAYS)
def test_jobs_are_not_taken_from(way: str, lab: Lab) -> None:
    """What such a request asks for would be run as the one who runs the cluster."""
    token = lab.secret("ray_token")
    headers = shown(WAYS[way], f"Bearer {token}", f"Bearer {token[::-1]}")
    ran = lab.folder / "ran"
    assert post(f"{lab.jobs}/api/jobs/", headers, {"entrypoint": f"touch {ran}"}) in (401, 403, 405)
    assert not ran.exists()


def test_jobs_are_taken_with_the_token(lab: Lab) -> None:
    """So the request itself is right, and what refused it above was what it was meant to be."""
    headers = {"Authorization": f"Bearer {lab.secret('ray_token')}"}
    assert post(f"{lab.jobs}/api/jobs/", headers, {"entrypoint": "true"}) == 200


@pytest.mark.parametrize("way", [*WAYS, "a foreign Host"])
def test_mlflow_does_not_write_for(way: str, lab: Lab) -> None:
    password = lab.secret("mlflow_admin_password")
    headers = shown(
        WAYS.get(way, {"Authorization": "RIGHT", "Host": EVIL}),
        basic("admin", password),
        basic("admin", "wrong-password"),
    )
    url = f"{lab.tracking_uri}/api/2.0/mlflow/experiments/create"
    assert post(url, headers, {"name": f"made by {way}"}) in (401, 403)


def test_mlflow_writes_with_the_password(lab: Lab) -> None:
    headers = {"Authorization": basic("admin", lab.secret("mlflow_admin_password"))}
    url = f"{lab.tracking_uri}/api/2.0/mlflow/experiments/create"
    assert post(url, headers, {"name": "made by its owner"}) == 200


@pytest.mark.parametrize(("path", "answered"), [("/health", 200), ("/version", 200), ("/", 403), ("/ajax-api", 403)])
def test_under_a_foreign_host_mlflow_says_how_it_is_alone(path: str, answered: int, lab: Lab) -> None:
    right = basic("admin", lab.secret("mlflow_admin_password"))
    assert status(f"{lab.tracking_uri}{path}", Authorization=right, Host=EVIL) == answered
