from __future__ import annotations

import doctest
import math

import pytest
from fake_sweep import HOSTILE

from raysweep.metrics.value import MetricValue
from raysweep.tracking import text
from raysweep.tracking.text import (
    csv_cell,
    duration,
    entity_key,
    markdown,
    page,
    plain,
    redact,
    tag_value,
    with_interval,
    worst_attacker,
)


def test_examples() -> None:
    assert doctest.testmod(text).failed == 0


@pytest.mark.parametrize("write", [plain, tag_value, page, markdown])
def test_hostile_text_becomes_one_printable_line(write) -> None:
    out = write(HOSTILE)
    assert not any(bad in out for bad in ("\n", "\r", "\x1b", "\x00", "\u202e"))
    assert len(out) <= 5000


def test_markup_is_dead() -> None:
    assert "<script" not in page(HOSTILE)
    assert "<script" not in markdown(HOSTILE)
    assert r"\|" in markdown("a | b")
    assert markdown("[x](javascript:1)") == r"\[x\](javascript:1)"
    assert markdown("# head") == r"\# head"


@pytest.mark.parametrize("name", [HOSTILE, "", "..", "/", "a//b", "../../etc", "ключ", "a b", "x" * 900])
def test_key_is_one_that_mlflow_accepts(name: str) -> None:
    import posixpath
    import re

    key = entity_key(name)
    assert 0 < len(key) <= 250
    assert re.fullmatch(r"[/\w.\- ]+", key)
    assert posixpath.normpath(key) == key
    assert not key.startswith(("/", ".."))


def test_formula_in_csv_is_text() -> None:
    assert csv_cell("=HYPERLINK(1)") == "'=HYPERLINK(1)"
    assert csv_cell(-0.5) == -0.5
    assert csv_cell(math.nan) == ""
    assert csv_cell(True) == "true"


def test_undefined_is_a_word_never_a_zero() -> None:
    assert with_interval(MetricValue.undefined("no people")) == "undefined"
    assert with_interval(None) == "-"
    assert with_interval(MetricValue(0.5)) == "0.50"
    assert with_interval(MetricValue(0.5, 0.4, 0.6)) == "0.50 [0.40, 0.60]"


def test_worst_attacker_ignores_vacuous_rows() -> None:
    rows = (
        {"attacker": "lazy", "embedder": "b", "advantage_S": 0.9, "status": "vacuous"},
        {"attacker": "ignorant", "embedder": "a", "advantage_S": 0.1, "status": "ok"},
        {"attacker": "ignorant", "embedder": "a", "control": "random", "advantage_S": 0.8, "status": "ok"},
    )
    assert worst_attacker(rows) == "ignorant on a"
    assert worst_attacker(()) == ""
    assert worst_attacker((*rows, {"attacker": "A6", "name": "fused", "selected": True})) == "A6 fused"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:pw@h:5/d?sslkey=k", "postgresql://u:***@h:5/d"),
        ("https://token@h/x", "https://token@h/x"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_redacted_uri(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.44, "0.4 s"), (42, "42 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (math.nan, "?")]
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
