"""The front as a picture and as a table: one interactive page, one PNG, CSV files. All of it works offline.

Colours are two of the Okabe-Ito palette on grey; every kind of mark also has its own shape, so that the figures read in grey.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.storage.files import replacing
from raysweep.tracking.charts import interval_lines, zoom_of
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.labels import Box, place_labels
from raysweep.tracking.standing import Standing, standing, trace
from raysweep.tracking.text import csv_cell, number, page, plain, with_interval, worst_attacker

__all__ = [
    "PRIVACY_LABEL",
    "UTILITY_LABEL",
    "attackers_table",
    "front_csv",
    "front_figure",
    "front_html",
    "front_png",
    "hypervolume_figure",
    "trials_csv",
]

PRIVACY_LABEL = "privacy P (1 = hidden from the strongest attacker)"
UTILITY_LABEL = "utility U (1 = expression fully kept)"

FRONT = "#0072B2"
KNEE = "#D55E00"
TRIAL = "#8A949E"
STAIRS = "#8FC1E3"
BARS = "#4A5560"
CONTROL = "#444B52"
AREA = "rgba(0, 114, 178, 0.07)"
GRID = "#E6E9EC"
INK = "#22282E"

SHAPES = {"identity": ("diamond-open", "D"), "blackout": ("square-open", "s"), "untrained": ("triangle-up-open", "^")}
"""Control -> marker of plotly and of matplotlib."""
OTHER_SHAPE = ("pentagon-open", "p")

Point = tuple[float, float]
View = tuple[float, float, float, float]
WHOLE: View = (-0.03, 1.06, -0.03, 1.06)
"""The unit square with a margin."""
NOMINAL = (900, 450)
"""Pixels of the plot for which the interactive figure's labels are placed; on another size they move with their marks."""


