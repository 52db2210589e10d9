"""The drawings of the report, each from records and what their evidence says; see `svg` for how they are drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.tracking.standing import Standing
from raysweep.tracking.svg import Axis, Plot
from raysweep.tracking.text import number, plain, with_interval, worst_attacker

__all__ = [
    "Curve",
    "TraceBand",
    "curves_chart",
    "front_chart",
    "gap_chart",
    "interval_lines",
    "risk_chart",
    "trace_chart",
    "zoom_of",
]

SHAPES = {"identity": "diamond", "blackout": "square", "untrained": "triangle"}
"""Control -> mark."""
OBJECTIVES = ("privacy", "utility")
UNIT = tuple(round(0.2 * step, 1) for step in range(6))


@dataclass(frozen=True)
class Curve:
    """A line of a chart: `css` is its class, `c0` to `c7`, or `clear`."""

    name: str
    css: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class TraceBand:
    """Hypervolume after a trial: value and band (NaN where there is none), by number of trials and by cost."""

    step: int
    cost_s: float
    value: float
    lo: float
    hi: float


def zoom_of(state: Standing, chosen: frozenset[str]) -> tuple[float, float, float, float] | None:
    """Where the front lies (P from, to, U from, to), when that is a small part of the unit square."""
    shown = [record for record in state.ranked if record.key in state.front_keys | chosen]
    if len(shown) < 3:
        return None
    sides = []
    for name in ("privacy", "utility"):
        values = [record.metrics[name] for record in shown]
        lows = [value.lo if math.isfinite(value.lo) else value.value for value in values]
        highs = [value.hi if math.isfinite(value.hi) else value.value for value in values]
        low, high = max(-0.02, min(lows) - 0.02), min(1.03, max(highs) + 0.02)
        sides += [low, high]
    wide, tall = sides[1] - sides[0], sides[3] - sides[2]
    return (sides[0], sides[1], sides[2], sides[3]) if wide * tall < 0.3 and wide > 0.01 and tall > 0.01 else None


def front_chart(
    state: Standing, chosen: frozenset[str], view: tuple[float, float, float, float] | None = None
) -> Markup:
    """The privacy-utility plane. Filled marks were chosen on S; a thin line leads from what S promised to what E measured.

    Args:
        state: of the sweep.
        chosen: keys of the trials on the front by their values on S.
        view: part of the plane (P from, to, U from, to); None shows all of it, with the reference point.
    """
    left, right, bottom, top = view or (-0.02, 1.03, -0.02, 1.03)
    plot = Plot(
        Axis("privacy P: 1 = hidden from the strongest attacker", left, right, () if view else UNIT),
        Axis("utility U: 1 = expression fully kept", bottom, top, () if view else UNIT),
        "privacy against utility, all trials, the front with its 95 % intervals",
        720,
        430,
        clip=view is not None,
    )
    marked = state.front_keys | chosen
    shown = [record for record in state.ranked if record.key in marked]
    if state.front:
        stairs = _stairs(state.front)
        plot.area([(0.0, 0.0), (0.0, stairs[0][1]), *stairs, (stairs[-1][0], 0.0)], "hull")
        plot.line(stairs, "stairs")
    for record in state.ranked:
        if record.key not in marked:
            plot.mark(*_at(record), "trial", size=3.6, title=_hover(record))
    for record in shown:
        plot.cross(_ends(record, "privacy"), _ends(record, "utility"), _at(record), "interval")
    for record in shown:
        promised = [record.metrics.get(f"selection/{name}") for name in ("privacy", "utility")]
        if record.key in chosen and all(_usable(value) for value in promised):
            start = tuple(value.value for value in promised if value is not None)
            plot.line([(start[0], start[1]), _at(record)], "promise")
            plot.mark(start[0], start[1], "promised", size=2.4, title=f"#{record.number} as measured on role S")
    for record in state.controls:
        if all(_usable(record.metrics.get(name)) for name in OBJECTIVES):
            name = plain(record.control, 40)
            plot.mark(
                *_at(record), "control", SHAPES.get(record.control, "triangle"), 5, f"control {name}: {_hover(record)}"
            )
    for record in shown:
        knee = state.knee is not None and record.key == state.knee.key
        css = "knee" if knee else "front" if record.key in chosen else "hollow"
        plot.mark(*_at(record), css, "star" if knee else "circle", 5.4, _hover(record))
    labelled = sorted(shown, key=lambda item: item is not state.knee)
    plot.labels(
        [_at(record) for record in labelled],
        [f"#{record.number}" for record in labelled],
        [_at(record) for record in state.controls if all(_usable(record.metrics.get(name)) for name in OBJECTIVES)],
        [
            *itertools.pairwise(_stairs(state.front) if state.front else []),
            *(line for record in shown for line in interval_lines(record)),
        ],
    )
    if not state.ranked:
        plot.text(0.5, 0.5, "no trial can be ranked", anchor="middle")
    return plot.svg()


def gap_chart(records: Sequence[TrialRecord], names: Mapping[str, str]) -> Markup:
    """Per trial, from what the naive attacker leaves (hollow) to what the strongest leaves (filled)."""
    usable = [
        record for record in records if all(_usable(record.metrics.get(name)) for name in ("privacy", "privacy/naive"))
    ]
    height = 58 + 24 * max(1, len(usable))
    axis = Axis("", 0.0, float(max(1, len(usable))), ticks=(0.0,))
    wide = max([60, *(6.9 * len(names.get(record.key, "")) + 20 for record in usable)])
    plot = Plot(
        Axis("privacy P", -0.02, 1.03, UNIT),
        axis,
        "naive against strongest attacker",
        720,
        height,
        round(min(300, wide)),
    )
    for index, record in enumerate(usable):
        level = len(usable) - index - 0.5
        naive, strong = record.metrics["privacy/naive"], record.metrics["privacy"]
        plot.line([(strong.value, level), (naive.value, level)], "gap")
        plot.cross((strong.lo, strong.hi), (math.nan, math.nan), (strong.value, level), "interval")
        plot.mark(naive.value, level, "hollow", size=4.6, title=f"naive attacker: P {with_interval(naive, 3)}")
        plot.mark(
            strong.value, level, "front", size=5,
            title=f"strongest attacker ({worst_attacker(record.attackers) or 'none'}): P {with_interval(strong, 3)}",
        )  # fmt: skip
        plot.text(-0.02, level, names.get(record.key, f"#{record.number}"), "tick", "end", (-10, 4))
    return plot.svg()


def curves_chart(curves: Sequence[Curve], kind: str) -> Markup:
    """CMC (`kind` is `cmc`, x is the rank) or ROC (`roc`, x is the false match rate, logarithmic)."""
    if kind == "cmc":
        most = max([2.0, *(float(curve.points[-1][0]) for curve in curves if curve.points)])
        x, y = Axis("rank", 1, most), Axis("identified within this rank", 0, 1, UNIT)
    else:
        ticks = (1e-3, 1e-2, 1e-1, 1.0)
        x, y = Axis("false match rate", 1e-3, 1.0, ticks, log=True), Axis("true match rate", 0, 1, UNIT)
    plot = Plot(x, y, "identification by rank" if kind == "cmc" else "verification", 420, 330)
    if kind == "roc":
        plot.line([(10 ** (-3 + step / 20), 10 ** (-3 + step / 20)) for step in range(61)], "chance")
    for curve in curves:
        plot.line([point for point in curve.points if point[0] >= x.low], f"curve {curve.css}", curve.name)
    return plot.svg()


def trace_chart(path: Sequence[TraceBand], by_cost: bool) -> Markup:
    """Hypervolume after each trial with its band, by number of trials or by cumulated cost."""
    along = [point.cost_s if by_cost else float(point.step) for point in path]
    unit, words = (
        (60.0, "minutes of work, all workers together")
        if max(along, default=0) > 180
        else (1.0, "seconds of work, all workers together")
    )
    along = [value / unit for value in along] if by_cost else along
    highs = [value for point in path for value in (point.value, point.hi) if math.isfinite(value)]
    top = min(1.0, 0.1 * math.ceil(10 * max([0.1, *highs]) + 0.2))
    x = Axis(words if by_cost else "finished trials", 0.0, max([1.0, *along]))
    plot = Plot(x, Axis("hypervolume", 0, top), "hypervolume of the front so far", 420, 300)
    banded = [(place, point) for place, point in zip(along, path, strict=True) if math.isfinite(point.lo)]
    if len(banded) > 1:
        upper = [(place, point.hi) for place, point in banded]
        plot.area([*_steps(upper), *reversed(_steps([(place, point.lo) for place, point in banded]))], "band")
    plot.line(_steps([(place, point.value) for place, point in zip(along, path, strict=True)]), "curve c0")
    for place, point in zip(along, path, strict=True):
        span = f" [{point.lo:.3f}, {point.hi:.3f}]" if math.isfinite(point.lo) else ""
        plot.mark(place, point.value, "dot", size=2.2, title=f"after {point.step} trials: {point.value:.3f}{span}")
    return plot.svg()


def risk_chart(risk: npt.NDArray[np.float64], people: Sequence[str], chance: float, name: str) -> Markup:
    """Chance that the strongest attacker names a person, one bar per person, the most exposed first."""
    order = np.argsort(-risk, kind="stable")
    plot = Plot(
        Axis("people of role E, most exposed first", 0, max(1, len(risk)), ticks=(0.0, float(len(risk)))),
        Axis("recognised at rank 1", 0, 1, UNIT),
        name,
        420,
        240,
    )
    gap = 0.12 if len(risk) <= 120 else 0.0
    for place, person in enumerate(order.tolist()):
        value = float(risk[person])
        plot.bar(
            (place + gap, place + 1 - gap),
            (0.0, value),
            "risk high" if value > 0.5 else "risk",
            f"{people[person]}: {value:.2f}",
        )
    plot.line([(0.0, chance), (float(max(1, len(risk))), chance)], "chance", f"guessing: {chance:.3f}")
    return plot.svg()


# ------------------------------------------------------------------ helpers
def _at(record: TrialRecord) -> tuple[float, float]:
    return record.metrics["privacy"].value, record.metrics["utility"].value


def _ends(record: TrialRecord, name: str) -> tuple[float, float]:
    value = record.metrics[name]
    return value.lo, value.hi


def interval_lines(record: TrialRecord) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The bars of a point's intervals, from end to end; none where there is no interval."""
    (privacy, utility), found = _at(record), []
    low, high = _ends(record, "privacy")
    if math.isfinite(low) and math.isfinite(high):
        found.append(((low, utility), (high, utility)))
    low, high = _ends(record, "utility")
    if math.isfinite(low) and math.isfinite(high):
        found.append(((privacy, low), (privacy, high)))
    return found


