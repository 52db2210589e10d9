"""The sections of the report, one function each: from an analysis to paragraphs, tables and figures. Nothing here knows HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.schema import EXPRESSIONS
from raysweep.tracking.analysis import Analysis, reasons
from raysweep.tracking.charts import Curve, curves_chart, front_chart, gap_chart, risk_chart, trace_chart, zoom_of
from raysweep.tracking.compared import compared
from raysweep.tracking.parts import (
    Block,
    Cell,
    Code,
    Column,
    Figure,
    Figures,
    Fold,
    Head,
    Legend,
    Row,
    Section,
    Table,
    Tabular,
    Text,
    tabular,
)
from raysweep.tracking.recompute import Difference, shown_pair
from raysweep.tracking.standing import REFEREE, rung_words, searched, setting_words, varying
from raysweep.tracking.text import attacker_name, duration, number, plain, setting_text, with_interval, worst_attacker

__all__ = ["attacker_rows", "attackers_by_setting", "front_rows", "gap_rows", "sections", "trial_rows"]

MAX_CURVES = 8
"""Lines that can still be told apart."""
MAX_GAPS = 30
"""Up to so many trials all of them stand in the chart of the naive attacker."""
MAX_ROWS = 1000
"""Longest table on the page; the CSV files hold all rows."""

Names = Mapping[int, str]


def sections(
    found: Analysis,
    *,
    names: Names | None = None,
    sheet: Sequence[Block] = (),
    checked: Sequence[Difference] | None = None,
) -> list[Section]:
    """All sections that have something to say.

    Args:
        found: the analysis.
        names: names of the people of role E by code; None shows codes.
        sheet: blocks of the contact sheet.
        checked: differences between recorded and recomputed numbers; None when nothing was recomputed.
    """
    made = [
        Section("front", "The front", _front(found)),
        Section("compared", "Settings compared", compared(found)),
        Section("gap", "What a naive evaluation would have claimed", _gap(found)),
        Section("attackers", "Attackers", _attackers(found)),
        Section("curves", "Identification and verification", _curves(found)),
        Section("people", "Risk per person", _people(found, names)),
        Section("expression", "Expression", _expression(found)),
        Section("slices", "Slices", _slices(found)),
        Section("volume", "Hypervolume", _volume(found)),
        Section("faces", "Released faces", list(sheet)),
        Section("trials", "All trials", _trials(found)),
        Section("gaps", "What could not be measured", _undefined(found)),
        Section("basis", "Data and models", _cards(found)),
        Section("repeat", "To repeat it", _repeat(found, checked)),
    ]
    return [section for section in made if section.parts]


# ------------------------------------------------------------------ tables that are also files
def front_rows(found: Analysis) -> Tabular:
    """The front, most private first."""
    state = found.state
    settings = _setting_columns(found.shown)
    columns: list[str | Column] = [
        Column("trial", "key"), Column("P [95 %]", "nowrap"), Column("U [95 %]", "nowrap"), Column("P on S", "n"), Column("U on S", "n"), Column("standing", "mid"),
        Column("surely beaten by", "mid"), Column("strongest attacker", "mid"), *_setting_heads(settings),
    ]  # fmt: skip
    rows = []
    for record in found.shown:
        metrics = record.metrics
        knee = state.knee is not None and record.key == state.knee.key
        beaten = found.beaten.get(record.key, ())
        rows.append(
            Row(
                [
                    Cell(f"#{record.number}{' knee' if knee else ''}"),
                    *(
                        Cell(with_interval(metrics.get(name)), title=_details(metrics.get(name)))
                        for name in ("privacy", "utility")
                    ),
                    *(Cell(_plain_value(metrics.get(f"selection/{name}"))) for name in ("privacy", "utility")),
                    Cell(_standing(found, record)),
                    Cell(", ".join(f"#{item}" for item in beaten[:6]) + ("…" if len(beaten) > 6 else "") or "-"),
                    Cell(worst_attacker(record.attackers) or "-"),
                    *_setting_cells(found, record, settings),
                ],
                "strong" if knee else "",
            )
        )
    return tabular(columns, rows)


def gap_rows(found: Analysis) -> Tabular:
    """Naive and strongest attacker side by side, each trial: rank-1 at the standard gallery, and P."""
    records = [record for record in found.state.trials if record.state == "complete"]
    settings = _setting_columns(records)
    columns: list[str | Column] = [
        Column("trial", "key"), *_setting_heads(settings), Column("rank-1 A0", "n"), Column("rank-1 worst", "nowrap"),
        Column("P by A0", "n"), Column("P [95 %]", "nowrap"), Column("overstated by", "nowrap"), Column("worst", "nowrap"), Column("U", "n"),
    ]  # fmt: skip
    rows = [
        [
            f"#{record.number}",
            *_setting_cells(found, record, settings),
            _plain_value(record.metrics.get("privacy/naive_rank1")),
            with_interval(record.metrics.get("privacy/rank1")),
            _plain_value(record.metrics.get("privacy/naive")),
            with_interval(record.metrics.get("privacy")),
            with_interval(record.metrics.get("privacy/gap")),
            _decider(record),
            _plain_value(record.metrics.get("utility")),
        ]
        for record in records
    ]
    return tabular(columns, rows)


def trial_rows(found: Analysis) -> Tabular:
    """Every trial and control."""
    records = [*found.state.trials, *found.state.controls]
    settings = _setting_columns(found.state.trials)
    columns: list[str | Column] = [
        Column("trial", "key"), Column("P", "nowrap"), Column("U", "nowrap"), Column("strongest attacker", "mid"), *_setting_heads(settings), Column("time", "n"), "",
    ]  # fmt: skip
    rows = []
    for record in records:
        remark = record.reason if record.state == "failed" else _guarantee(record)
        for name in ("privacy", "utility"):
            value = record.metrics.get(name)
            if value is not None and not value.ok:
                remark = "; ".join(filter(None, [remark, f"{name} {value.status}: {value.reason}"]))
        cells = [
            Cell(plain(record.control, 30) if record.control else f"#{record.number}"),
            Cell(
                "failed" if record.state == "failed" else with_interval(record.metrics.get("privacy")),
                title=_details(record.metrics.get("privacy")),
            ),
            Cell(
                "" if record.state == "failed" else with_interval(record.metrics.get("utility")),
                title=_details(record.metrics.get("utility")),
            ),
            Cell(worst_attacker(record.attackers) or "-"),
            *_setting_cells(found, record, settings),
            Cell(duration(float(record.seconds["wall"])) if "wall" in record.seconds else "-"),
            Cell(remark),
        ]
        quiet = record.state == "failed" or bool(record.control)
        rows.append(Row(cells, "quiet" if quiet else "strong" if record.key in found.state.front_keys else ""))
    return tabular(columns, rows)


def attacker_rows(record: TrialRecord) -> Tabular:
    """Every attacker and control of one trial."""
    columns: list[str | Column] = [
        "attacker", "embedder", Column("rank-1 on E [95 %]", "nowrap"), Column("same, clear", "n"), Column("advantage on S", "n"),
        Column("on E", "n"), "",
    ]  # fmt: skip
    rows = []
    for row in record.attackers:
        value, low, high = (_float(row.get(name)) for name in ("rank1_E", "rank1_E_lo", "rank1_E_hi"))
        interval = "-" if math.isnan(value) else with_interval(MetricValue(value, low, high))
        label = f"{row.get('attacker', '?')} {row.get('name', '')}"
        control = row.get("control")
        remark = (
            "strongest: chosen on role " + str(row.get("selected_on") or "?")
            if row.get("selected")
            else str(row.get("reason") or "")
        )
        rows.append(
            Row(
                [
                    Cell(f"{label} ({control} control)" if control else label),
                    Cell(str(row.get("embedder") or "-")),
                    Cell(interval),
                    *(Cell(_digits(row.get(name))) for name in ("clear_E", "advantage_S", "advantage_E")),
                    Cell(remark),
                ],
                "strong" if row.get("selected") else "quiet" if control or row.get("status", "ok") != "ok" else "",
            )
        )
    return tabular(columns, rows)


def attackers_by_setting(found: Analysis) -> Tabular:
    """What each attacker alone would leave of P: settings as rows, attackers as columns, each with its best embedder (chosen on S)."""
    records = [record for record in found.state.trials if record.state == "complete" and record.attackers]
    kinds: dict[str, str] = {}
    for record in records:
        for row in record.attackers:
            if not row.get("control"):
                kinds.setdefault(str(row.get("attacker", "?")), str(row.get("name") or ""))
    ids = sorted(kinds, key=lambda item: (plain(item), item))
    settings = _setting_columns(records)
    columns: list[str | Column] = [
        Column("trial", "key"), *_setting_heads(settings), *(Column(f"{plain(item, 16)} {plain(kinds[item], 60).partition(' (')[0]}".strip(), "n") for item in ids),
        Column("P", "n"), Column("U", "n"),
    ]  # fmt: skip
    rows = []
    for record in records:
        cells = [_alone(record, item) for item in ids]
        rows.append(
            [
                f"#{record.number}",
                *_setting_cells(found, record, settings),
                *cells,
                _plain_value(record.metrics.get("privacy")),
                _plain_value(record.metrics.get("utility")),
            ]
        )
    return tabular(columns, rows)


def _alone(record: TrialRecord, attacker: str) -> Cell:
    rows = [row for row in record.attackers if str(row.get("attacker", "?")) == attacker and not row.get("control")]
    valid = [row for row in rows if row.get("status", "ok") == "ok" and row.get("advantage_E") is not None]
    if not valid:
        said = next((row for row in rows), None)
        word = "-" if said is None else str(said.get("status") or "-")
        return Cell(word, "n", "" if said is None else plain(said.get("reason") or "", 300))
    by = "advantage_S" if all(row.get("advantage_S") is not None for row in valid) else "advantage_E"
    best = max(valid, key=lambda row: float(row[by]))
    left = 1 - float(best["advantage_E"])
    return Cell(f"{left:.2f}", _heat(left), attacker_name(best))


# ------------------------------------------------------------------ sections
def _front(found: Analysis) -> list[Block]:
    state, selected = found.state, found.selected
    caption = (
        "Every point is a trial, attacked by attackers that were trained on its own output; bars are 95 % intervals over people. "
        "The star is the knee. "
    )
    if selected is not None:
        caption += (
            "Filled points were chosen on the people of role S and measured on those of role E; the dotted lines lead from what S promised. "
            "Hollow points reach the front on E only. "
        )
    view = zoom_of(state, found.chosen)
    figures = [Figure(front_chart(state, found.chosen), caption + "Open grey marks are controls.")]
    parts: list[Block] = [Figures(figures)]
    if view is not None:
        parts.append(Figures([Figure(front_chart(state, found.chosen, view), "The same, closer.")]))
    if not found.shown:
        return [
            *parts,
            Text(
                "No trial could be ranked: each needs a privacy and a utility that are numbers. The reasons stand further down."
            ),
        ]
    parts.append(Table(front_rows(found)))
    lines = []
    if selected is not None:
        lines.append(
            f"Chosen on S: {int(selected.chosen.sum())} trials, of which {int(selected.standing.sum())} are not dominated by another one on E. "
            f"Hypervolume: {selected.promised:.3f} promised on S, {_banded(found)} measured on E; choosing on E itself would have claimed {selected.best:.3f}."
        )
    if found.compared >= 2:
        count = sum(record.key in found.beaten for record in found.shown)
        lines.append(
            "Surely beaten: another trial is at least as good in both and better in one in 95 % of joint bootstrap draws of the same people. "
            f"{count or 'None'} of the points shown {'is' if count == 1 else 'are'}, so "
            + (
                "the others cannot be told apart from the best with these people."
                if count
                else "with these people no point of the front can be ruled out."
            )
        )
    else:
        lines.append(
            "Which points are surely dominated is not said: the joint bootstrap draws were not kept with this run."
        )
    return [*parts, *(Text(line, "small") for line in lines)]


def _gap(found: Analysis) -> list[Block]:
    # A front hides the gap of what it dominates: where there is room, all trials are shown.
    ranked = found.state.ranked
    records = list(ranked if len(ranked) <= MAX_GAPS else found.shown)
    records = [record for record in records if (value := record.metrics.get("privacy/naive")) is not None and value.ok][
        :40
    ]
    if not records:
        return []
    names = {record.key: _short_name(record, found) for record in records}
    worst = max(records, key=lambda record: record.metrics["privacy/naive"].value - record.metrics["privacy"].value)
    gap = worst.metrics.get("privacy/gap")
    words = (
        "Hollow: privacy against A0, who knows nothing of the anonymization and compares released faces with clear ones. Filled: against the "
        "strongest attacker. The bar between them is what an evaluation with A0 alone would have overstated"
    )
    return [
        Figures([Figure(gap_chart(records, names), f"{words}; most at #{worst.number}: {with_interval(gap)}.")]),
        Fold("The same as a table, all trials", [Table(gap_rows(found))]),
    ]


def _attackers(found: Analysis) -> list[Block]:
    shown = list(found.shown)
    if not shown:
        shown = [record for record in found.state.trials if record.attackers][:20]
    if not shown:
        return []
    parts: list[Block] = [
        Text(
            "What each attacker alone would leave of the privacy (1 = hidden). P counts only the strongest, chosen on role S; darker is more private. "
            "Undefined and vacuous attackers never count, and never read as privacy.",
            "small",
        ),
        Table(attackers_by_setting(found)),
    ]
    knee = found.state.knee
    for record in shown[:60]:
        title = f"#{record.number}: every attacker and embedder, {setting_words(record, found.run.info, 160)}"
        parts.append(Fold(title, [Table(attacker_rows(record))], open=knee is not None and record.key == knee.key))
    return parts


def _curves(found: Analysis) -> list[Block]:
    records = _thinned(found.shown, found)
    cmc: list[Curve] = []
    roc: list[Curve] = []
    evidence = found.evidence
    keys: list[tuple[str, str]] = []
    clear_pair = None
    for index, record in enumerate(records):
        pair, css = shown_pair(record, evidence), f"c{index % MAX_CURVES}"
        if pair is None:
            continue
        clear_pair = clear_pair or pair
        curve = evidence.curve(record, pair)
        if curve is not None:
            cmc.append(Curve(f"#{record.number}, {pair[0]} on {plain(pair[1], 60)}", css, _ranked(curve)))
        rates = evidence.roc(record, pair[1])
        if rates is not None:
            roc.append(Curve(f"#{record.number} through {plain(pair[1], 60)}", css, _rates(rates)))
        keys.append((css, f"#{record.number}"))
    if clear_pair is not None:
        known = evidence.on_clear("E", ("A0", clear_pair[1]))
        if known is not None:
            cmc.append(Curve("clear faces", "clear", _ranked(known.curve())))
        rates = None if evidence.clear is None else evidence.roc(evidence.clear, clear_pair[1])
        if rates is not None:
            roc.append(Curve("clear faces", "clear", _rates(rates)))
        keys.append(("clear", "clear faces"))
    if not cmc and not roc:
        return [Text("The ranks and pair scores were not kept with this run.", "small")] if found.shown else []
    figures = []
    if cmc:
        figures.append(
            Figure(
                curves_chart(cmc, "cmc"),
                "Identification on role E: how often the strongest attacker has the right person among the first ranks (all enrolled people, ties shared).",
            )
        )
    if roc:
        figures.append(
            Figure(
                curves_chart(roc, "roc"),
                "Verification on role E, two released faces compared by the embedder of that attacker without any training; dotted: guessing.",
            )
        )
    left_out = len(found.shown) - len(records)
    more = f" {left_out} of the front's points are left out for legibility." if left_out else ""
    return [Legend(keys), Figures(figures), *([Text(more.strip(), "small")] if more else [])]


def _people(found: Analysis, names: Names | None) -> list[Block]:
    figures, rows = [], []
    for record in _thinned(found.shown, found, most=4):
        pair = shown_pair(record, found.evidence)
        risk = None if pair is None else found.evidence.risk(record, pair)
        sums = None if pair is None else found.evidence.ranks(record, "E", pair)
        if risk is None or sums is None:
            continue
        values, codes = risk
        people = [
            plain(names[int(code)], 80) if names and int(code) in names else f"person {int(code)}" for code in codes
        ]
        title = f"#{record.number}: chance that the strongest attacker names a person"
        figures.append(
            Figure(
                risk_chart(values, people, 1 / sums.gallery, title),
                f"#{record.number}; dotted: guessing among {sums.gallery}.",
            )
        )
    for record in found.shown:
        names_of = ("risk_median", "risk_worst_tenth", "risk_above_half", "rank1_full", "rank1_micro", "rank1", "fta")
        values_of = [record.metrics.get(f"privacy/{name}") for name in names_of]
        if any(value is not None for value in values_of[:3]):
            rows.append([f"#{record.number}", *(_plain_value(value) for value in values_of)])
    parts: list[Block] = []
    if figures:
        parts.append(Figures(figures))
    if rows:
        parts.append(
            Table(
                tabular(
                    [
                        Column("trial", "key"),
                        Column("median person", "n"),
                        Column("worst tenth", "n"),
                        Column("share above one half", "n"),
                        Column("mean over people", "n"),
                        Column("over photographs", "n"),
                        Column("in a gallery of q", "n"),
                        Column("no face detected", "n"),
                    ],
                    rows,
                    "Rank-1 of the strongest attacker among all enrolled people: per person, and its means; the same in a gallery of q",
                )
            )
        )
        parts.append(Text(_gallery_words(found), "small"))
    if parts and names is None and figures:
        parts.append(
            Text(
                "People are shown by code. Averages hide the person who is recognised every time: look at the left end.",
                "small",
            )
        )
    return parts


def _gallery_words(found: Analysis) -> str:
    """What a rank depends on: how many people are enrolled, with how many photographs each, and q."""
    gallery, probes = (found.run.common.get(f"rank/E/{name}") for name in ("gallery", "class"))
    words = "A face that no detector finds is attacked all the same, where it stood in the clear photograph."
    if gallery is None or probes is None or gallery.shape != (2,) or gallery[0] < 1:
        return words
    faces = (found.run.info.card.get("images") or {}).get("E")
    enrolled = (int(faces) - len(probes)) / int(gallery[0]) if isinstance(faces, int) else math.nan
    each = f" with {enrolled:.1f} photographs each on average" if enrolled > 0 else ""
    return f"{int(gallery[0])} people are enrolled{each}; q is {int(gallery[1])}. {words}"


def _expression(found: Analysis) -> list[Block]:
    parts: list[Block] = []
    knee = found.state.knee
    for record in _thinned(found.shown, found, most=12):
        tables: list[Block] = []
        for model in found.evidence.expression_models(record):
            table = found.evidence.confusion(record, model)
            if table is None or not table.sum():
                continue
            rows = []
            for label, counts in zip(EXPRESSIONS, table, strict=True):
                total = int(counts.sum())
                cells = [
                    Cell(
                        str(int(count)) if count else "·",
                        _heat(int(count) / total if total else 0.0),
                        f"{int(count)} of {total}",
                    )
                    for count in counts
                ]
                rows.append([label, *cells, str(total)])
            columns: list[str | Column] = [
                "clear",
                *(Column(name, "n") for name in (*EXPRESSIONS, "none")),
                Column("faces", "n"),
            ]
            tables.append(
                Table(
                    tabular(
                        columns,
                        rows,
                        f"#{record.number}, {plain(model, 80)}: as read on the clear face (rows) and on the released one",
                    )
                )
            )
        if tables:
            utility = with_interval(record.metrics.get("utility"))
            parts.append(
                Fold(f"#{record.number}: U {utility}", tables, open=knee is not None and record.key == knee.key)
            )
    if parts:
        parts.insert(
            0,
            Text(
                "The same model reads both sides. What lies on the diagonal is kept; U removes what guessing would keep.",
                "small",
            ),
        )
    return parts


def _slices(found: Analysis) -> list[Block]:
    records = list(found.shown)
    groups = sorted(
        {
            tuple(parts)
            for record in records
            for name in record.metrics
            if len(parts := name.split("/")) == 4 and parts[0] == "slice"
        }
    )
    if not groups:
        return []
    kinds = sorted({(attribute, value) for _, attribute, value, _ in groups})
    suffixes = sorted({suffix for *_, suffix in groups})
    columns: list[str | Column] = [
        Column("trial", "key"),
        "attribute",
        "value",
        *(Column(suffix.replace("_", " "), "nowrap") for suffix in suffixes),
        Column("people", "n"),
    ]
    rows = []
    for record in records[:40]:
        for attribute, value in kinds:
            values = {suffix: record.metrics.get(f"slice/{attribute}/{value}/{suffix}") for suffix in suffixes}
            if any(item is not None and item.ok for item in values.values()):
                people = max((item.n_ids for item in values.values() if item is not None), default=0)
                rows.append(
                    [
                        f"#{record.number}",
                        attribute,
                        value,
                        *(Cell(with_interval(values[suffix]), title=_details(values[suffix])) for suffix in suffixes),
                        str(people),
                    ]
                )
    return [
        Text(
            "Privacy and utility of groups of people; a group needs ten people of role E."
            + (
                ""
                if rows
                else f" None of the {len(kinds)} groups has them: {', '.join(f'{plain(attribute, 40)} {plain(value, 40)}' for attribute, value in kinds[:12])}."
            ),
            "small",
        ),
        *([Table(tabular(columns, rows[:MAX_ROWS]))] if rows else []),
    ]


def _volume(found: Analysis) -> list[Block]:
    if not found.path:
        return []
    rule = "chosen on role S" if found.selected is not None else "chosen on role E (no trial has values on S)"
    caption = f"Hypervolume on role E of the front {rule} after each finished trial; reference (0, 0)."
    if math.isfinite(found.volume.lo):
        caption += " The band is 95 % over joint bootstrap draws of the people."
    return [
        Figures(
            [
                Figure(trace_chart(found.path, by_cost=False), caption),
                Figure(
                    trace_chart(found.path, by_cost=True), "The same by the work that was spent, trainings included."
                ),
            ]
        )
    ]


def _trials(found: Analysis) -> list[Block]:
    table = trial_rows(found)
    shown = Tabular(table.columns, table.rows[:MAX_ROWS], table.caption)
    cut = len(table.rows) - len(shown.rows)
    return [
        Fold(f"{len(found.state.trials)} trials and {len(found.state.controls)} controls; those on the front in bold", [
            Table(shown),
            *([Text(f"{cut} more rows are in the CSV file (--csv).", "small")] if cut else []),
        ], open=len(table.rows) <= 30),
        *(Text(line, "small") for line in rung_words(found.state.trials)),
    ]  # fmt: skip


def _undefined(found: Analysis) -> list[Block]:
    parts: list[Block] = []
    rows = reasons(found.run)
    if rows:
        kinds = {kind: sum(row[3] for row in rows if row[0] == kind) for kind in ("failed", "vacuous", "undefined")}
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        parts.append(Text(f"Counted over trials and controls: {words}. None of these reads as a 0 anywhere.", "small"))
        columns: list[str | Column] = ["state", "of", "reason", Column("records", "n")]
        parts.append(Fold("Reasons", [Table(tabular(columns, rows[:MAX_ROWS]))], open=len(rows) <= 15))
    if found.run.info.quarantined:
        total = sum(found.run.info.quarantined.values())
        parts.append(Text(f"{total:,} images were set aside before anything was measured:", "small"))
        parts.append(
            Table(
                tabular(
                    ["reason", Column("images", "n")],
                    [(reason, f"{count:,}") for reason, count in found.run.info.quarantined.items()],
                )
            )
        )
    if found.run.missing:
        counts: dict[str, int] = {}
        for reason in found.run.missing.values():
            counts[plain(reason, 200)] = counts.get(plain(reason, 200), 0) + 1
        parts.append(Text("Evidence that is not there (numbers stand as recorded, curves are left out):", "small"))
        common = sorted(counts, key=lambda reason: -counts[reason])
        files = [(reason, counts[reason]) for reason in common[:20]]
        parts.append(Table(tabular(["why", Column("files", "n")], files)))
    return parts


def _cards(found: Analysis) -> list[Block]:
    info = found.run.info
    card = info.card
    rows: list[tuple[str, str]] = [
        ("name", info.dataset),
        (
            "kind",
            f"{card.get('kind', 'not recorded')}; {'drawn, not photographed' if info.synthetic else 'photographs'}",
        ),
        ("terms", str(card.get("licence") or "not recorded")),
        ("faces used", f"{info.faces:,}"),
    ]
    meaning = {
        "G": "background",
        "T": "attackers learn from them",
        "S": "choose attackers and the front",
        "E": "reported numbers only",
    }
    images: Mapping[str, Any] = card.get("images") or {}
    for role, people in info.identities.items():
        count = f", {int(images[role]):,} faces" if role in images else ""
        rows.append((f"role {role}", f"{people:,} people{count}: {meaning.get(role, '')}"))
    shown: Mapping[str, Any] = card.get("expressions") or {}
    if shown:
        rows.append(("expressions", ", ".join(f"{name} {int(count):,}" for name, count in shown.items())))
    for name in ("frame", "digest"):
        if card.get(name):
            rows.append((name, str(card[name])))
    notes = [str(note) for note in card.get("notes") or ()]
    if notes:
        rows.append(("notes", "; ".join(notes)))
    parts: list[Block] = [
        Head("Data card"),
        Table(tabular(["", ""], [(Cell(name, "key"), value) for name, value in rows])),
    ]
    clear = [
        [
            plain(name, 80).removeprefix("clear/"),
            Cell(with_interval(value), "nowrap", _details(value)),
            str(value.n or "-"),
            str(value.n_ids or "-"),
        ]
        for name, value in info.clear.items()
    ]
    if clear:
        parts += [
            Head("What the judges reach on clear faces"),
            Table(tabular(["measure", "value [95 %]", Column("images", "n"), Column("people", "n")], clear)),
        ]
    if info.models:
        models = [
            (
                model.name,
                model.role or "model",
                model.licence or "not known",
                ", ".join(model.lineage) or "-",
                Cell(model.sha256[:16] or "not known", title=model.sha256),
                model.reference or "-",
            )
            for model in info.models
        ]
        parts += [
            Head("Model cards"),
            Table(tabular(["name", "task", "licence", "made from", "sha256", "source"], models)),
        ]
    return parts


def _repeat(found: Analysis, checked: Sequence[Difference] | None) -> list[Block]:
    run, info = found.run, found.run.info
    parts: list[Block] = []
    if info.command:
        parts += [Text("The same command resumes or repeats this sweep:"), Code(plain(info.command, 2000))]
    protocol: Mapping[str, Any] = run.basis.get("protocol") or {}
    gallery = run.common.get("rank/E/gallery")
    rows: list[tuple[str, str]] = [
        ("sweep", f"{info.name}, key {info.key}"),
        ("seed", f"{info.seed} (roles, sampler, training, bootstrap)"),
        ("sampler", info.sampler or "-"),
        (
            "attackers",
            ", ".join(str(name) for name in protocol.get("attackers") or run.run.get("attackers") or ())
            or "not recorded",
        ),
        (
            "gallery size q",
            str(int(gallery[1]))
            if gallery is not None and gallery.shape == (2,)
            else str(protocol.get("gallery_size") or "20, or as many as there are"),
        ),
        ("bootstrap draws", str(protocol.get("bootstrap", "not recorded"))),
    ]
    rows += [(f"digest of {name}", str(run.basis[name])) for name in ("code", "references") if run.basis.get(name)]
    for name in ("anonymizers", "generators"):
        rows += [(f"digest of {name[:-1]} {key}", str(value)) for key, value in (run.basis.get(name) or {}).items()]
    known = {"protocol", "code", "references", "anonymizers", "generators", "seed"}
    rows += [
        (f"basis: {key}", str(value)) for key, value in run.basis.items() if key not in known and value is not None
    ]
    rows += [(f"version of {name}", str(version)) for name, version in info.versions.items()]
    parts.append(Table(tabular(["", ""], [(Cell(name, "key"), value) for name, value in rows])))
    space = setting_lines(info.space)
    if space:
        parts.append(Fold("The search space", [Table(tabular(["anonymizer", "parameter", "values"], space))]))
    if checked is not None:
        parts.append(Head("Computed again from the evidence"))
        if checked:
            parts.append(
                Text(f"{len(checked)} recorded numbers differ by more than 1e-6 from what their evidence gives:", "bad")
            )
            parts.append(
                Table(
                    tabular(
                        [Column("trial", "key"), "number", Column("recorded", "n"), Column("recomputed", "n")],
                        [
                            (item.trial, item.name, _digits(item.recorded, 8), _digits(item.recomputed, 8))
                            for item in checked[:MAX_ROWS]
                        ],
                    )
                )
            )
        else:
            parts.append(
                Text(
                    "Privacy, utility, their intervals and the ranking were computed again from ranks and decisions; no recorded number differs by more than 1e-6."
                )
            )
    total = sum(found.spent_s.values())
    if total:
        spent = ", ".join(
            f"{stage} {duration(seconds)}"
            for stage, seconds in sorted(found.spent_s.items(), key=lambda item: -item[1])
        )
        parts.append(
            Text(
                f"Work of all workers together: {duration(total)} ({spent}). The referee ({REFEREE}) took {found.referee_share:.1%} of it.",
                "small",
            )
        )
    return parts


def setting_lines(space: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The canonical form of a space as rows."""
    rows = []
    for arm in space.get("arms") or ():
        name = plain(arm.get("anonymizer", "?"), 80)
        for key, value in (arm.get("fixed") or {}).items():
            rows.append((name, plain(key, 80), f"{number(value)} (fixed)"))
        for key, item in (arm.get("ranges") or {}).items():
            if isinstance(item, Mapping):
                words = (
                    " | ".join(str(choice) for choice in item["choices"])
                    if item.get("choices")
                    else (
                        f"{number(item.get('low'))} to {number(item.get('high'))}{' (logarithmic)' if item.get('log') else ''}"
                        if "low" in item
                        else "true | false"
                    )
                )
                rows.append((name, plain(key, 80), plain(words, 300)))
        for setting in arm.get("settings") or ():
            rows.append((name, "setting", setting_text(setting, 300)))
    return rows


