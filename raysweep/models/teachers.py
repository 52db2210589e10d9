"""Differentiable networks for loss terms, and the rule that none of them ever judges the trial it taught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raysweep.anonymizers.base import Teachers
from raysweep.errors import ModelError

if TYPE_CHECKING:
    import torch

    from raysweep.models.base import Embedder, ExpressionModel
    from raysweep.models.zoo import Found, Zoo
    from raysweep.schema import Frame

__all__ = ["check_lineage", "judges", "teacher_entries", "teachers"]


def teacher_entries(zoo: Zoo) -> tuple[Found | None, Found | None]:
    """The weights that would teach identity and expression: torch networks, those kept for teaching before those that may judge too."""

    def first(task: str) -> Found | None:
        usable = [item for item in zoo.of(task) if item.entry.differentiable and item.entry.role != "judge"]  # type: ignore[arg-type]
        return min(usable, key=lambda item: item.entry.role != "teacher", default=None)

    return first("embedder"), first("expression")


def teachers(
    zoo: Zoo, device: str | torch.device, frame: Frame, identity: bool = True, expression: bool = True
) -> Teachers:
    """Load the networks that guide training.

    Args:
        zoo: restricted with `for_data`.
        device: where the trial computes.
        frame: geometry of the crops that will be passed.
        identity, expression: leave one out that no loss term needs, so that it stays free to judge.

    Returns:
        Callables that are None where no torch network is at hand, and the lineage that the judges must avoid.
    """
    from raysweep.models.embedders import TorchEmbedder
    from raysweep.models.expression import TorchExpression

    who, how = teacher_entries(zoo)
    lineage: frozenset[str] = frozenset()
    embed = classify = None
    if identity and who is not None:
        embed = TorchEmbedder(who, device).differentiable(frame)
        lineage |= zoo.lineage(who.name)
    if expression and how is not None:
        classify = TorchExpression(how, device).differentiable(frame)
        lineage |= zoo.lineage(how.name)
    return Teachers(embed, classify, lineage)


def judges(zoo: Zoo, teaching: Teachers) -> tuple[list[Found], list[Found]]:
    """Embedders and expression models at hand that may judge what these teachers taught.

    Raises:
        ModelError: there were judges, but all of them share weights with the teachers.
    """
    chosen = []
    for task in ("embedder", "expression"):
        free = zoo.judges(task, teaching.lineage)
        barred = zoo.judges(task)
        if barred and not free:
            names = ", ".join(item.name for item in barred)
            raise ModelError(
                f"every {task} at hand ({names}) shares weights with a teacher of the losses ({', '.join(sorted(teaching.lineage))}), "
                f"and a network may not judge what it taught. Add another {task} to {zoo.source}, or set that loss to none"
            )
        chosen.append(free)
    return chosen[0], chosen[1]


def check_lineage(teaching: Teachers, judging: Iterable[Embedder | ExpressionModel]) -> None:
    """Refuse judges that share weights with the teachers.

    Raises:
        ModelError: names the judge and what it shares.
    """
    for model in judging:
        shared = model.lineage & teaching.lineage
        if shared:
            raise ModelError(
                f"{model.name} may not judge this trial: a loss term was computed with {', '.join(sorted(shared))}; "
                "judge with other weights, or set that loss to none"
            )
