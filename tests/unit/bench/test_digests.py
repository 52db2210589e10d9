"""How far the records of two sweeps agree."""

from __future__ import annotations

import math
from typing import Any

from raysweep.bench.digests import agreement


def record(key: str, value: float, digest: str = "ab" * 32, **more: Any) -> dict[str, Any]:
    metrics = {"privacy": {"value": value, "lo": math.nan}}
    return {
        "key": key,
        "metrics": metrics,
        "notes": {"evidence": digest},
        "seconds": {"fit": value},
        "ended_at": 1.0,
        **more,
    }


def test_times_and_order_do_not_count() -> None:
    first = [record("a", 0.5), record("b", 0.25)]
    second = [record("b", 0.25, ended_at=2.0, seconds={"fit": 9.0}), record("a", 0.5)]
    found = agreement(first, second)
    assert (found.equal, found.near, found.apart) == (1.0, 1.0, 0.0)


def test_a_bit_is_seen_and_told_from_more() -> None:
    first = [record("a", 0.5), record("b", 0.25), record("c", 0.1), record("d", 0.1)]
    second = [record("a", 0.5 + 1e-9), record("b", 0.26), record("c", 0.1, "cd" * 32), record("d", 0.1)]
    found = agreement(first, second)
    assert (found.equal, found.near) == (0.25, 0.75)
    assert math.isclose(found.apart, 0.01)
    assert "25 % of records equal in every bit, 75 % within 1e-06, largest difference 0.01" in str(found)


def test_other_words_and_missing_records_never_agree() -> None:
    assert agreement([record("a", 0.5, state="complete")], [record("a", 0.5, state="failed")]).near == 0.0
    assert agreement([record("a", 0.5)], [record("a", math.nan)]).near == 0.0
    missing = agreement([record("a", 0.5), record("b", 0.5)], [record("a", 0.5)])
    assert missing.equal < 1.0
    assert math.isinf(missing.apart)
    twice = agreement([record("a", 0.5)], [record("a", 0.5), record("a", 0.5)])
    assert twice.equal == 0.0
