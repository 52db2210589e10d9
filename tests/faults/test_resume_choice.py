"""P4, no wrong resume: which run folder a command goes on in, and when it is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fault_drivers import BASE, Drivers

from raysweep.engine.runs import Choice, Identity, choose_run, differences, folder_name, write_settings
from raysweep.errors import ConfigError, StoreError

QUESTION: dict[str, Any] = {"space": {"arms": [{"anonymizer": "blur", "ranges": {"k": {"low": 1}}}]}, "seed": 0}
MEANS: dict[str, Any] = {"code": {"a.py": "1", "b.py": "2"}, "weights": {"net": "ab"}, "libraries": {"torch": "2.0"}}


def identity(question: dict[str, Any] | None = None, means: dict[str, Any] | None = None) -> Identity:
    return Identity({**QUESTION, **(question or {})}, {**MEANS, **(means or {})})


def earlier(runs: Path, name: str, made: Identity | None, *, state: str = "running", fresh: int = 0) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    content: dict[str, Any] = {"info": {"name": "blur"}, "state": state, "fresh": fresh}
    write_settings(folder, {**content, "identity": made.to_dict()} if made is not None else content)
    (folder / "ledger.jsonl").write_bytes(b"something\n")
    return folder


def test_the_same_again_goes_on(tmp_path: Path) -> None:
    assert choose_run(tmp_path, "blur", identity()) == Choice()
    earlier(tmp_path, "blur-1", identity())
    assert choose_run(tmp_path, "blur", identity()) == Choice()
    assert choose_run(tmp_path, "blur", identity(), resume="blur-1") == Choice()


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({"code": {"a.py": "1", "b.py": "3"}}, "code: 1 source files are not the same (b.py)"),
        ({"weights": {"net": "cd"}}, 'weights.net: "ab" -> "cd"'),
        ({"weights": {}}, 'weights.net: "ab" -> none'),
        ({"libraries": {"torch": "2.1"}}, 'libraries.torch: "2.0" -> "2.1"'),
    ],
)
def test_an_unfinished_run_by_other_means_is_refused_with_what_differs(
    tmp_path: Path, means: dict[str, Any], words: str
) -> None:
    earlier(tmp_path, "blur-1", identity())
    with pytest.raises(ConfigError) as refused:
        choose_run(tmp_path, "blur", identity(means=means))
    text = str(refused.value)
    assert words in text
    assert "blur-1" in text
    assert "--fresh" in text
    assert refused.value.exit_code == 2
    assert choose_run(tmp_path, "blur", identity(means=means), fresh=True).fresh == 1


def test_a_finished_run_or_one_without_a_trial_is_left_alone(tmp_path: Path) -> None:
    other = identity(means={"libraries": {"torch": "2.1"}})
    folder = earlier(tmp_path, "blur-1", identity(), state="finished")
    chosen = choose_run(tmp_path, "blur", other)
    assert chosen.fresh == 0
    assert "blur-1 is finished" in chosen.note
    assert "2.0" in chosen.note
    earlier(tmp_path, "blur-2", identity(means={"libraries": {"torch": "2.2"}}))
    (tmp_path / "blur-2" / "ledger.jsonl").write_bytes(b"")
    assert choose_run(tmp_path, "blur", other).fresh == 0
    assert folder.exists()


def test_another_question_is_another_run_and_says_so(tmp_path: Path) -> None:
    earlier(tmp_path, "blur-1", identity())
    asked = identity({"space": {"arms": [{"anonymizer": "blur", "ranges": {"k": {"low": 5}}}]}, "seed": 1})
    chosen = choose_run(tmp_path, "blur", asked)
    assert "blur-1 asked something else" in chosen.note
    assert "space.arms.0.ranges.k.low: 1 -> 5" in chosen.note
    assert "\n" not in chosen.note
    assert choose_run(tmp_path, "pixelate", asked) == Choice()


def test_fresh_runs_are_numbered_and_the_newest_goes_on(tmp_path: Path) -> None:
    earlier(tmp_path, "blur-1", identity())
    assert choose_run(tmp_path, "blur", identity(), fresh=True).fresh == 1
    earlier(tmp_path, "blur-2", identity(), fresh=1)
    assert choose_run(tmp_path, "blur", identity()).fresh == 1
    assert choose_run(tmp_path, "blur", identity(), fresh=True).fresh == 2


def test_resume_insists(tmp_path: Path) -> None:
    earlier(tmp_path, "blur-1", identity(), state="finished")
    earlier(tmp_path, "blur-old", None)
    asked = identity({"seed": 1}, {"code": {"a.py": "1"}, "libraries": {"torch": "2.1"}})
    with pytest.raises(ConfigError) as refused:
        choose_run(tmp_path, "blur", asked, resume="blur-1")
    for words in ("3 things differ", "seed: 0 -> 1", "(b.py)", 'libraries.torch: "2.0" -> "2.1"'):
        assert words in str(refused.value), words
    for name, words in (
        ("blur-9", "is no run in"),
        ("blur", "fits 2 runs"),
        ("blur-old", "can be read, not continued"),
    ):
        with pytest.raises(ConfigError, match=words):
            choose_run(tmp_path, "blur", identity(), resume=name)
    with pytest.raises(ConfigError, match="give one of them"):
        choose_run(tmp_path, "blur", identity(), resume="blur-1", fresh=True)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"info": 3}', '{"info": {"name": "blur"}, "identity": 4}'])
def test_settings_that_cannot_be_read_stop_nobody(tmp_path: Path, content: str) -> None:
    folder = earlier(tmp_path, "blur-1", identity())
    (folder / "sweep.json").write_text(content)
    assert choose_run(tmp_path, "blur", identity()).fresh == 0


def test_settings_are_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(tmp_path, {"state": "running"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_settings(tmp_path, {"state": "finished"})
    assert json.loads((tmp_path / "sweep.json").read_text()) == {"state": "running"}
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_names_of_folders_are_tame() -> None:
    assert folder_name("../../etc\n\x1b[31m", "0123456789") == "_.._etc__[31m-01234567".replace("[", "_")
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []


@pytest.mark.slow
def test_the_command_refuses_before_anything_starts(drivers: Drivers, tmp_path: Path) -> None:
    words = ("tune", "blur", "--trials", "3", *BASE)
    killed = drivers.start(*words, runs=tmp_path, fault="ledger.after_fsync:4")
    killed.wait()
    (path,) = tmp_path.glob("*/sweep.json")
    content = json.loads(path.read_text())
    content["identity"]["means"]["libraries"]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    ledger = path.with_name("ledger.jsonl").read_bytes()
    refused = drivers.start(*words, runs=tmp_path)
    assert refused.wait() == 2
    assert 'libraries.torch: "1.0" ->' in refused.output
    assert "--fresh" in refused.output
    assert path.with_name("ledger.jsonl").read_bytes() == ledger
    insisted = drivers.start(*words, "--resume", path.parent.name, runs=tmp_path)
    assert insisted.wait() == 2
    assert "1 things differ" in insisted.output
    fresh = drivers.start(*words, "--fresh", runs=tmp_path)
    assert fresh.wait() == 0, fresh.output
    assert len(list(tmp_path.glob("*/ledger.jsonl"))) == 2
    other = drivers.start(*words, "kernel_size.low=31", runs=tmp_path)
    assert other.wait() == 0, other.output
    assert "asked something else" in other.output
