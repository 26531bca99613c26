"""The manifests: Kubernetes' own kinds against its schemas, KubeRay's against the fields that it documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.catalog import find_any
from sweeps.jobs.submit import Order
from tests.docker.parts import DOCKER, compose, lint, locked, manifest, manifests, pods, secret_names

PODS = dict(pods())
KINDS_OF_KUBERAY = {"RayCluster", "RayJob"}
PASSWORDS = "amp-sweeps-passwords"
CLUSTER_FIELDS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in PODS.items():
        yield from ((name, container) for container in pod["spec"]["containers"])


def policy(name: str) -> dict[str, Any]:
    return dict(manifest("NetworkPolicy", name)["spec"])


def components(peers: list[dict[str, Any]]) -> set[str]:
    """The components among the pods of this project that a rule lets in."""
    found: set[str] = set()
    for peer in peers:
        chosen = peer["podSelector"]
        found |= {chosen["matchLabels"].get("app.kubernetes.io/component", "")}
        found |= {value for rule in chosen.get("matchExpressions", []) for value in rule["values"]}
    return found - {""}


def test_kubernetes_would_take_them() -> None:
    plain = sorted({file for file, document in manifests() if document["kind"] not in KINDS_OF_KUBERAY})
    assert len(plain) == 4
    assert lint("kubernetes-validate", "--strict", *(DOCKER / "kubernetes" / file for file in plain)) == ""


def test_kubernetes_would_refuse_a_field_of_another_name(tmp_path: Path) -> None:
    text = (DOCKER / "kubernetes/mlflow.yaml").read_text(encoding="utf-8").replace("strategy:", "strategies:")
    (tmp_path / "mlflow.yaml").write_text(text)
    assert "strategies" in lint("kubernetes-validate", "--strict", tmp_path / "mlflow.yaml")


def test_pods_that_ray_starts_are_pods_for_kubernetes_too(tmp_path: Path) -> None:
    ray = {name: pod for name, pod in PODS.items() if name.startswith("ray")}
    assert len(ray) == 6
    for place, pod in enumerate(ray.values()):
        text = yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod["spec"]})
        (tmp_path / f"{place}.yaml").write_text(text)
    assert lint("kubernetes-validate", "--strict", *tmp_path.iterdir()) == ""


def test_kuberay_knows_every_field() -> None:
    cluster, job = manifest("RayCluster", "amp-sweeps"), manifest("RayJob", "fig8-mnist5k")
    assert {cluster["apiVersion"], job["apiVersion"]} == {"ray.io/v1"}
    assert set(cluster["spec"]) == CLUSTER_FIELDS
    assert set(cluster["spec"]["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert set(group) == GROUP_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    parameters = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    assert {type(value) for part in parameters for value in part["rayStartParams"].values()} == {str}
    assert set(job["spec"]) == {
        *("entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        "rayClusterSpec",
    }


def test_a_job_has_the_cluster_of_the_other_file_and_is_tried_again() -> None:
    job = manifest("RayJob", "fig8-mnist5k")["spec"]
    assert job["rayClusterSpec"] == manifest("RayCluster", "amp-sweeps")["spec"]
    assert job["backoffLimit"] == 3
    assert job["submissionMode"] == "HTTPMode"
    assert job["entrypoint"] == Order("fig8-mnist5k", find_any("fig8-mnist5k")).entrypoint("fig8-mnist5k")


def test_ray_is_the_locked_one_behind_a_token() -> None:
    spec = manifest("RayCluster", "amp-sweeps")["spec"]
    assert spec["rayVersion"] == locked()["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_nobody_special(name: str) -> None:
    spec = PODS[name]["spec"]
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPath" in volume for volume in spec["volumes"])


def test_a_container_is_locked_watched_and_bounded() -> None:
    for name, container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
        assert set(container["resources"]) == {"requests", "limits"}, name
        assert re.fullmatch(r"[\w-]+:(?!latest)[\w.-]+", container["image"]), name


def test_images_are_those_of_the_compose_file() -> None:
    ours = {service["image"].split(":")[0] for service in compose()["services"].values()}
    assert {container["image"].split(":")[0] for _, container in containers()} == ours
    (postgres,) = {container["image"] for _, container in containers() if container["name"] == "postgres"}
    assert postgres == compose()["services"]["postgres"]["image"]


def test_secrets_are_named_and_never_written_down() -> None:
    assert "Secret" not in {document["kind"] for _, document in manifests()}
    for name, container in containers():
        for variable in container.get("env", []):
            secret = re.search(r"PASSWORD$|TOKEN$|KEY$", variable["name"])
            assert not secret or "valueFrom" in variable, (name, variable["name"])
            password = re.search(r"://[^/\s:]*:([^/\s]*)@", variable.get("value", ""))
            assert password is None or re.fullmatch(r"\$\(\w+\)", password[1]), (name, variable["name"])


def test_every_secret_that_a_pod_asks_for_is_made() -> None:
    asked = {name: set(secrets_of(pod["spec"])) for name, pod in PODS.items()}
    assert set().union(*asked.values()) <= {(PASSWORDS, name) for name in secret_names()}
    assert {name for name, secrets in asked.items() if not secrets} == {
        f"{file} {group}" for file in ("raycluster.yaml", "rayjob.yaml") for group in ("cpu", "gpu")
    }


def test_the_passwords_are_not_where_kuberay_looks_for_its_token() -> None:
    """It keeps the token in a secret of the cluster's name, and would take ours for it."""
    names = {document["metadata"]["name"] for _, document in manifests() if document["kind"] in KINDS_OF_KUBERAY}
    assert PASSWORDS not in names
    assert f"create secret generic {PASSWORDS} " in (DOCKER / "README.md").read_text(encoding="utf-8")


