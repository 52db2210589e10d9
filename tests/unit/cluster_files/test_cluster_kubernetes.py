"""The manifests: a schema of what they use, kept small here, and what a schema cannot say. No Kubernetes is asked.

The names are those of the KubeRay types (ray-operator/apis/ray/v1) and of the Kubernetes API; unknown ones are refused, so that a misspelt one shows.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[3] / "cluster" / "kubernetes"
TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
FLAG = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
LABELS = {"type": "object", "additionalProperties": TEXT, "minProperties": 1}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def listed(items: Any, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


AMOUNT = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\d+(m|Mi|Gi)?$"}]}
SHARE = {"type": "object", "additionalProperties": AMOUNT, "required": ["cpu", "memory"]}
RESOURCES = closed(["requests", "limits"], requests=SHARE, limits=SHARE)
CLOSED_CONTAINER = closed(
    ["allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"],
    allowPrivilegeEscalation={"const": False},
    readOnlyRootFilesystem={"const": True},
    capabilities=closed(["drop"], drop={"const": ["ALL"]}),
)
MOUNTS = listed(closed(["name", "mountPath"], name=TEXT, mountPath={"type": "string", "pattern": "^/"}))
CONTAINER = closed(
    ["name", "image", "securityContext", "resources", "volumeMounts"],
    name=TEXT,
    image={"type": "string", "pattern": r"^registry\.example/raysweep:\d+\.\d+\.\d+-(cpu|gpu)$"},
    imagePullPolicy={"const": "IfNotPresent"},
    securityContext=CLOSED_CONTAINER,
    ports=listed(closed(["containerPort", "name"], containerPort=COUNT, name=TEXT)),
    resources=RESOURCES,
    volumeMounts=MOUNTS,
)
VOLUME = {
    **closed(
        ["name"],
        name=TEXT,
        persistentVolumeClaim=closed(["claimName"], claimName={"const": "raysweep-shared"}),
        emptyDir=closed(["sizeLimit"], medium={"const": "Memory"}, sizeLimit=AMOUNT),
    ),
    "minProperties": 2,
    "maxProperties": 2,
}
POD = closed(
    ["automountServiceAccountToken", "restartPolicy", "securityContext", "containers", "volumes"],
    automountServiceAccountToken=FLAG,
    restartPolicy={"const": "Never"},
    securityContext=closed(
        ["runAsNonRoot", "runAsUser", "seccompProfile"],
        runAsNonRoot={"const": True},
        runAsUser={"const": 1000},
        runAsGroup={"const": 1000},
        fsGroup={"const": 1000},
        fsGroupChangePolicy={"const": "OnRootMismatch"},
        seccompProfile=closed(["type"], type={"const": "RuntimeDefault"}),
    ),
    tolerations=listed(closed(["key", "operator", "effect"], key=TEXT, operator=TEXT, effect=TEXT)),
    containers={**listed(CONTAINER), "maxItems": 1},
    volumes=listed(VOLUME),
)
TEMPLATE = closed(["spec"], spec=POD)
START = {"type": "object", "additionalProperties": {"type": "string"}}
CLUSTER = closed(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion={"const": version("ray")},
    authOptions=closed(["mode"], mode={"const": "token"}),
    enableInTreeAutoscaling={"const": True},
    autoscalerOptions=closed(
        ["version", "idleTimeoutSeconds", "securityContext", "resources"],
        version={"const": "v2"},
        idleTimeoutSeconds=COUNT,
        securityContext=CLOSED_CONTAINER,
        resources=RESOURCES,
        volumeMounts=MOUNTS,
    ),
    headGroupSpec=closed(
        ["rayStartParams", "template"], serviceType={"const": "ClusterIP"}, rayStartParams=START, template=TEMPLATE
    ),
    workerGroupSpecs=listed(
        closed(
            ["groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName=TEXT,
            replicas={"const": 0},
            minReplicas={"const": 0},
            maxReplicas={"type": "integer", "minimum": 1},
            rayStartParams=START,
            template=TEMPLATE,
        )
    ),
)
SELECTOR = closed(
    [],
    matchLabels=LABELS,
    matchExpressions=listed(closed(["key", "operator"], key=TEXT, operator={"enum": ["Exists", "DoesNotExist"]})),
)
PEER = {
    **closed(
        [],
        podSelector=SELECTOR,
        namespaceSelector=SELECTOR,
        ipBlock=closed(["cidr"], cidr={"type": "string", "pattern": r"^[\d.]+/32$"}),
    ),
    "minProperties": 1,
}
PORTS = listed(closed(["protocol", "port"], protocol={"enum": ["TCP", "UDP"]}, port=COUNT))
POLICY = closed(
    ["podSelector", "policyTypes"],
    podSelector=SELECTOR,
    policyTypes=listed({"enum": ["Ingress", "Egress"]}),
    ingress=listed(closed(["from"], **{"from": listed(PEER), "ports": PORTS})),
    egress=listed(closed(["to"], to=listed(PEER), ports=PORTS)),
)
KINDS: dict[str, tuple[str, dict[str, Any] | None]] = {
    "Namespace": ("v1", None),
    "PersistentVolumeClaim": (
        "v1",
        closed(
            ["accessModes", "resources", "storageClassName"],
            accessModes={"const": ["ReadWriteMany"]},
            storageClassName=TEXT,
            resources=closed(["requests"], requests=closed(["storage"], storage=AMOUNT)),
        ),
    ),
    "NetworkPolicy": ("networking.k8s.io/v1", POLICY),
    "RayCluster": ("ray.io/v1", CLUSTER),
    "RayJob": (
        "ray.io/v1",
        closed(
            ["entrypoint", "submissionMode", "rayClusterSpec", "shutdownAfterJobFinishes"],
            entrypoint={"type": "string", "pattern": r"^python -m raysweep tune .*--address auto"},
            submissionMode={"const": "K8sJobMode"},
            backoffLimit=COUNT,
            shutdownAfterJobFinishes={"const": True},
            ttlSecondsAfterFinished=COUNT,
            submitterPodTemplate=TEMPLATE,
            rayClusterSpec=CLUSTER,
        ),
    ),
}


def manifests() -> list[dict[str, Any]]:
    files = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [content for path in files for content in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [content for content in manifests() if content["kind"] == kind]
    assert found, kind
    return found


def check(content: dict[str, Any]) -> None:
    api, schema = KINDS[content["kind"]]
    assert content["apiVersion"] == api
    metadata = content["metadata"]
    if content["kind"] == "Namespace":
        assert metadata["name"] == "raysweep"
        assert metadata["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        return
    assert metadata["namespace"] == "raysweep"
    assert metadata.keys() - {"namespace"} in ({"name"}, {"generateName"})
    assert schema is not None
    jsonschema.Draft202012Validator(schema).validate(content["spec"])
    assert content.keys() == {"apiVersion", "kind", "metadata", "spec"}


def test_every_manifest_fits_its_schema() -> None:
    for content in manifests():
        check(content)


def test_a_misspelt_or_careless_manifest_does_not() -> None:
    (cluster,) = of_kind("RayCluster")
    changes: list[tuple[list[Any], Any]] = [
        (["spec", "authOption"], {"mode": "token"}),
        (["spec", "authOptions", "mode"], "disabled"),
        (["spec", "workerGroupSpecs", 0, "minReplica"], 1),
        (["spec", "headGroupSpec", "serviceType"], "LoadBalancer"),
        (["spec", "headGroupSpec", "template", "spec", "securityContext", "runAsNonRoot"], False),
        (["spec", "headGroupSpec", "template", "spec", "containers", 0, "image"], "registry.example/raysweep:latest"),
    ]
    for path, value in changes:
        content = copy.deepcopy(cluster)
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            check(content)


def test_what_is_mounted_is_there_and_what_is_written_can_be() -> None:
    pods = [(spec, spec["rayClusterSpec"]) for spec in (job["spec"] for job in of_kind("RayJob"))]
    clusters = [content["spec"] for content in of_kind("RayCluster")] + [cluster for _, cluster in pods]
    templates = [group["template"]["spec"] for cluster in clusters for group in cluster["workerGroupSpecs"]]
    templates += [cluster["headGroupSpec"]["template"]["spec"] for cluster in clusters]
    for pod in templates:
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts.keys() == volumes
        assert set(mounts.values()) == {"/mnt/raysweep", "/tmp", "/dev/shm"}  # noqa: S108
    for cluster in clusters:
        (worker,) = cluster["workerGroupSpecs"]
        assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert worker["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_cluster_of_a_job_is_the_one_that_stays() -> None:
    """Two files, since each is used alone; what they say of the cluster is the same."""
    (cluster,), (job,) = of_kind("RayCluster"), of_kind("RayJob")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    assert policies.pop("nothing") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
            for peer in rule.get("from", rule.get("to")):
                assert peer != {"podSelector": {}}, name
                assert peer != {"namespaceSelector": {}}, name
        for direction in ("ingress", "egress"):
            assert (direction in spec) == (direction.capitalize() in spec["policyTypes"]), name
    (rule,) = policies["jobs"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [8265]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_puts_the_files_together() -> None:
    """Without a cluster: `kubectl kustomize` reads everything that `kubectl apply -k` would send."""
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kinds = sorted(content["kind"] for content in yaml.safe_load_all(done.stdout))
    assert kinds == sorted(content["kind"] for content in manifests() if content["kind"] != "RayJob")
