"""What makes a machine unfit, and how `doctor` says it. No cluster is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raysweep.config import resolve_sweep
from raysweep.doctor_cluster import of_code, of_dashboard, of_folder, of_telemetry, of_token
from raysweep.engine.machines import Facts, marked, problems
from raysweep.engine.session import cpu_share
from raysweep.errors import ConfigError
from raysweep.sweep import tune
from raysweep.tracking.terminal import live_view

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "code": "0123456789abcdef"}
HERE = Facts("here", VERSIONS, {"/shared/mark": "aa", "/models": "folder"})
TWIN = replace(HERE, machine="10.0.0.2")


def test_machines_that_are_alike_have_no_problems() -> None:
    assert problems(HERE, [TWIN, replace(TWIN, machine="10.0.0.3")]) == []
    assert [of_code(HERE, [TWIN]).state, of_token([TWIN]).state, of_telemetry([TWIN]).state] == ["ok"] * 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Facts("10.0.0.2", error="ModuleNotFoundError: No module named 'raysweep'"), "10.0.0.2 cannot work: ModuleNot"),
        (replace(TWIN, versions={**VERSIONS, "python": "3.12.1"}), "10.0.0.2 has Python 3.12.1, here it is 3.11.7"),
        (replace(TWIN, versions={**VERSIONS, "ray": "2.61.0"}), "10.0.0.2 has Ray 2.61.0, here it is 2.60.0"),
        (replace(TWIN, versions={**VERSIONS, "code": "f"}), "10.0.0.2 has raysweep's source f, here"),
        (replace(TWIN, sees={"/models": "folder"}), "10.0.0.2 does not see /shared/mark"),
        (replace(TWIN, sees={"/shared/mark": "bb", "/models": "folder"}), "10.0.0.2 has another /shared/mark"),
    ],
)
def test_each_difference_is_one_line_that_names_the_machine(other: Facts, words: str) -> None:
    (line,) = problems(HERE, [TWIN, other])
    assert line.startswith(words)


def test_doctor_tells_what_is_wrong_and_how_to_mend_it() -> None:
    open_ = of_token([TWIN, replace(TWIN, machine="10.0.0.3", token=False)])
    assert (open_.state, open_.detail.split(":")[0]) == ("wrong", "10.0.0.3")
    assert "RAY_AUTH_MODE=token" in open_.fix
    assert of_telemetry([replace(TWIN, telemetry=True)]).state == "wrong"
    other = of_code(HERE, [replace(TWIN, versions={**VERSIONS, "ray": "2.61.0"})])
    assert (other.state, "2.61.0" in other.detail) == ("wrong", True)
    folder = Path("/shared")
    assert of_folder("cache", folder, "/shared/mark", [TWIN]).state == "ok"
    blind = replace(TWIN, sees={})
    assert of_folder("cache", folder, "/shared/mark", [blind]).state == "wrong"
    assert "RAYSWEEP_CACHE" in of_folder("cache", folder, "/shared/mark", [blind]).fix
    assert of_folder("runs", folder, "/shared/mark", [blind]).state == "note"


def test_nothing_is_claimed_of_a_machine_that_did_not_answer() -> None:
    silent = Facts("10.0.0.9", error="no answer within 120 s")
    assert of_token([TWIN, silent]).detail == "every machine that answered asks for it"
    assert of_telemetry([TWIN, silent]).detail == "off on every machine that answered"
    assert of_code(HERE, [TWIN, silent]).detail == "10.0.0.9 cannot work: no answer within 120 s"
    assert of_folder("cache", Path("/shared"), "/shared/mark", [TWIN, silent]).detail.endswith("that answered")
    assert of_code(HERE, [replace(TWIN, sees={})]).state == "ok", "folders have lines of their own"


@pytest.mark.parametrize(
    ("url", "state"),
    [
        ("127.0.0.1:8265", "ok"),
        ("http://localhost:8265", "ok"),
        ("10.0.0.1:8265", "wrong"),
        ("http://10.0.0.1:8265", "wrong"),
        ("", "note"),
        (None, "note"),
    ],
)
def test_a_dashboard_belongs_on_loopback(url: str | None, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert of_dashboard(url).state == state
    if state == "wrong":
        assert "--dashboard-host=127.0.0.1" in of_dashboard(url).fix
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
        assert of_dashboard(url).state == "note"


def test_marks_are_new_files_and_go_again(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two" / "deep"
    with marked([one, two]) as marks:
        assert [Path(mark).parent for mark in marks] == [one, two]
        assert all(Path(mark).is_file() for mark in marks)
    assert list(one.iterdir()) == list(two.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), marked([tmp_path / "file" / "below"]):
        pass


@pytest.mark.parametrize(
    ("actors", "machines", "share"),
    [(1, [1, 1], 1), (1, [16], 16), (2, [8, 8], 8), (3, [8, 8], 4), (4, [2, 16], 4), (40, [4, 4], 1), (1, [0, 4], 4)],
)
def test_no_actor_asks_for_more_than_one_machine_has(actors: int, machines: list[int], share: int) -> None:
    assert cpu_share(actors, machines) == share
    assert sum(cpus // share for cpus in machines) >= actors or share == 1


def test_waiting_for_gpus_needs_a_cluster(tmp_path: Path) -> None:
    for words in (["gpus=2"], ["gpus=2", "engine=local"]):
        with pytest.raises(ConfigError, match="--address"):
            tune(resolve_sweep("blur", words), runs=tmp_path, view_of=live_view)
    assert list(tmp_path.iterdir()) == []
