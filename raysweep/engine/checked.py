"""A record that can be kept: what claims to be a number is one."""

from __future__ import annotations

import math
from dataclasses import replace

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue

__all__ = ["checked"]

OBJECTIVES = ("privacy", "utility")


def checked(record: TrialRecord) -> TrialRecord:
    """The record as it is, or as failed when an objective is missing or is not finite although it is called `ok`.

    Other metrics that are not finite become undefined with that reason, bounds that are not finite become absent, and steps of a curve
    that are not finite are left out: nothing downstream has to expect infinity.
    """
    if record.state != "complete":
        return record
    wrong = [f"{name} is missing" for name in OBJECTIVES if name not in record.metrics]
    wrong += [
        f"{name} is {record.metrics[name].value}"
        for name in OBJECTIVES
        if name in record.metrics and record.metrics[name].ok and not math.isfinite(record.metrics[name].value)
    ]
    if wrong:
        return replace(
            record, state="failed", reason="; ".join(wrong), metrics={}, attackers=(), curves={}, evidence={}
        )
    return replace(
        record,
        metrics={name: _number(value) for name, value in record.metrics.items()},
        curves={name: tuple(filter(math.isfinite, values)) for name, values in record.curves.items()},
    )


def _number(value: MetricValue) -> MetricValue:
    if value.ok and not math.isfinite(value.value):
        return MetricValue.undefined(f"computed as {value.value}", value.n, value.n_ids)
    lo, hi = (bound if math.isfinite(bound) else math.nan for bound in (value.lo, value.hi))
    number = value.value if math.isfinite(value.value) else math.nan
    return replace(value, value=number, lo=lo, hi=hi)
