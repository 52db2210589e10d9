"""Would more training faces make an attacker stronger? Then the privacy found is too high (arXiv 2507.22534).

A2 is trained on a quarter, on half and on all people of T, A3 on a quarter, on half and on all enrolled images of each person.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from raysweep.attackers import AttackView
from raysweep.metrics.uncertainty import Estimate, Resampling
from raysweep.metrics.value import MetricValue
from raysweep.objective.attacks import Attacks
from raysweep.schema import IntArray

__all__ = ["GAIN", "undertrained", "with_less"]

SHARES = (25, 50)
"""Per cent of the training faces, beside all of them."""
GAIN = 0.02
"""A larger gain of rank-1 from the second half of the training faces, with an interval above 0, means undertrained."""


def with_less(view: AttackView, share: int, what: str) -> AttackView:
    """The view with `share` per cent of the people of T (`train`), or of the enrolled images of each person, at least one (`enrol`).

    Smaller shares are parts of larger ones.
    """
    random = np.random.default_rng([view.seed, 4])
    if what == "train":
        people = random.permutation(np.unique(view.identity[view.train]))
        kept = people[: max(2, math.ceil(len(people) * share / 100))]
        return replace(view, train=view.train[np.isin(view.identity[view.train], kept)], learned={}, company={})
    order = random.permutation(len(view.enrol))
    label = view.enrol_class[order]
    place = np.empty(len(order), dtype=np.int64)
    # How many images of the same person come before this one in the drawn order.
    by_label = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[by_label], np.arange(len(view.classes)))
    place[by_label] = np.arange(len(order)) - starts[label[by_label]]
    count = np.bincount(label, minlength=len(view.classes))[label]
    chosen: IntArray = np.sort(order[place < np.maximum(1, np.ceil(count * share / 100))])
    return replace(view, enrol=view.enrol[chosen], learned={}, company={})


def undertrained(
    attacks: Attacks, views: Mapping[tuple[str, str], AttackView], plan: Resampling
) -> tuple[dict[str, MetricValue], dict[tuple[str, str], dict[str, Any]]]:
    """Learning curves of A2 and A3 on role E.

    Returns:
        `attack/undertrained` (1 when an attacker still gains) and `attack/undertrained_gain` (the largest gain from the second half), and
        per row of the attacker table `rank1_E_25`, `rank1_E_50` and `undertrained`.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    gains: list[tuple[Estimate, bool]] = []
    for attack in attacks.all:
        # A recogniser trained in full took its faces from the worker, not from this view: leaving some out here would change nothing.
        if attack.attacker.id not in ("A2", "A3") or str(getattr(attack.attacker, "extra", "")) != "":
            continue
        what = "train" if attack.attacker.id == "A2" else "enrol"
        whole = attacks.run(attack, "E", views).rank1(plan)
        if math.isnan(whole.value):
            continue
        row: dict[str, Any] = {}
        half = whole
        for share in SHARES:
            less = with_less(views["E", attack.embedder], share, what)
            half = attacks.run(attack, "E", {("E", attack.embedder): less}).rank1(plan)
            row[f"rank1_E_{share}"] = None if math.isnan(half.value) else half.value
        if not math.isnan(half.value):
            gain = Estimate(whole.value - half.value, whole.samples - half.samples, whole.n, whole.n_ids)
            low = gain.interval(plan)[0]
            row["undertrained"] = bool(gain.value > GAIN and (math.isnan(low) or low > 0))
            gains.append((gain, row["undertrained"]))
        rows[attack.key] = row
    if not gains:
        missing = MetricValue.undefined("neither A2 nor A3 could be trained on half of its faces")
        return {"attack/undertrained": missing, "attack/undertrained_gain": missing}, rows
    largest = max((gain for gain, _ in gains), key=lambda gain: gain.value)
    told = MetricValue(
        float(any(flag for _, flag in gains)), n=largest.n, n_ids=largest.n_ids, reason="no interval: yes or no"
    )
    return {"attack/undertrained": told, "attack/undertrained_gain": largest.metric(plan)}, rows
