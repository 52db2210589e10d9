"""B7, B12: search spaces that are wrong, endless or hostile are refused with a message, soon, and run nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from raysweep.errors import ConfigError
from raysweep.search.space import load_space

BLUR = "anonymizer: blur\nparameters:\n  kernel_size: "
SAME = "anonymizer: k-same\nparameters:\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BLUR + "{low: .nan, high: 31}\n", "kernel_size.low = nan is not a whole number"),
        (BLUR + "{low: 51, high: 31}\n", "low 51 is above high 31"),
        (BLUR + "{low: 0, high: 31, log: true}\n", "kernel_size.low = 0 is out of range"),
        (BLUR + "1e400\n", "not a whole number"),
        (BLUR + "{choices: [11, 21]}\n", "`choices` means nothing for a parameter of type int; allowed: low, high, step, log"),
        (SAME + "  unit: {choices: [images], low: 3}\n", "`low` means nothing for a parameter of type categorical"),
        (SAME + "  unit: {choices: [images, subjects], when: {k: 5}}\n  k: {low: 2, high: 9, when: {unit: subjects}}\n",
         "`when` names 'k', which must stand before 'unit'"),
        (SAME + "  k: {low: 2, high: 9, when: {k: 5}}\n", "`when` names 'k', which must stand before 'k'"),
        (SAME + "  k: {low: 2, high: 9}\n  k: {low: 2, high: 5}\n", "4: duplicate key 'k'"),
        ('anonymizer: "bl\\nur<script>"\n', "unknown anonymizer 'bl\\nur<script>'"),
        (BLUR + "{choices: [" + ",".join(["11"] * 200_000) + "]}\n", "more than 20000 items"),
        (BLUR + "{choices: [" + ",".join(map(str, range(1_000_000))) + "]}\n", "larger than 1048576 bytes"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "anchors and aliases are not allowed"),
        ("a: &a [*a]\n", "anchors and aliases are not allowed"),
        ("[" * 5000, "nested deeper than 20"),
        ("anonymizer: blur\nparameters: " + "{a: " * 3000 + "1" + "}" * 3000, "nested deeper than 20"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("? [1, 2]\n: 3\n", "unhashable key"),
        ("", "must be a mapping"),
    ],
)  # fmt: skip
def test_refused_with_a_message(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.process_time()
    with pytest.raises(ConfigError) as refused:
        load_space(path)
    assert words in str(refused.value)
    assert "space.yaml" in str(refused.value)
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch MARK']",
        "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['MARK']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!binary aGk=",
    ],
)
def test_a_tag_makes_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "space.yaml"
    path.write_text(f"anonymizer: {tag}\n".replace("MARK", str(tmp_path / "mark")), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"space\.yaml"):
        load_space(path)
    assert [item.name for item in tmp_path.iterdir()] == ["space.yaml"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_bytes(b"\xff\xfe\x00anonymizer")
    with pytest.raises(ConfigError, match="not readable as UTF-8 text"):
        load_space(tmp_path / "space.yaml")
