"""The image definition, line by line: pinned, not root, no secrets, two targets. It is not built here."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


class Stage:
    """One FROM and what follows it."""

    def __init__(self, base: str, name: str) -> None:
        self.base, self.name = base, name
        self.lines: list[tuple[str, str]] = []


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    text = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    found: dict[str, Stage] = {}
    arguments = {}
    for line in joined:
        word, _, rest = line.partition(" ")
        assert word in {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "CMD"}, line
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[f"${{{name}}}"] = value
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert name, f"{line}: every stage has a name"
            found[name] = stage = Stage(arguments.get(base, base), name)
        else:
            stage.lines.append((word, rest))
    return found


def inherited(stages: dict[str, Stage], name: str) -> list[tuple[str, str]]:
    stage = stages[name]
    return [*(inherited(stages, stage.base) if stage.base in stages else []), *stage.lines]


def test_both_targets_are_there_and_run_as_nobody_in_particular(stages: dict[str, Stage]) -> None:
    for target in ("cpu", "gpu"):
        lines = inherited(stages, target)
        assert [rest for word, rest in lines if word == "USER"][-1] == "1000:1000"
        after = [word for word, _ in lines][[word for word, _ in lines].index("USER") :]
        assert "RUN" not in after, "nothing runs as root after the user is set, and nothing needs to"
        assert ("COPY", f"--from={target}-packages /opt/raysweep /opt/raysweep") in lines
        assert not any("build-essential" in rest for _, rest in lines), "no compiler in what is shipped"


def test_everything_is_pinned(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        if stage.base not in stages:
            assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", stage.base), stage.base
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    assert "latest" not in text
    assert re.search(r"pip install --no-cache-dir uv==\d", text)
    pinned = re.findall(r"ray\[default\]==(\S+?)\"", text)
    assert pinned == [version("ray")] * 2
    page = (ROOT / "cluster" / "README.md").read_text()
    assert re.findall(r"ray\[default\]==(\S+?)\"", page) == [version("ray")], (
        "the launcher and the machines must be alike"
    )
    assert (ROOT / "pyproject.toml").read_text().count(f'"ray=={version("ray")}"') == 1


def test_no_secret_goes_in_and_only_what_is_needed(stages: dict[str, Stage]) -> None:
    lines = [line for stage in stages.values() for line in stage.lines]
    for word, rest in lines:
        if word == "ENV":
            assert not re.search(r"(?i)(token|password|secret|key)=(?!token\b)", rest), rest
        if word == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            for source in sources:
                assert source in {"pyproject.toml", "README.md", "LICENSE", "search_spaces", "raysweep"}
                assert (ROOT / source).exists()
        if word == "RUN":
            assert not re.search(r"curl|wget|--mount=type=secret|chmod 777", rest), rest


def test_what_is_written_lies_where_a_read_only_root_lets_it(stages: dict[str, Stage]) -> None:
    environment = " ".join(rest for word, rest in inherited(stages, "cpu") if word == "ENV")
    settings = dict(item.split("=", 1) for item in environment.split())
    for name in ("HOME", "MPLCONFIGDIR", "RAYSWEEP_RUNS", "RAYSWEEP_CACHE", "RAYSWEEP_MODELS"):
        assert settings[name].startswith(("/tmp", "/mnt/raysweep")), name  # noqa: S108
    assert settings["PYTHONDONTWRITEBYTECODE"] == "1"
    assert (settings["RAY_AUTH_MODE"], settings["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")