def front_figure(records: Sequence[TrialRecord], info: SweepInfo) -> Any:
    """The privacy-utility plane: all trials, the front with intervals, the knee, the controls.

    Args:
        records: trials and controls of one sweep.
        info: of the sweep.

    Returns:
        A `plotly.graph_objects.Figure`.
    """
    import plotly.graph_objects as go

    state = standing(records, info)
    figure = go.Figure()
    others = [record for record in state.ranked if record.key not in state.front_keys]
    if state.front:
        stairs = _stairs(state)
        figure.add_trace(
            go.Scatter(
                x=[0.0, *(x for x, _ in stairs)],
                y=[0.0, *(y for _, y in stairs)],
                mode="none",
                fill="toself",
                fillcolor=AREA,
                hoverinfo="skip",
                showlegend=False,
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in stairs],
                y=[y for _, y in stairs],
                mode="lines",
                line={"color": STAIRS, "width": 2.5},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    if others:
        figure.add_trace(
            _markers(others, info, "trial", {"color": TRIAL, "size": 8, "opacity": 0.55, "symbol": "circle"})
        )
    if state.front:
        mark = {"color": FRONT, "size": 11, "symbol": "circle", "line": {"color": "white", "width": 1}}
        drawn = _markers(state.front, info, "Pareto front", mark)
        drawn.update(
            error_x=_bars(state.front, "privacy"),
            error_y=_bars(state.front, "utility"),
        )
        figure.add_trace(drawn)
        figure.update_layout(annotations=_annotations(state))
    if state.knee is not None:
        ring = {"color": KNEE, "size": 19, "symbol": "star", "line": {"color": "white", "width": 1}}
        figure.add_trace(_markers([state.knee], info, f"knee (#{state.knee.number})", ring))
    for record in state.controls:
        if _placed(record):
            shape = SHAPES.get(record.control, OTHER_SHAPE)[0]
            mark = {"color": CONTROL, "size": 12, "symbol": shape, "line": {"color": CONTROL, "width": 2}}
            figure.add_trace(_markers([record], info, f"control: {page(record.control, 40)}", mark))
    if not state.ranked:
        figure.add_annotation(
            text="no trial can be ranked yet: privacy and utility are needed",
            x=0.5, y=0.5, showarrow=False, font={"color": CONTROL, "size": 14},
        )  # fmt: skip
    _layout(figure, page(_title(info)), "<br>".join(page(line) for line in _subtitle(state, info)))
    figure.update_xaxes(title=PRIVACY_LABEL, range=WHOLE[:2], dtick=0.2)
    figure.update_yaxes(title=UTILITY_LABEL, range=WHOLE[2:], dtick=0.2)
    return figure


def hypervolume_figure(records: Sequence[TrialRecord], info: SweepInfo) -> Any:
    """Hypervolume of the front after each finished trial, as a `plotly.graph_objects.Figure`."""
    import plotly.graph_objects as go

    path = trace(records, info)
    figure = go.Figure(
        go.Scatter(
            x=[point.step for point in path],
            y=[point.hypervolume for point in path],
            mode="lines+markers",
            line={"shape": "hv", "color": FRONT, "width": 2},
            marker={"size": 5, "color": FRONT},
            customdata=[point.front_size for point in path],
            hovertemplate="after %{x} trials: hypervolume %{y:.4f}, %{customdata} on the front<extra></extra>",
        )
    )
    _layout(figure, page(f"{_title(info)}: hypervolume"), "area dominated by the front, reference (0, 0)")
    figure.update_xaxes(title="finished trials")
    figure.update_yaxes(title="hypervolume", range=[0, 1.02])
    return figure


def front_html(records: Sequence[TrialRecord], info: SweepInfo, path: Path) -> Path:
    """Write the interactive figure as one page (4.9 MB) that needs no network."""
    text = front_figure(records, info).to_html(
        include_plotlyjs=True,
        full_html=True,
        default_width="100%",
        default_height="97vh",
        config={"displaylogo": False, "responsive": True, "toImageButtonOptions": {"filename": "front"}},
    )
    return _replace(path, lambda file: file.write(text.encode("utf-8")))


def front_png(records: Sequence[TrialRecord], info: SweepInfo, path: Path) -> Path:
    """Write the same picture as a PNG, 1500 x 1080 pixels; a front in a corner is shown again, larger, where the plane is empty."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not through pyplot: its global state must not be touched from the tracker's thread.
    figure = Figure(figsize=(10, 7.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.14, 0.88, 0.715))
    state = standing(records, info)
    _draw(axes, state, WHOLE)
    axes.set_xlabel(PRIVACY_LABEL, color=INK)
    axes.set_ylabel(UTILITY_LABEL, color=INK)
    view = zoom_of(state, frozenset())
    place = None if view is None else _empty_place(state, view)
    if view is None or place is None:
        _write_labels(axes, state)
    else:
        closer = axes.inset_axes(place)
        _draw(closer, state, view)
        closer.tick_params(labelsize=8)
        axes.indicate_inset_zoom(closer, edgecolor=CONTROL, alpha=0.6)
        _write_labels(closer, state)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(
            *axes.get_legend_handles_labels(), loc="lower center", ncols=6, frameon=False, fontsize=9,
            handletextpad=0.3, columnspacing=1.4,
        )  # fmt: skip
    figure.text(0.09, 0.945, _title(info), fontsize=15, color=INK, weight="bold", parse_math=False)
    text = "\n".join(_subtitle(state, info))
    figure.text(
        0.09, 0.93, text, fontsize=10, color=CONTROL, parse_math=False, verticalalignment="top", linespacing=1.4
    )
    return _replace(path, lambda file: figure.savefig(file, format="png"))


def front_csv(records: Sequence[TrialRecord], info: SweepInfo, path: Path) -> Path:
    """Write the front, most private first, one row per trial with its setting and all its metrics."""
    state = standing(records, info)
    return _table(state.front, state, path)


def trials_csv(records: Sequence[TrialRecord], info: SweepInfo, path: Path) -> Path:
    """Write all trials and controls, failed ones with their reason."""
    state = standing(records, info)
    return _table((*state.trials, *state.controls), state, path)


def attackers_table(records: Sequence[TrialRecord], info: SweepInfo) -> dict[str, Any]:
    """All rows of all attacker tables as `{"columns": [...], "data": [[...], ...]}`, JSON-safe."""
    state = standing(records, info)
    found: dict[str, None] = {}
    for record in (*state.trials, *state.controls):
        for row in record.attackers:
            found.update(dict.fromkeys(plain(key, 80) for key in row))
    columns = ["trial", "setting", *found]
    data = []
    for record in (*state.trials, *state.controls):
        for row in record.attackers:
            cells = {plain(key, 80): _json_cell(value) for key, value in row.items()}
            name = record.control or f"#{record.number}"
            data.append([plain(name, 40), _setting(record), *(cells.get(key) for key in found)])
    return {"columns": columns, "data": data}


# ------------------------------------------------------------------ words
def _title(info: SweepInfo) -> str:
    return f"{plain(info.name, 60)} on {plain(info.dataset, 60)}"


def _subtitle(state: Standing, info: SweepInfo) -> list[str]:
    failed = sum(record.state == "failed" for record in state.trials)
    words = [f"hypervolume {state.hypervolume:.3f}", f"{len(state.front)} of {len(state.trials)} trials on the front"]
    if failed:
        words.append(f"{failed} failed")
    if any(_reach(record.metrics[name]) != (0.0, 0.0) for record in state.front for name in ("privacy", "utility")):
        words.append("bars: 95 % intervals")
    lines = ["; ".join(words)]
    if info.synthetic:
        lines.append("SYNTHETIC faces: drawn, not photographed; the numbers say nothing about real people")
    return lines


def _setting(record: TrialRecord) -> str:
    return plain(", ".join(f"{key}={number(value)}" for key, value in record.setting.items()), 1000)


def _hover(record: TrialRecord) -> str:
    metrics = record.metrics
    name = f"control: {page(record.control, 40)}" if record.control else f"trial #{record.number}"
    lines = [
        f"<b>{name}</b>  {page(record.anonymizer, 60)}",
        f"privacy P  {with_interval(metrics.get('privacy'), 3)}",
        f"utility U  {with_interval(metrics.get('utility'), 3)}",
        f"strongest attacker: {page(worst_attacker(record.attackers) or 'none is valid', 100)}",
    ]
    lines += [f"{page(key, 60)} = {page(number(value, 4), 80)}" for key, value in list(record.setting.items())[:24]]
    if record.fidelity:
        lines.append("at " + page(", ".join(f"{value} {key}" for key, value in record.fidelity.items()), 120))
    return "<br>".join(lines)


# ------------------------------------------------------------------ geometry
def _at(record: TrialRecord) -> Point:
    return record.metrics["privacy"].value, record.metrics["utility"].value


def _placed(record: TrialRecord) -> bool:
    """Both objectives are numbers, so that it can be drawn (a control is never ranked)."""
    values = [record.metrics.get(name) for name in ("privacy", "utility")]
    return all(value is not None and value.ok and math.isfinite(value.value) for value in values)


def _stairs(state: Standing) -> list[Point]:
    """Corners of the dominated area, from the utility axis to the privacy axis."""
    points = sorted(_at(record) for record in state.front)
    corners: list[Point] = [(0.0, points[0][1])]
    for (privacy, utility), following in zip(points, [*points[1:], (0.0, 0.0)], strict=True):
        corners += [(privacy, utility), (privacy, following[1])]
    return corners


def _drawn_lines(state: Standing) -> list[tuple[Point, Point]]:
    """The staircase and all intervals of the front: labels stay off them where they can."""
    stairs = _stairs(state) if state.front else []
    return [*itertools.pairwise(stairs), *(line for record in state.front for line in interval_lines(record))]


def _reach(value: MetricValue) -> Point:
    """Lengths of the bar below and above; nothing where there is no interval."""
    if not (math.isfinite(value.lo) and math.isfinite(value.hi)):
        return 0.0, 0.0
    return max(0.0, value.value - value.lo), max(0.0, value.hi - value.value)


# ------------------------------------------------------------------ plotly
def _markers(records: Sequence[TrialRecord], info: SweepInfo, name: str, marker: dict[str, Any]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=[_at(record)[0] for record in records],
        y=[_at(record)[1] for record in records],
        mode="markers",
        name=name,
        marker=marker,
        hovertext=[_hover(record) for record in records],
        hoverinfo="text",
    )


def _bars(records: Sequence[TrialRecord], name: str) -> dict[str, Any]:
    reach = [_reach(record.metrics[name]) for record in records]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high for _, high in reach],
        "arrayminus": [low for low, _ in reach],
        "color": BARS,
        "thickness": 1,
        "width": 3,
    }


def _annotations(state: Standing) -> list[dict[str, Any]]:
    """Numbers of the front's trials, each at a distance from its mark at which none covers another."""

    def pixels(at: Point) -> Point:
        return (
            NOMINAL[0] * (at[0] - WHOLE[0]) / (WHOLE[1] - WHOLE[0]),
            NOMINAL[1] * (WHOLE[3] - at[1]) / (WHOLE[3] - WHOLE[2]),
        )

    front = sorted(state.front, key=lambda record: record is not state.knee)
    words = [f"#{record.number}" for record in front]
    placed = place_labels(
        [pixels(_at(record)) for record in front],
        [(7.0 * len(word), 13.0) for word in words],
        Box(0, -20, NOMINAL[0], NOMINAL[1]),
        mark=8,
        lines=[(pixels(start), pixels(end)) for start, end in _drawn_lines(state)],
    )
    return [
        {
            "x": _at(record)[0], "y": _at(record)[1], "text": word, "font": {"color": INK, "size": 11},
            "ax": (label.box.left + label.box.right) / 2 - pixels(_at(record))[0],
            "ay": (label.box.top + label.box.bottom) / 2 - pixels(_at(record))[1],
            "showarrow": True, "arrowhead": 0, "arrowwidth": 0.7, "standoff": 7, "borderpad": 0,
            "arrowcolor": TRIAL if label.line else "rgba(0, 0, 0, 0)",
        }
        for record, word, label in zip(front, words, placed, strict=True)
        if label is not None
    ]  # fmt: skip


def _layout(figure: Any, title: str, subtitle: str) -> None:
    figure.update_layout(
        title={
            "text": f"<b>{title}</b>",
            "subtitle": {"text": subtitle, "font": {"size": 13, "color": CONTROL}},
            "x": 0.01,
            "xanchor": "left",
        },
        font={"family": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 70, "r": 30, "t": 115, "b": 70},
        legend={"orientation": "v", "x": 1.01, "y": 1, "xanchor": "left", "yanchor": "top"},
        hoverlabel={"bgcolor": "white", "bordercolor": GRID, "font": {"color": INK, "size": 12}, "align": "left"},
        hovermode="closest",
    )
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(showgrid=True, gridcolor=GRID, zeroline=True, zerolinecolor="#B8BFC6", zerolinewidth=1, ticks="outside")


# ------------------------------------------------------------------ matplotlib
def _draw(axes: Any, state: Standing, view: View) -> None:
    """Trials, front, knee and controls in a part of the plane (P from, to, U from, to)."""
    axes.set_xlim(*view[:2])
    axes.set_ylim(*view[2:])
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    whole = view == WHOLE
    for side in ("top", "right"):
        axes.spines[side].set_visible(not whole)
    for side in axes.spines.values():
        side.set_color("#B8BFC6")
    others = [record for record in state.ranked if record.key not in state.front_keys]
    if state.front:
        stairs = _stairs(state)
        axes.fill([0, *(x for x, _ in stairs)], [0, *(y for _, y in stairs)], color=FRONT, alpha=0.07, linewidth=0)
        axes.plot([x for x, _ in stairs], [y for _, y in stairs], color=STAIRS, linewidth=2.2)
    if others:
        places = [_at(record) for record in others]
        axes.scatter(*zip(*places, strict=True), s=38, color=TRIAL, alpha=0.55, linewidths=0, label="trial")
    if state.front:
        places = [_at(record) for record in state.front]
        spans = {
            name: list(zip(*(_reach(record.metrics[name]) for record in state.front), strict=True))
            for name in ("privacy", "utility")
        }
        axes.errorbar(
            *zip(*places, strict=True),
            xerr=spans["privacy"], yerr=spans["utility"],
            fmt="none", ecolor=BARS, elinewidth=0.9, capsize=2, alpha=0.7,
        )  # fmt: skip
        axes.scatter(*zip(*places, strict=True), s=72, color=FRONT, edgecolors="white", zorder=3, label="Pareto front")
    if state.knee is not None:
        axes.scatter(
            *_at(state.knee), s=260, marker="*", color=KNEE, edgecolors="white", zorder=4,
            label=f"knee (#{state.knee.number})",
        )  # fmt: skip
    named: set[str] = set()
    for record in state.controls:
        if _placed(record):
            name = plain(record.control, 40)
            axes.scatter(
                *_at(record), s=80, marker=SHAPES.get(record.control, OTHER_SHAPE)[1], facecolors="none",
                edgecolors=CONTROL, linewidths=1.6, zorder=3, clip_on=not whole,
                label="_" if name in named else f"control: {name}".replace("$", r"\$"),
            )  # fmt: skip
            named.add(name)
    if not state.ranked:
        axes.text(0.5, 0.5, "no trial can be ranked yet", ha="center", color=CONTROL, fontsize=12)


def _empty_place(state: Standing, view: View) -> tuple[float, float, float, float] | None:
    """Where the closer picture hides nothing (left, bottom, width, height as shares of the axes); None where it would."""
    width, height = 0.5, 0.5
    span = WHOLE[1] - WHOLE[0], WHOLE[3] - WHOLE[2]
    marks = [_at(record) for record in (*state.ranked, *state.controls) if _placed(record)]
    for left, bottom in ((0.12, 0.12), (0.06, 0.12), (0.12, 0.06), (0.2, 0.12), (0.45, 0.46), (0.3, 0.46), (0.45, 0.3)):
        x0, y0 = WHOLE[0] + (left - 0.06) * span[0], WHOLE[2] + (bottom - 0.06) * span[1]
        x1, y1 = WHOLE[0] + (left + width + 0.02) * span[0], WHOLE[2] + (bottom + height + 0.02) * span[1]
        apart = view[0] > x1 or view[1] < x0 or view[2] > y1 or view[3] < y0
        if apart and not any(x0 < x < x1 and y0 < y < y1 for x, y in marks):
            return left, bottom, width, height
    return None


def _write_labels(axes: Any, state: Standing) -> None:
    """Numbers of the front's trials, away from each other and from the marks."""
    canvas = axes.figure
    height = canvas.dpi * canvas.get_figheight()
    letter = 9 * canvas.dpi / 72

    def pixels(at: Point) -> Point:
        x, y = axes.transData.transform(at)
        return float(x), height - float(y)

    def around(record: TrialRecord, radius: float) -> Box:
        x, y = pixels(_at(record))
        return Box(x - radius, y - radius, x + radius, y + radius)

    inside = axes.get_window_extent()
    front = sorted(state.front, key=lambda record: record is not state.knee)
    words = [f"#{record.number}" for record in front]
    placed = place_labels(
        [pixels(_at(record)) for record in front],
        [(0.72 * letter * len(word), 1.05 * letter) for word in words],
        Box(inside.x0, height - inside.y1, inside.x1, height - inside.y0),
        mark=0.62 * letter,
        taken=[around(record, 0.7 * letter) for record in state.controls if _placed(record)],
        lines=[(pixels(start), pixels(end)) for start, end in _drawn_lines(state)],
    )
    for word, label in zip(words, placed, strict=True):
        if label is None:
            continue
        if label.line is not None:
            (x0, y0), (x1, y1) = label.line
            axes.plot(
                [x0, x1], [height - y0, height - y1], color=TRIAL, linewidth=0.7, transform=None, zorder=2.5,
            )  # fmt: skip
        axes.text(
            label.box.left, height - label.box.bottom, word, fontsize=9, color=INK, transform=None,
            verticalalignment="bottom", zorder=5,
        )  # fmt: skip


# ------------------------------------------------------------------ tables
def _table(rows: Sequence[TrialRecord], state: Standing, path: Path) -> Path:
    settings = list(dict.fromkeys(key for record in rows for key in record.setting))
    fidelities = list(dict.fromkeys(key for record in rows for key in record.fidelity))
    objectives = ["privacy", "utility"]
    further = sorted({name for record in rows for name in record.metrics} - set(objectives))
    stages = sorted({name for record in rows for name in record.seconds})
    header = ["number", "key", "anonymizer", "control", "state", "reason", "on_front", "knee"]
    for name in objectives:
        header += [name, f"{name}_lo", f"{name}_hi", f"{name}_status"]
    header += ["worst_attacker"]
    header += [f"setting.{key}" for key in settings] + [f"fidelity.{key}" for key in fidelities]
    for name in further:
        header += [name, f"{name}_lo", f"{name}_hi"]
    header += [f"seconds.{name}" for name in stages]

    def line(record: TrialRecord) -> list[object]:
        knee = state.knee is not None and record.key == state.knee.key
        cells: list[object] = [
            record.number, record.key, record.anonymizer, record.control, record.state, record.reason,
            record.key in state.front_keys, knee,
        ]  # fmt: skip
        for name in objectives:
            value = record.metrics.get(name)
            cells += [*_numbers(value), "" if value is None else value.status]
        cells.append(worst_attacker(record.attackers))
        cells += [record.setting.get(key) for key in settings] + [record.fidelity.get(key) for key in fidelities]
        for name in further:
            cells += _numbers(record.metrics.get(name))
        cells += [record.seconds.get(name) for name in stages]
        return cells

    def write(file: IO[bytes]) -> None:
        import io

        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([csv_cell(name) for name in header])
        writer.writerows([csv_cell(cell) for cell in line(record)] for record in rows)
        text.detach()

    return _replace(path, write)


def _numbers(value: MetricValue | None) -> list[object]:
    return [None, None, None] if value is None or not value.ok else [value.value, value.lo, value.hi]


def _json_cell(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    return plain(value, 500)


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        write(file)
    return path