def secrets_of(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for volume in spec["volumes"]:
        source = volume.get("secret", {"items": []})
        yield from ((source["secretName"], item["key"]) for item in source["items"])
    for container in spec["containers"]:
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                yield reference["name"], reference["key"]


def test_only_the_head_and_mlflow_reach_the_databases() -> None:
    (rule,) = policy("amp-sweeps-postgres")["ingress"]
    assert components(rule["from"]) == {"head", "mlflow"}
    (rule,) = policy("amp-sweeps-mlflow")["ingress"]
    assert components(rule["from"]) == {"head"}
    everybody = policy("amp-sweeps-nobody")
    assert everybody["podSelector"] == {"matchLabels": {"app.kubernetes.io/part-of": "amp-sweeps"}}
    assert "ingress" not in everybody


def test_policies_choose_pods_that_there_are() -> None:
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    assert {label["app.kubernetes.io/part-of"] for label in labels} == {"amp-sweeps"}
    parts = {label["app.kubernetes.io/component"] for label in labels}
    assert parts == {"postgres", "mlflow", "head", "worker"}
    for name in ("postgres", "mlflow", "ray"):
        assert components([policy(f"amp-sweeps-{name}")]) <= parts
        assert components([policy(f"amp-sweeps-{name}")])


def test_results_are_one_volume_that_all_nodes_of_ray_write() -> None:
    claim = manifest("PersistentVolumeClaim", "results")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, pod in PODS.items():
        if name.startswith("ray"):
            assert {"name": "results", "persistentVolumeClaim": {"claimName": "results"}} in pod["spec"]["volumes"]
            (container,) = pod["spec"]["containers"]
            assert {"name": "results", "mountPath": "/results"} in container["volumeMounts"]


def test_every_mount_has_its_volume() -> None:
    for name, pod in PODS.items():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        claims = {"data"} if name == "postgres.yaml" else set()
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        assert mounted == volumes | claims, name


def test_gpus_are_asked_for_by_their_own_group_with_the_cuda_image() -> None:
    cpu, gpu = (PODS[f"raycluster.yaml {group}"]["spec"] for group in ("cpu", "gpu"))
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert gpu["containers"][0]["image"] == f"{cpu['containers'][0]['image']}-cuda"
    assert "nvidia.com/gpu" not in cpu["containers"][0]["resources"]["limits"]


def test_kustomize_applies_what_lasts() -> None:
    kustomization = yaml.safe_load((DOCKER / "kustomization.yaml").read_text(encoding="utf-8"))
    named = {Path(resource).name for resource in kustomization["resources"]}
    assert named == {file for file, document in manifests() if document["kind"] not in KINDS_OF_KUBERAY}
    (generated,) = kustomization["configMapGenerator"]
    assert all((DOCKER / file).is_file() for file in generated["files"])
    (init,) = [v for v in PODS["postgres.yaml"]["spec"]["volumes"] if v["name"] == "init"]
    assert init["configMap"]["name"] == generated["name"]
