"""A2: adapts its recogniser to anonymized faces of other people, then compares like with like."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

import numpy as np

from raysweep.attackers.adapters import Adapter, AdapterKind, fit_adapter
from raysweep.attackers.base import BACKBONE, AttackView, Embeddings, Template, checked_template, compare, lacking
from raysweep.errors import ConfigError
from raysweep.schema import FloatArray

__all__ = ["Adaptation", "SemiInformed", "adapted_scores", "checked_adapter"]

Adaptation = Literal["whitening", "lda", "mlp", "backbone"]


class _Adapts(Protocol):
    """What `adapted_scores` reads of an attacker."""

    @property
    def adapter(self) -> Adaptation: ...
    @property
    def epochs(self) -> int: ...
    @property
    def template(self) -> Template: ...


def checked_adapter(name: str, adapter: str, epochs: int, allowed: tuple[str, ...] = get_args(AdapterKind)) -> None:
    """Refuse an adapter that is none.

    Raises:
        ConfigError: names the attacker, the value and what is allowed.
    """
    if adapter not in allowed or epochs < 0:
        raise ConfigError(
            f"{name}: adapter={adapter!r} epochs={epochs}; allowed: {', '.join(allowed)}; epochs 0 or more"
        )


def adapted_scores(view: AttackView, learning: Embeddings, key: Hashable, how: _Adapts) -> FloatArray:
    """(P, C) cosine between anonymized faces, in the space of an adapter learned on the faces of T.

    Args:
        view: whom to find.
        learning: embeddings of all N faces, of which those of T are learned on.
        key: of what is learned; the roles of a release share it.
        how: adapter, epochs and template.
    """
    learned = view.once(key, lambda: _learn(view, learning.take(view.train), how))
    probe, enrol = (view.anonymized.take(rows) for rows in (view.probe, view.enrol))
    if learned is not None:
        probe, enrol = (side.mapped(learned(side.row.astype(np.float64)).astype(np.float32)) for side in (probe, enrol))
    return compare(probe, enrol, view.enrol_class, len(view.classes), how.template)


def _learn(view: AttackView, train: Embeddings, how: _Adapts) -> Adapter | None:
    """None when hardly any face was found in the attacker's own anonymized images: it then stays with the frozen embedder.

    A `backbone` has learned before, on pixels.
    """
    usable = train.found
    labels = view.identity[view.train][usable]
    if how.adapter == "backbone" or len(np.unique(labels)) < 2:
        return None
    return fit_adapter(how.adapter, train.images[usable].astype(np.float64), labels, how.epochs, view.seed)


@dataclass(frozen=True)
class SemiInformed:
    """Adapter on the frozen embedder, or the embedder's own weights, learned on anonymized T; then cosine.

    The default, `whitening`, measured strongest: it keeps all directions, where an LDA can only keep as many as T has people, and needs
    fewer faces than a network.

    Args:
        adapter: `whitening`, `lda` or `mlp`, see `fit_adapter`; `backbone` trains all weights of the recogniser, see `backbone.retrained`.
        epochs: of the `mlp`.
        backbone_epochs: of the `backbone`.
        images: most faces of T that the `backbone` learns from, taken evenly from all people.
        template: compare with the `mean` of a person's enrolled images (averages the anonymizer's randomness away) or with the `best` one.
    """

    adapter: Adaptation = "whitening"
    epochs: int = 60
    template: Template = "mean"
    backbone_epochs: int = 8
    images: int = 3000

    id: ClassVar[str] = "A2"
    name: ClassVar[str] = "semi_informed"
    knowledge: ClassVar[str] = (
        "adapter or recogniser trained on anonymized faces of other people; enrolment and probes anonymized"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"train"})
    reference: ClassVar[str] = "VoicePrivacy Challenge 2022 (semi-informed)"
    variant: ClassVar[str] = "adapter"

    def __post_init__(self) -> None:
        checked_template(self.name, self.template)
        checked_adapter(self.name, self.adapter, self.epochs, get_args(Adaptation))
        if self.backbone_epochs < 0 or self.images < 2:
            raise ConfigError(
                f"{self.name}: backbone_epochs={self.backbone_epochs} images={self.images}; allowed: 0 or more, 2 or more"
            )

    @property
    def extra(self) -> str:
        """The embeddings that must be measured for it; none for an adapter."""
        return BACKBONE if self.adapter == "backbone" else ""

    def problem(self, view: AttackView) -> str:
        """Why it cannot work here, or empty."""
        reason = lacking(self.needs, view)
        if reason or not self.extra or self.extra in view.extra:
            return reason
        return view.absent.get(self.extra, "this recogniser is no torch network: its weights cannot be trained")

    def scores(self, view: AttackView) -> FloatArray:
        """(P, C) cosine in the adapted space."""
        if self.adapter == "backbone":
            faces = view.extra[self.extra]
            return compare(
                faces.take(view.probe), faces.take(view.enrol), view.enrol_class, len(view.classes), self.template
            )
        return adapted_scores(view, view.anonymized, (self.id, self.adapter, self.epochs), self)
