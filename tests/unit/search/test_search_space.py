"""Search spaces: what is refused, with file and line, and what overrides do."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysweep.anonymizers.registry import get_anonymizer
from raysweep.config import parse_assignments, parse_duration, resolve_sweep
from raysweep.errors import ConfigError
from raysweep.search.parameters import Int
from raysweep.search.space import canonical_hash, declared_space, find_space, load_space, shipped_spaces


def write(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path, **overrides: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_space(path, overrides)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", sorted(shipped_spaces()))
def test_every_shipped_space_loads_and_opens_with_its_command(name: str) -> None:
    path = find_space(name)
    space = load_space(path)
    assert space.arms
    assert space.summary
    assert f"python -m raysweep tune {name}" in path.read_text(encoding="utf-8").split("summary:")[0]


def test_all_problems_come_at_once_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "sumary: x\nanonymizer: blur\nparameters:\n  kernel_size: {low: 5, high: 200}\n  kernel: 3\n",
    )
    found = problems_of(path)
    assert any(line.startswith("own.yaml:1: unknown key 'sumary' (did you mean 'summary'?)") for line in found)
    assert any(line.startswith("own.yaml:4:") and "kernel_size.low = 5 is out of range" in line for line in found)
    assert any(line.startswith("own.yaml:4:") and "kernel_size.high = 200" in line for line in found)
    assert any(line.startswith("own.yaml:5:") and "did you mean 'kernel_size'?" in line for line in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anonymizer: blurr\n", "did you mean 'blur'?"),
        ("anonymizer: blur\nparameters:\n  kernel_size: {low: 31, high: 11}\n", "low 31 is above high 11"),
        ("anonymizer: blur\nparameters:\n  kernel_size: {low: .nan}\n", "is not a whole number"),
        ("anonymizer: blur\nparameters:\n  kernel_size: 31\n  kernel_size: 33\n", "duplicate key 'kernel_size'"),
        ("anonymizer: blur\nparameters: &a\n  kernel_size: 31\n", "anchors and aliases are not allowed"),
        ("anonymizer: !!python/object/apply:os.system [true]\n", "not readable as YAML"),
        ("- a\n", "must be a mapping of keys"),
        ("summary: none\n", "give either `anonymizer:` or `arms:`"),
        ("anonymizer: blur\nparameters:\n  kernel_size: {low: 11, step: 3}\n", "step 3 must be a multiple of 2"),
        ("anonymizer: file:./own.py:Own\n", "may only be named on the command line"),
        ("anonymizer: k-same\nparameters:\n  k: {when: {unit: images}}\n", "which must stand before 'k'"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in line for line in problems_of(write(tmp_path, text)))


def test_an_override_fixes_or_narrows_a_parameter() -> None:
    path = find_space("blur")
    fixed = load_space(path, {"kernel_size": 31}).arms[0]
    assert fixed.fixed == {"kernel_size": 31}
    assert not fixed.ranges
    narrowed = load_space(path, {"kernel_size.low": 41, "kernel_size.high": 61}).arms[0].ranges["kernel_size"]
    assert isinstance(narrowed, Int)
    assert (narrowed.low, narrowed.high) == (41, 59)  # steps of 6 from 41


def test_try_first_follows_an_override() -> None:
    arm = load_space(find_space("k-same"), {"unit": "images"}).arms[0]
    assert all(setting["unit"] == "images" for setting in arm.try_first)


def test_hash_ignores_comments_and_order_but_not_ranges(tmp_path: Path) -> None:
    one = load_space(write(tmp_path, "anonymizer: blur\nparameters:\n  kernel_size: {low: 11, high: 31}\n"))
    same = load_space(
        write(tmp_path, "# c\nparameters:\n  kernel_size: {high: 31, low: 11, why: x}\nanonymizer: blur\n")
    )
    other = load_space(write(tmp_path, "anonymizer: blur\nparameters:\n  kernel_size: {low: 13, high: 31}\n"))
    assert canonical_hash(one.canonical()) == canonical_hash(same.canonical())
    assert canonical_hash(one.canonical()) != canonical_hash(other.canonical())


def test_size_counts_settings() -> None:
    assert load_space(find_space("blackout")).size == 1
    assert load_space(find_space("blur")).size == 16


def test_resolve_mixes_run_settings_and_parameters() -> None:
    config = resolve_sweep("blur", ["kernel_size.low=31", "seed=7", "frame.size=128"], flags={"trials": 3})
    assert config.run.seed == 7
    assert config.run.frame.size == 128
    assert config.run.trials == 3


def test_resolve_names_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_sweep("blur", ["kernel_sise=31", "trial=3"])
    text = str(caught.value)
    assert "unknown parameter 'kernel_sise' (did you mean 'kernel_size'?)" in text
    assert "did you mean 'trials'?" in text
    with pytest.raises(ConfigError, match="sampler = 'tpee'"):
        resolve_sweep("blur", ["sampler=tpee"])
    with pytest.raises(ConfigError, match="trials = 0"):
        resolve_sweep("blur", flags={"trials": 0})
    with pytest.raises(ConfigError, match="did you mean 'blur'"):
        resolve_sweep("blurr")


def test_assignments_and_durations() -> None:
    assert parse_assignments(["a=1", "b.c=[x, y]", "d="]) == {"a": 1, "b.c": ["x", "y"], "d": None}
    with pytest.raises(ConfigError, match="is not key=value"):
        parse_assignments(["nonsense"])
    assert [parse_duration(text) for text in ("90", "90s", "1.5h")] == [90.0, 90.0, 5400.0]
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration("soon")


def test_an_anonymizer_without_a_file_is_searched_over_what_it_declares() -> None:
    space = declared_space("blur", {"kernel_size.low": 31})
    (arm,) = space.arms
    assert list(arm.ranges) == list(get_anonymizer("blur").parameters)
    assert arm.ranges["kernel_size"].low == 31  # type: ignore[union-attr]
    assert declared_space("identity").arms[0].settings == ({},)
    with pytest.raises(ConfigError, match="kernel_sise"):
        declared_space("blur", {"kernel_sise": 3})


def test_a_file_typed_by_the_user_is_searched_too(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "from raysweep.anonymizers.base import Anonymizer\n"
        "from raysweep.search.parameters import Int\n"
        "class Own(Anonymizer):\n"
        "    name = 'acme/own'\n"
        "    parameters = {'bits': Int(1, 8, 2)}\n"
        "    def anonymize(self, faces):\n"
        "        return faces.image\n"
    )
    config = resolve_sweep(f"file:{path}:Own", ["bits.high=4", "trials=3"])
    assert config.space.name == "acme-own"
    assert config.space.arms[0].ranges["bits"] == Int(1, 4, 1)
    assert config.run.trials == 3


def test_a_value_from_the_command_line_holds_in_every_setting_of_a_study(tmp_path: Path) -> None:
    path = write(tmp_path, "anonymizer: k-same\nsettings:\n  - {k: 2}\n  - {k: 5, unit: images}\n")
    (arm,) = load_space(path, {"unit": "subjects"}).arms
    assert arm.settings == ({"k": 2, "unit": "subjects"}, {"k": 5, "unit": "subjects"})
    assert problems_of(path, **{"k.low": 3}) == [
        "k-same: k cannot be narrowed, the settings are listed; fix it with k=VALUE"
    ]


def test_a_word_holds_in_all_arms_that_know_it_or_in_one_that_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "arms:\n  - anonymizer: ciagan\n    settings: [{steps: 0}]\n  - anonymizer: ganonymization\n    settings: [{steps: 0}]\n",
    )
    arms = load_space(path, {"init": "published", "ganonymization.size": 256, "size": 64}).arms
    assert arms[0].settings == ({"steps": 0, "init": "published", "size": 64},)
    assert arms[1].settings == ({"steps": 0, "init": "published", "size": 256},)
    assert "unknown parameter 'ciagan.sise'" in problems_of(path, **{"ciagan.sise": 64})[0]
