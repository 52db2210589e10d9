"""The first page a person sees in MLflow: the front as a table, what it says in plain words, what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.tracking.info import SweepInfo
from raysweep.tracking.standing import Standing, rung_words, setting_words, standing
from raysweep.tracking.text import duration, markdown, plain, setting_text, with_interval, worst_attacker

__all__ = ["FEWEST_PEOPLE", "FEW_PEOPLE", "few_people", "reading", "sweep_note", "trial_note"]

MAX_ROWS = 40
FEWEST_PEOPLE = 10
"""Below this number of evaluated people no interval is stated."""
FEW_PEOPLE = 20
"""Below this one intervals are wide and the front is coarse."""


def sweep_note(records: Sequence[TrialRecord], info: SweepInfo, limit: int = 7500) -> str:
    """Markdown for the parent run, at most `limit` characters (the front table is shortened first)."""
    state = standing(records, info)
    rows = MAX_ROWS
    while True:
        text = _sweep_note(state, info, rows)
        if len(text) <= limit or rows == 0:
            return text[:limit]
        rows -= 1 if rows <= 10 else 5


def reading(state: Standing, info: SweepInfo) -> list[str]:
    """What the front says, in plain sentences without markup."""
    if not state.front or state.knee is None:
        return [
            "No trial could be ranked: each needs a privacy and a utility that are numbers. The trials say why not."
        ]
    knee, private, expressive = state.knee, state.front[0], state.front[-1]
    lines = [
        f"{len(state.front)} of {len(state.trials)} trials {'is' if len(state.front) == 1 else 'are'} on the front; it covers {state.hypervolume:.3f} of the unit square.",
        f"The balanced choice (knee) is trial #{knee.number} ({setting_words(knee, info)}): {_sentence(knee)}."
        if state.hypervolume > 0
        else "No trial does both: where anything of the person is hidden (P above 0), nothing of the expression is left (U 0). There is no balanced choice.",
    ]
    told = knee if state.hypervolume > 0 else None
    if private is not told:
        lines.append(f"Most private is trial #{private.number}: {_sentence(private)}.")
    if expressive is not told and expressive is not private:
        lines.append(f"Most expressive is trial #{expressive.number}: {_sentence(expressive)}.")
    return [*lines, *few_people(state, info), *rung_words(state.trials)]


def few_people(state: Standing, info: SweepInfo) -> list[str]:
    """What a small number of people does to the numbers; empty when there are enough."""
    lines = []
    people = info.identities.get("E", 0)
    if 0 < people < FEWEST_PEOPLE:
        lines.append(
            f"Only {people} people were evaluated: no interval is stated (that takes {FEWEST_PEOPLE}, or 15 people in all), and nothing can be said "
            "about rare cases."
        )
    elif 0 < people < FEW_PEOPLE:
        lines.append(
            f"{people} people were evaluated: intervals are wide; about {FEW_PEOPLE} are needed for a front that can be acted on."
        )
    on_e = [record for record in state.ranked if any(row.get("selected_on") == "E" for row in record.attackers)]
    if on_e:
        lines.append(
            f"In {len(on_e)} of {len(state.ranked)} trials the strongest attacker was chosen on the very people it is reported on "
            "(too few people of role S): P is somewhat pessimistic there."
        )
    return lines


def trial_note(record: TrialRecord, limit: int = 7500) -> str:
    """Markdown for a child run: the result, or why there is none, and the attacker table."""
    if record.state == "failed":
        return f"**failed**: {markdown(record.reason, 2000)}"
    lines = [
        f"P {with_interval(record.metrics.get('privacy'), 3)}, U {with_interval(record.metrics.get('utility'), 3)}, "
        f"strongest attacker: {markdown(worst_attacker(record.attackers) or 'none is valid')}",
        "",
        markdown(setting_text(record.setting, 1000), 1000),
    ]
    for name, value in record.metrics.items():
        if name in ("privacy", "utility") and not value.ok:
            lines.append(f"\n{name} is {value.status}: {markdown(value.reason, 500)}")
    if record.attackers:
        columns = list(dict.fromkeys(key for row in record.attackers for key in row))
        lines += ["", *_table(columns, ([_cell(row.get(key)) for key in columns] for row in record.attackers))]
    return "\n".join(lines)[:limit]


def _sweep_note(state: Standing, info: SweepInfo, rows: int) -> str:
    # MLflow folds the note after some 90 pixels: the answer must stand in the first lines.
    lines = (
        ["**Synthetic faces: drawn, not photographed; the numbers say nothing about real people.**  "]
        if info.synthetic
        else []
    )
    lines += [*(f"{markdown(line, 600)}  " for line in reading(state, info)), ""]
    if state.front:
        lines += ["### Pareto front, most private first", ""]
        shown = state.front[:rows]
        lines += _table(
            ["trial", "privacy P", "utility U", "strongest attacker", "setting", ""],
            (
                [
                    f"#{record.number}",
                    *_scores(record, setting_words(record, info, 240)),
                    "**knee**" if record is state.knee else "",
                ]
                for record in shown
            ),
        )
        if len(shown) < len(state.front):
            lines.append(f"\n{len(state.front) - len(shown)} more are in `front.csv`.")
        lines.append("")
    if info.clear:
        lines += ["### What the judges reach on clear faces", ""]
        lines += _table(
            ["measure", "value", "images", "people"],
            (
                [markdown(name), _value(value), _count(value.n), _count(value.n_ids)]
                for name, value in info.clear.items()
            ),
        )
        lines.append("")
    if state.controls:
        lines += ["### Controls", ""]
        lines += _table(
            ["control", "privacy P", "utility U", "strongest attacker", "setting"],
            (
                [markdown(record.control), *_scores(record, setting_words(record, info) or "-")]
                for record in state.controls
            ),
        )
        lines.append("")
    lines += ["### What it rests on", "", *_basis(state, info), ""]
    lines += [
        "Privacy P is 1 minus the share of its advantage over guessing that the strongest attacker keeps, compared with clear faces. "
        f"Utility U is the share of expressions that a classifier still reads the same, 0 at guessing. {_measured_on(info)} "
        "Brackets are 95 % intervals.",
        "",
        "The whole report, the interactive figure, picture, tables and the full configuration: tab **Artifacts** "
        "(`report.html`, `front.html`, `front.png`, `front.csv`, `trials.csv`, `attackers.json`, `config.yaml`).",
    ]
    return "\n".join(lines)


def _measured_on(info: SweepInfo) -> str:
    if info.identities.get("T") and info.identities.get("S"):
        return "Both are measured on people who were used for nothing else."
    return "There are too few people to keep apart those from whom attackers learn, on whom they are chosen, and on whom both are measured."


def _basis(state: Standing, info: SweepInfo) -> list[str]:
    roles = ", ".join(f"{markdown(role, 20)} {count}" for role, count in info.identities.items())
    failed = sum(record.state == "failed" for record in state.trials)
    wall = sum(float(record.seconds.get("wall", 0.0)) for record in (*state.trials, *state.controls))
    lines = [f"- faces: {info.faces:,}" + (f"; people per role: {roles}" if roles else "")]
    if info.quarantined:
        reasons = ", ".join(f"{markdown(reason, 80)}: {count}" for reason, count in info.quarantined.items())
        lines.append(f"- set aside: {sum(info.quarantined.values()):,} images ({reasons})")
    lines.append(
        f"- trials: {len(state.trials)} finished" + (f", {failed} of them failed" if failed else "")
        + f", {info.trials} planned; together {duration(wall)}; sampler {markdown(info.sampler, 60) or '-'}, seed {info.seed}"
    )  # fmt: skip
    for model in info.models:
        digest = f", sha256 {markdown(model.sha256[:12], 12)}" if model.sha256 else ""
        lines.append(
            f"- {markdown(model.role, 40) or 'model'}: {markdown(model.name, 80)}, licence {markdown(model.licence, 80) or 'not known'}{digest}"
        )
    if info.command:
        lines += ["", "Repeat or resume:", "", f"    {plain(info.command, 1000)}"]
    return lines


def _sentence(record: TrialRecord) -> str:
    privacy, utility = record.metrics["privacy"], record.metrics["utility"]
    attacker = worst_attacker(record.attackers)
    return (
        f"the strongest attacker{f' ({attacker})' if attacker else ''} keeps {max(0.0, 1 - privacy.value):.0%} of its advantage over "
        f"guessing (P {with_interval(privacy)}), and {utility.value:.0%} of the expression is kept (U {with_interval(utility)})"
    )


def _scores(record: TrialRecord, setting: str) -> list[str]:
    return [
        _value(record.metrics.get("privacy")),
        _value(record.metrics.get("utility")),
        markdown(worst_attacker(record.attackers) or "-"),
        markdown(setting, 300),
    ]


def _value(value: MetricValue | None) -> str:
    text = with_interval(value)
    return text if value is None or value.ok else f"{text}: {markdown(value.reason, 160)}"


def _count(count: int) -> str:
    return f"{count:,}" if count else "-"


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else markdown("-" if value is None else value, 120)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(markdown(name, 60) for name in header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
