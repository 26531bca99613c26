"""compose.yaml against the Compose specification, and against what it promises."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.parts import DOCKER, compose, lint, secret_names

FILES = (DOCKER / "compose.yaml", DOCKER / "compose.cuda.yaml")
SERVICES: dict[str, dict[str, Any]] = compose()["services"]
SECRET = re.compile(r"PASSWORD|SECRET|CREDENTIAL|KEY|TOKEN")


def test_both_files_follow_the_specification() -> None:
    assert lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *FILES) == ""


def test_a_file_that_does_not_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text("services: {a: {image: b, reboot: always}}\n")
    assert "reboot" in lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", tmp_path / "compose.yaml")


def test_the_services_are_those_of_a_cluster() -> None:
    assert set(SERVICES) == {"postgres", "mlflow", "head", "worker"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "${SWEEPS_UID:-1000}:${SWEEPS_UID:-1000}"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["init"] is True
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


def test_services_wait_for_what_they_need() -> None:
    waits = {name: set(service.get("depends_on", {})) for name, service in SERVICES.items()}
    assert waits == {"postgres": set(), "mlflow": {"postgres"}, "head": {"postgres", "mlflow"}, "worker": {"head"}}
    conditions = [wait["condition"] for service in SERVICES.values() for wait in service.get("depends_on", {}).values()]
    assert set(conditions) == {"service_healthy"}


def test_ports_are_open_to_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"mlflow", "head"}
    for ports in published.values():
        for port in ports:
            assert re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port), port


def test_workers_reach_neither_databases_nor_mlflow() -> None:
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert networks["worker"] & networks["head"] == {"ray"}
    assert networks["worker"] & (networks["postgres"] | networks["mlflow"]) == set()
    assert compose()["networks"]["database"] == {"internal": True}
    assert networks["postgres"] == {"database"}


def test_a_service_is_given_the_secrets_that_it_reads_and_no_other() -> None:
    given = {name: set(service["secrets"]) for name, service in SERVICES.items()}
    assert given["worker"] == {"ray_token"}
    assert given["head"] == {"ray_token"} | read_by("driver.sh")
    assert given["mlflow"] == read_by("mlflow.sh")
    databases = re.findall(r"^for name in (.+); do", (DOCKER / "postgres/init.sh").read_text(), re.MULTILINE)[0].split()
    assert given["postgres"] == {"postgres_password"} | {f"{name}_password" for name in databases}


def read_by(script: str) -> set[str]:
    return set(re.findall(r"\$\(secret (\w+)\)", (DOCKER / "entry" / script).read_text(encoding="utf-8")))


def test_secrets_are_files_that_one_script_makes() -> None:
    declared = compose()["secrets"]
    assert set(declared) == secret_names() == set().union(*(service["secrets"] for service in SERVICES.values()))
    assert declared == {name: {"file": f"secrets/{name}"} for name in declared}
    assert "secrets/" in (DOCKER / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_no_secret_is_in_an_environment() -> None:
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            assert not SECRET.search(name) or name.endswith("_FILE"), name
            assert not re.search(r"://[^/\s]*:[^/\s]*@", str(value)), name


def test_results_have_the_same_path_on_head_and_workers() -> None:
    assert SERVICES["head"]["volumes"] == SERVICES["worker"]["volumes"] == ["results:/results"]
    assert "SWEEPS_RESULTS=/results" in (DOCKER / "Dockerfile").read_text(encoding="utf-8")


def test_volumes_are_declared_and_each_is_somebodys() -> None:
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(compose()["volumes"])
    for name in named:
        assert not name.startswith(".") or (DOCKER / name).is_file()


def test_commands_and_checks_name_files_of_the_images() -> None:
    for service in SERVICES.values():
        for word in [*service.get("command", []), *service["healthcheck"]["test"]]:
            assert not word.startswith("docker/") or (DOCKER.parent / word).is_file(), word


def test_the_head_names_itself_on_the_workers_network_alone() -> None:
    head, worker = SERVICES["head"], SERVICES["worker"]
    name = head["environment"]["RAY_HEAD_HOST"]
    aliases = {network: settings.get("aliases", []) for network, settings in head["networks"].items()}
    assert aliases == {"ray": [name], "tracking": [], "database": []}
    assert worker["environment"]["RAY_HEAD"] == f"{name}:6379"


def test_mlflow_answers_to_the_name_that_the_head_calls_it_by() -> None:
    host = re.fullmatch(r"http://(\w+):5000", SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"])
    assert host is not None
    assert host[1] in SERVICES
    assert f"{host[1]}:*" in SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_with_gpus_there_is_one_worker_and_the_cuda_build() -> None:
    cuda = yaml.safe_load(FILES[1].read_text(encoding="utf-8"))["services"]
    assert {service["build"]["args"]["TORCH"] for service in cuda.values()} == {"cuda"}
    assert cuda["worker"]["deploy"]["replicas"] == 1
    (device,) = cuda["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in cuda["head"]
