"""The same numbers for each group of people: who is protected less, and who keeps less of the expression?

A slice is the people of role E whose photographs mostly carry the same word of an attribute. They are attacked in the gallery of all,
and resampled out of the same draws as all, so that the gap is a paired difference. Source: Fogliato et al., arXiv 2306.01198.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from raysweep.metrics.expression import ExpressionSums
from raysweep.metrics.identification import IdentificationSums, advantage
from raysweep.metrics.uncertainty import Estimate, clusters, mean_of
from raysweep.metrics.value import MetricValue
from raysweep.objective.ground import Ground
from raysweep.objective.leaks import metric_word
from raysweep.schema import IntArray

__all__ = ["group_members", "slices"]

Mask = npt.NDArray[np.bool_]


def group_members(ground: Ground, role: str = "E") -> dict[str, dict[str, IntArray]]:
    """attribute -> word -> clusters (identities, or -1 - row for a face without) of a role whose photographs mostly carry that word.

    Of equally frequent words the first in the alphabet counts; photographs without a word do not vote.
    """
    rows = ground.rows(role)
    people = clusters(ground.table.identity[rows], rows)
    found: dict[str, dict[str, IntArray]] = {}
    for name, column in ground.table.attributes.items():
        words = np.unique(column[rows][column[rows] != ""])
        if not len(words):
            continue
        keys, person = np.unique(people, return_inverse=True)
        votes = np.zeros((len(keys), len(words)))
        voting = column[rows] != ""
        np.add.at(votes, (person[voting], np.searchsorted(words, column[rows][voting])), 1)
        mostly = np.where(votes.any(axis=1), votes.argmax(axis=1), -1)
        found[name] = {str(word): keys[mostly == number] for number, word in enumerate(words)}
    return found


def slices(
    ground: Ground,
    members: Mapping[str, Mapping[str, IntArray]],
    worst: tuple[IdentificationSums, IdentificationSums] | None,
    expression: Mapping[str, ExpressionSums],
) -> dict[str, MetricValue]:
    """`slice/<attribute>/<word>/privacy`, `.../privacy_gap`, `.../clear_rank1` and `.../utility` of role E.

    Args:
        ground: labels and intervals.
        members: of `group_members`.
        worst: hits of the deciding attacker on anonymized and on clear faces, None when there is none.
        expression: counts per model.

    Returns:
        The gap is how much larger the attacker's advantage is in the slice than over all people: above 0 means protected less.
        A slice of fewer people than an interval needs is undefined.
    """
    classes = next((view.classes for (role, _), view in ground.views.items() if role == "E"), np.empty(0, np.int64))
    found: dict[str, MetricValue] = {}
    for attribute, groups in members.items():
        for word, people in groups.items():
            prefix = f"slice/{metric_word(attribute)}/{metric_word(word)}"
            if len(people) < ground.plan.minimum:
                why = f"{len(people)} identities; a slice needs {ground.plan.minimum}"
                found |= {f"{prefix}/{name}": MetricValue.undefined(why) for name in ("privacy", "utility")}
                continue
            found |= _privacy(ground, prefix, people, classes, worst)
            parts = {}
            for model, sums in expression.items():
                member = np.isin(sums.sums.keys, people)
                parts[model] = sums.utility_of(member, ground.plan, ground.protocol.minimum_support)
            found[f"{prefix}/utility"] = mean_of(parts).metric(ground.plan)
    return found


def _privacy(
    ground: Ground,
    prefix: str,
    people: IntArray,
    classes: IntArray,
    worst: tuple[IdentificationSums, IdentificationSums] | None,
) -> dict[str, MetricValue]:
    if worst is None:
        return {f"{prefix}/privacy": MetricValue.undefined("no attacker decides")}
    attacked, clear = worst
    member: Mask = np.isin(classes[attacked.sums.keys], people)
    plan, chance = ground.plan, 1 / attacked.gallery
    control = clear.standard(plan, member)
    part = advantage(attacked.standard(plan, member), control, chance)
    if np.isnan(part.value):
        undefined = MetricValue.undefined(part.reason, part.n, part.n_ids)
        return {f"{prefix}/privacy": undefined, f"{prefix}/clear_rank1": control.metric(plan)}
    whole = advantage(attacked.standard(plan), clear.standard(plan), chance)
    gap = Estimate(part.value - whole.value, part.samples - whole.samples, part.n, part.n_ids, part.reason)
    change = part.transform
    privacy = Estimate(
        1 - part.value,
        1 - part.samples,
        part.n,
        part.n_ids,
        part.reason,
        all_or_none=part.all_or_none,
        transform=None if change is None else lambda share: 1 - change(share),
    )
    return {
        f"{prefix}/privacy": privacy.metric(plan),
        f"{prefix}/privacy_gap": gap.metric(plan),
        f"{prefix}/clear_rank1": control.metric(plan),
    }
