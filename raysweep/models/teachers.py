"""Differentiable networks for loss terms, and the rule that none of them ever judges the trial it taught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raysweep.anonymizers.base import Teachers
from raysweep.errors import ModelError

if TYPE_CHECKING:
    import torch

    from raysweep.models.base import Embedder, ExpressionModel
    from raysweep.models.entry import Task
    from raysweep.models.zoo import Found, Zoo
    from raysweep.schema import Frame

__all__ = ["check_lineage", "teacher_entries", "teachers"]


def teacher_entries(zoo: Zoo) -> tuple[Found | None, Found | None]:
    """The weights that would teach identity and expression, None where there are none that may.

    A teacher is a torch network; those kept for teaching come first. It must leave a judge of no common descent, if there is any
    judge at all: measuring goes before teaching.
    """

    def first(task: Task) -> Found | None:
        usable = [item for item in zoo.of(task) if item.entry.differentiable and item.entry.role != "judge"]
        free = [item for item in usable if not zoo.judges(task) or zoo.judges(task, zoo.lineage(item.name))]
        return min(free, key=lambda item: item.entry.role != "teacher", default=None)

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

    Raises:
        ModelError: the zoo has expression judges that share weights with these teachers (it was not taken with `reserve=True`).
    """
    from raysweep.models.embedders import TorchEmbedder
    from raysweep.models.expression import TorchExpression

    who, how = teacher_entries(zoo)
    who, how = (who if identity else None), (how if expression else None)
    lineage = frozenset[str]().union(*(zoo.lineage(item.name) for item in (who, how) if item is not None))
    partial = [item.name for item in zoo.judges("expression") if zoo.lineage(item.name) & lineage]
    if partial:
        raise ModelError(
            f"{', '.join(partial)} would judge what {', '.join(sorted(lineage))} taught; take the zoo from for_data(..., reserve=True)"
        )
    return Teachers(
        None if who is None else TorchEmbedder(who, device).differentiable(frame),
        None if how is None else TorchExpression(how, device).differentiable(frame),
        lineage,
    )


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