def _usable(value: MetricValue | None) -> bool:
    return value is not None and value.ok and math.isfinite(value.value)


def _hover(record: TrialRecord) -> str:
    name = plain(record.control, 40) if record.control else f"#{record.number}"
    setting = ", ".join(f"{plain(key, 40)}={number(value)}" for key, value in list(record.setting.items())[:16])
    lines = [
        f"{name}  {plain(record.anonymizer, 60)}",
        f"P {with_interval(record.metrics.get('privacy'), 3)}",
        f"U {with_interval(record.metrics.get('utility'), 3)}",
        f"strongest attacker: {worst_attacker(record.attackers) or 'none is valid'}",
        plain(setting, 400),
    ]
    return "\n".join(line for line in lines if line)


def _stairs(front: Sequence[TrialRecord]) -> list[tuple[float, float]]:
    """Corners of the dominated area, without its feet on the axes."""
    points = sorted(_at(record) for record in front)
    corners = [(0.0, points[0][1]), points[0]]
    for left, right in itertools.pairwise(points):
        corners += [(left[0], right[1]), right]
    return [*corners, (points[-1][0], 0.0)]


def _steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line that holds each value until the next."""
    held = list(points[:1])
    for before, after in itertools.pairwise(points):
        held += [(after[0], before[1]), after]
    return held
