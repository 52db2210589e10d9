"""The cluster files: Ray's own validation, and what it does not look at. No cloud is asked."""

from __future__ import annotations

import copy
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).resolve().parents[3] / "cluster"
NAMES = ["cluster.yaml", "aws.yaml", "gcp.yaml", "local.yaml"]
CLOUDS = {"cluster.yaml": "aws", "gcp.yaml": "gcp"}

COUNT = {"type": "integer", "minimum": 1}
TEXT = {"type": "string", "minLength": 1}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


AWS_NODE = closed(
    ["InstanceType", "BlockDeviceMappings", "MetadataOptions"],
    InstanceType={"type": "string", "pattern": r"^[a-z0-9]+\.[a-z0-9]+$"},
    BlockDeviceMappings={
        "type": "array",
        "items": closed(
            ["DeviceName", "Ebs"],
            DeviceName=TEXT,
            Ebs=closed(
                ["VolumeSize", "VolumeType", "Encrypted", "DeleteOnTermination"],
                VolumeSize=COUNT,
                VolumeType={"const": "gp3"},
                Encrypted={"const": True},
                DeleteOnTermination={"const": True},
            ),
        ),
    },
    MetadataOptions=closed(["HttpTokens"], HttpTokens={"const": "required"}),
    InstanceMarketOptions=closed(["MarketType"], MarketType={"const": "spot"}),
)
GCP_NODE = closed(
    ["machineType", "disks"],
    machineType={"type": "string", "pattern": r"^[a-z0-9]+-[a-z]+-\d+$"},
    disks={
        "type": "array",
        "items": closed(
            ["boot", "autoDelete", "type", "initializeParams"],
            boot={"const": True},
            autoDelete={"const": True},
            type={"const": "PERSISTENT"},
            initializeParams=closed(
                ["diskSizeGb", "sourceImage"], diskSizeGb=COUNT, sourceImage={"type": "string", "pattern": "^projects/"}
            ),
        ),
    },
    metadata=closed(["items"], items={"type": "array", "items": closed(["key", "value"], key=TEXT, value=TEXT)}),
    scheduling=closed(
        ["provisioningModel", "instanceTerminationAction", "onHostMaintenance"],
        provisioningModel={"const": "SPOT"},
        instanceTerminationAction={"const": "DELETE"},
        onHostMaintenance={"const": "TERMINATE"},
    ),
)


def loaded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("name", NAMES)
def test_ray_itself_takes_the_file(name: str) -> None:
    validate_config(prepare_config(copy.deepcopy(loaded(name))))


@pytest.mark.parametrize("name", NAMES)
def test_ray_would_not_take_a_misspelt_one(name: str) -> None:
    content = loaded(name)
    content["idle_timeout_minute"] = content.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(content))


@pytest.mark.parametrize(("name", "cloud"), CLOUDS.items())
def test_what_ray_does_not_look_into(name: str, cloud: str) -> None:
    """Machines: encrypted disks that go with them, and spot workers with an on-demand head."""
    content = loaded(name)
    assert content["provider"]["type"] == cloud
    assert content["provider"]["cache_stopped_nodes"] is False
    schema, spot = {"aws": (AWS_NODE, "InstanceMarketOptions"), "gcp": (GCP_NODE, "scheduling")}[cloud]
    types = content["available_node_types"]
    for node in types.values():
        jsonschema.Draft202012Validator(schema).validate(node["node_config"])
    head = types.pop(content["head_node_type"])
    assert spot not in head["node_config"]
    assert "GPU" not in head["resources"]
    for worker in types.values():
        assert spot in worker["node_config"]
        assert (worker["min_workers"], worker["resources"]["GPU"]) == (0, 1)
    assert 0 < content["idle_timeout_minutes"] <= 15


def test_amazons_own_description_of_its_api_takes_the_machines() -> None:
    """Offline: the library brings the names and types of every parameter, and the machines there are."""
    session = pytest.importorskip("botocore.session").get_session()
    validate = pytest.importorskip("botocore.validate").ParamValidator().validate
    service, content = session.get_service_model("ec2"), loaded("cluster.yaml")
    machines = service.shape_for("InstanceType").enum
    for node in content["available_node_types"].values():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        report = validate(request, service.operation_model("RunInstances").input_shape)
        assert not report.has_errors(), report.generate_report()
        assert node["node_config"]["InstanceType"] in machines
    rules = {"IpPermissions": content["provider"]["security_group"]["IpPermissions"]}
    report = validate(rules, service.operation_model("AuthorizeSecurityGroupIngress").input_shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", NAMES)
def test_every_node_gets_code_token_and_environment(name: str) -> None:
    content = loaded(name)
    for there, here in content["file_mounts"].items():
        if not here.startswith("~"):
            assert (FOLDER / here).exists(), here
            assert there.startswith("~/raysweep/")
    assert content["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105
    for role in ("head", "worker"):
        setup = [*content.get("setup_commands", []), *content.get(f"{role}_setup_commands", [])]
        assert any("install.sh /mnt/raysweep" in command for command in setup)
        for command in content[f"{role}_start_ray_commands"]:
            assert command.startswith(". ~/.raysweep-node;"), "Ray's launcher switches telemetry on before this"
    (start,) = [command for command in content["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in (FOLDER / name).read_text().replace("0.0.0.0/0", "")  # noqa: S104
    environment = (FOLDER / "install.sh").read_text()
    for setting in ("RAY_AUTH_MODE=token", "RAY_USAGE_STATS_ENABLED=0", "MLFLOW_DISABLE_TELEMETRY=true"):
        assert setting in environment


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_the_file_says_what_it_costs_and_how_to_stop_it(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    comment = text[: text.index("\n\n")]
    assert re.search(r"cluster && ray up -y \S+\.yaml", comment)
    assert "ray down -y" in comment
    assert "nothing is paid for" in comment or "THIS COSTS MONEY" in comment
    assert "python -m raysweep tune ganonymization" in comment
    assert "<--" in text
    # No secrets, and no addresses but those that are kept for documentation.
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|aws_secret", text)
    for address in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text):
        assert address.startswith(("192.0.2.", "127.0.0.1")), address


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_bash_as_ray_wraps_it(name: str) -> None:
    """In brackets and on one line: a comment in it would swallow the bracket."""
    commands = [each for key, value in loaded(name).items() if key.endswith("_commands") for each in value]
    assert commands
    for command in commands:
        checked = subprocess.run(["bash", "-n", "-c", f"true && ({command})"], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"


def test_the_default_file_and_amazons_are_one() -> None:
    assert (FOLDER / "aws.yaml").resolve() == FOLDER / "cluster.yaml"


def test_the_installer_is_plain_bash() -> None:
    text = (FOLDER / "install.sh").read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert re.search(r"uv==\d", text)
    assert not (FOLDER / "install.sh").stat().st_mode & stat.S_IWOTH
    assert "curl" not in text  # nothing is fetched and run unseen