# ------------------------------------------------------------------ helpers
def _setting_columns(records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """Parameters that get a column each: those that vary, when they are few and the same in all trials; else none."""
    names = varying(records)
    same = len({record.anonymizer for record in records}) <= 1
    return names if same and 0 < len(names) <= 4 else ()


def _setting_heads(names: Sequence[str]) -> list[Column]:
    return [Column(plain(name, 40).replace("_", " "), "n") for name in names] or [Column("setting", "set")]


def _setting_cells(found: Analysis, record: TrialRecord, names: Sequence[str]) -> list[Cell]:
    if names:
        return [Cell(number(record.setting[name]) if name in record.setting else "-") for name in names]
    return [Cell(setting_words(record, found.run.info, 300) or "-")]


def _short_name(record: TrialRecord, found: Analysis) -> str:
    """`#3 pixelate 16`: the values alone where the parameters are the same everywhere, beside a bar."""
    words = setting_words(record, found.run.info)
    if "," not in found.run.info.anonymizer:
        words = ", ".join(number(value) for value in searched(record, found.run.info).values()) or words
    return plain(f"#{record.number} {words}", 38)


def _decider(record: TrialRecord) -> str:
    """Id of the strongest attacker."""
    return next((plain(row.get("attacker", "?"), 40) for row in record.attackers if row.get("selected")), "-")


def _standing(found: Analysis, record: TrialRecord) -> str:
    on_e = record.key in found.state.front_keys
    if found.selected is None:
        return "on the front"
    if record.key not in found.chosen:
        return "front on E only"
    if record.key not in found.holding:
        return "chosen, then dominated"
    return "chosen, holds" if on_e else "chosen; a better one was missed"


def _guarantee(record: TrialRecord) -> str:
    return (
        f"guarantee {record.notes['guarantee']}: {record.notes.get('reason', '')}"
        if "guarantee" in record.notes
        else ""
    )


def _plain_value(value: MetricValue | None) -> str:
    return "-" if value is None else f"{value.value:.2f}" if value.ok and math.isfinite(value.value) else value.status


def _details(value: MetricValue | None) -> str:
    if value is None:
        return ""
    words = [
        f"{value.n:,} images or pairs" if value.n else "",
        f"{value.n_ids:,} people" if value.n_ids else "",
        plain(value.reason, 300),
    ]
    return "; ".join(word for word in words if word)


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _digits(value: object, digits: int = 2) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-" if value is None else plain(value, 40)
    return f"{value:.{digits}f}" if math.isfinite(value) else "undefined"


def _heat(share: float) -> str:
    return f"h{min(10, max(0, round(10 * share)))}" if math.isfinite(share) else ""


def _banded(found: Analysis) -> str:
    volume = found.volume
    return (
        f"{volume.value:.3f} [{volume.lo:.3f}, {volume.hi:.3f}]" if math.isfinite(volume.lo) else f"{volume.value:.3f}"
    )


def _thinned(records: Sequence[TrialRecord], found: Analysis, most: int = MAX_CURVES) -> list[TrialRecord]:
    """At most so many, evenly over the front, both ends and the knee among them."""
    if len(records) <= most:
        return list(records)
    wanted = {round(index * (len(records) - 1) / (most - 1)) for index in range(most)}
    knee = next(
        (
            index
            for index, record in enumerate(records)
            if found.state.knee is not None and record.key == found.state.knee.key
        ),
        None,
    )
    if knee is not None and knee not in wanted:
        inner = wanted - {0, len(records) - 1}
        wanted = (wanted - {min(inner, key=lambda index: abs(index - knee))} if inner else wanted) | {knee}
    return [records[index] for index in sorted(wanted)]


def _ranked(curve: np.typing.NDArray[np.float64]) -> list[tuple[float, float]]:
    return [(float(rank), float(value)) for rank, value in enumerate(curve, start=1)]


def _rates(rates: tuple[np.typing.NDArray[np.float64], np.typing.NDArray[np.float64]]) -> list[tuple[float, float]]:
    """(FMR, true match rate) from 1e-3 on. Between its points a curve is straight in FMR, which a logarithmic axis would not draw."""
    fmr, found = np.asarray(rates[0], np.float64), 1 - np.asarray(rates[1], np.float64)
    grid = np.union1d(np.geomspace(1e-3, 1.0, 91), fmr[fmr >= 1e-3])
    return list(zip(grid.tolist(), np.interp(grid, fmr, found).tolist(), strict=True))
