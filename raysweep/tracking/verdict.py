"""What a sweep found out, in a paragraph and a few figures that a tired person can trust; and what to be careful about."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.tracking.analysis import Analysis
from raysweep.tracking.note import few_people
from raysweep.tracking.standing import setting_words
from raysweep.tracking.text import plain, with_interval, worst_attacker

__all__ = ["Card", "caveats", "key_figures", "verdict"]


SAME = 0.02
"""Privacies that differ by less are called the same."""


class Card(NamedTuple):
    """A figure at the top of the page."""

    name: str
    value: str
    note: str
    title: str = ""


def verdict(found: Analysis) -> str:
    """Plain sentences: what was tried, what the best compromise gives, what a naive evaluation would have said."""
    state, info = found.state, found.run.info
    complete = sum(record.state == "complete" for record in state.trials)
    kind = "drawn" if info.synthetic else "photographed"
    people = info.identities.get("E", 0)
    settings = "No setting" if not complete else "1 setting" if complete == 1 else f"{complete} settings"
    tried = f"{settings} of {plain(info.anonymizer, 120)} {'was' if complete <= 1 else 'were'} scored on {info.faces:,} {kind} faces"
    alone = " who were used for nothing else" if info.identities.get("T") and info.identities.get("S") else ""
    judged = f", privacy on {people} people{alone}." if people else "."
    if state.knee is None:
        return f"{tried}{judged} No trial could be ranked: each needs a privacy and a utility that are numbers."
    knee = state.knee
    privacy, utility = knee.metrics["privacy"], knee.metrics["utility"]
    kept = (
        f"the strongest attacker{_named(knee)} keeps {_share(privacy, turned=True)} of its advantage over guessing, "
        f"and {_share(utility)} of the expression is kept."
    )
    choice = f"#{knee.number} ({setting_words(knee, info, 160)})"
    words = [tried + judged, f"The balanced choice is {choice}: {kept}"]
    if state.hypervolume == 0:
        words[1] = (
            f"None of them does both: where anything of the person is hidden, no expression is left. With {choice} {kept}"
        )
    naive = knee.metrics.get("privacy/naive")
    if naive is not None and naive.ok:
        words.append(_beside_naive(naive.value, privacy.value))
    if found.selected is not None:
        words.append(
            f"Of {int(found.selected.chosen.sum())} settings chosen on other people, {int(found.selected.standing.sum())} hold when measured again."
        )
    return " ".join(words)


def _beside_naive(naive: float, privacy: float) -> str:
    if naive > privacy + SAME:
        return f"An evaluation with a naive attacker alone would have claimed a privacy of {naive:.2f} instead of {privacy:.2f}."
    if naive >= privacy - SAME:
        return f"A naive attacker alone would have come to nearly the same privacy ({naive:.2f})."
    # The strongest is chosen on other people than it is measured on: where these are few, the choice is a matter of luck.
    return (
        f"A naive attacker, not the strongest on the people on whom attackers are chosen, gets further on these: it leaves a privacy of {naive:.2f}. "
        "More people would make the choice surer; until then take the lower number."
    )


def key_figures(found: Analysis) -> list[Card]:
    """The knee's objectives, the naive gap, the hypervolume."""
    knee = found.state.knee
    if knee is None:
        return []
    metrics = knee.metrics
    cards = [
        Card(
            "privacy P",
            f"{metrics['privacy'].value:.2f}",
            f"{_interval(metrics['privacy'])} at the knee, #{knee.number}",
        ),
        Card(
            "utility U",
            f"{metrics['utility'].value:.2f}",
            f"{_interval(metrics['utility'])} at the knee, #{knee.number}",
        ),
    ]
    gap = metrics.get("privacy/gap")
    if gap is not None and gap.ok:
        over = gap.value > -SAME
        shown = gap if over else replace(gap, value=-gap.value, lo=-gap.hi, hi=-gap.lo)
        name = f"naive evaluation {'overstates' if over else 'understates'} P by"
        cards.append(Card(name, f"{shown.value:.2f}", f"{_interval(shown)} at the knee"))
    volume = found.volume
    band = f"[{volume.lo:.3f}, {volume.hi:.3f}]" if math.isfinite(volume.lo) else "no band: draws not kept"
    cards.append(Card("hypervolume", f"{volume.value:.3f}", f"{band}, {len(found.shown)} points shown"))
    return cards


def caveats(found: Analysis) -> list[str]:
    """What limits the numbers, most serious first; empty when nothing does."""
    state, info = found.state, found.run.info
    lines = few_people(state, info)
    failed = [record for record in state.trials if record.state == "failed"]
    if failed:
        lines.append(
            f"{len(failed)} of {len(state.trials)} trials failed, first #{failed[0].number}: {plain(failed[0].reason, 200)}."
        )
    stopped = sum(record.state == "stopped" for record in state.trials)
    if stopped:
        lines.append(f"{stopped} of {len(state.trials)} trials were stopped on a lower rung and are not ranked.")
    unranked = len(state.trials) - len(state.ranked) - len(failed) - stopped
    if unranked:
        lines.append(f"{unranked} complete trials are not ranked, because privacy or utility is not a number.")
    undertrained = [record for record in state.ranked if _true(record.metrics.get("attack/undertrained"))]
    if undertrained:
        lines.append(
            f"In {len(undertrained)} trial{'s' * (len(undertrained) > 1)} an attacker was still learning with all its data: a larger set would lower P."
        )
    weak = [
        plain(name.removeprefix("clear/"), 60)
        for name, value in info.clear.items()
        if name == "clear/rank1" and value.ok and value.value < 0.8
    ]
    if weak:
        lines.append(
            "The best embedder recognises fewer than 80 % of clear faces: stronger embedders may exist, and P is optimistic."
        )
    lost = [key for key in found.run.missing if key != "common"]
    if lost:
        count = "1 trial has" if len(lost) == 1 else f"{len(lost)} trials have"
        lines.append(f"{count} no evidence on disk; the numbers stand as recorded, their curves are left out.")
    return lines


def _named(record: TrialRecord) -> str:
    attacker = worst_attacker(record.attackers)
    return f" ({attacker})" if attacker else ""


def _share(value: MetricValue, turned: bool = False) -> str:
    """`4 % [1, 9]`, of 1 - value when turned."""
    share, lo, hi = (value.value, value.lo, value.hi) if not turned else (1 - value.value, 1 - value.hi, 1 - value.lo)
    text = f"{100 * share:.0f} %"
    return f"{text} [{100 * lo:.0f} to {100 * hi:.0f}]" if math.isfinite(lo) and math.isfinite(hi) else text


def _interval(value: MetricValue) -> str:
    text = with_interval(value)
    return text.partition(" ")[2] or "no interval"


def _true(value: MetricValue | None) -> bool:
    return value is not None and value.ok and value.value > 0
