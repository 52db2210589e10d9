"""What attackers need pixels for, done in the worker while the pixels are on the device; only embeddings leave.

`restored:KIND` are the probes of S and E as a restorer gives them back, `mixed` the faces of T anonymized at random strengths, `backbone`
the faces of S and E as recognisers see them whose own weights were trained on T.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from raysweep.anonymizers.base import Anonymizer
from raysweep.attackers.backbone import retrained
from raysweep.attackers.base import BACKBONE, MIXED, RESTORED, Attacker
from raysweep.attackers.mixed_strength import MixedStrength
from raysweep.attackers.restorers import Pairs, restore
from raysweep.attackers.reversal import Reversal
from raysweep.attackers.semi_informed import SemiInformed
from raysweep.errors import ConfigError
from raysweep.models.base import Embedder
from raysweep.models.embedders import TorchEmbedder
from raysweep.schema import FaceTable, FloatArray, Frame, IntArray
from raysweep.search.parameters import Float, Int, Parameter, Value

__all__ = ["Darkroom", "Extra", "askers", "draw_strengths", "spread_over_people"]


@dataclass(frozen=True)
class Extra:
    """Further embeddings of some rows, or why there are none.

    Attributes:
        name: as in `AttackView.extra`.
        rows: that were measured.
        embeddings: per embedder (n, D).
        absent: why it could not be done, empty when it was.
        seconds: that it took.
    """

    name: str
    rows: IntArray
    embeddings: Mapping[str, FloatArray]
    absent: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Darkroom:
    """Where faces are anonymized once more, restored and embedded.

    Attributes:
        table: labels of all faces; an extra learns from role T and looks at the probes of S and E.
        clear: rows -> (n, 3, S, S) uint8 clear crops on the device.
        release: (anonymizer, rows) -> (n, 3, S, S) uint8 as it publishes them.
        embed: crops -> per embedder (n, D).
        remake: setting -> the same fitted anonymizer with other values of its `strength` parameters.
        seed: of whatever is drawn.
        embedders: the recognisers behind `embed`; those in torch can be trained on.
        frame: of the crops.
    """

    table: FaceTable
    clear: Callable[[IntArray], torch.Tensor]
    release: Callable[[Anonymizer, IntArray], torch.Tensor]
    embed: Callable[[torch.Tensor], Mapping[str, FloatArray]]
    remake: Callable[[Mapping[str, Value]], Anonymizer]
    seed: int
    embedders: Sequence[Embedder] = ()
    frame: Frame = field(default_factory=Frame)

    def develop(self, asker: Attacker, anonymizer: Anonymizer) -> Extra:
        """Measure what an attacker with an `extra` asks for."""
        if isinstance(asker, Reversal):
            return self._restored(asker, anonymizer)
        if isinstance(asker, MixedStrength):
            return self._mixed(asker, anonymizer)
        if isinstance(asker, SemiInformed):
            return self._backbone(asker, anonymizer)
        name = str(getattr(asker, "extra", ""))
        return _nothing(name, f"{name}: nobody here knows how to measure it")

    def _restored(self, how: Reversal, anonymizer: Anonymizer) -> Extra:
        name = RESTORED + how.restorer
        operator = anonymizer.operator()
        train = spread_over_people(self.table, how.images)
        probes = np.concatenate([self.table.rows(role, "probe") for role in ("S", "E")])
        if how.restorer == "operator" and operator is None:
            return _nothing(name, f"{anonymizer.name} is no fixed map of pixels that could be inverted")
        if how.restorer != "operator" and len(train) < 2:
            return _nothing(name, "no faces in role T to learn a restorer from")
        if not len(probes):
            return _nothing(name, "no probes to restore")
        # The operator is known: its attack needs clear faces of T for the prior, never anonymized ones.
        clear = self.clear(train)
        pairs = Pairs(clear if how.restorer == "operator" else self.release(anonymizer, train), clear)
        found = restore(how, pairs, self.release(anonymizer, probes), operator, self.seed)
        return Extra(name, probes, self.embed(found))

    def _backbone(self, how: SemiInformed, anonymizer: Anonymizer) -> Extra:
        networks = [model for model in self.embedders if isinstance(model, TorchEmbedder)]
        train = spread_over_people(self.table, how.images)
        labels = self.table.identity[train]
        if not networks:
            return _nothing(
                BACKBONE, "no recogniser at hand is a torch network, so none can be trained (ONNX holds no gradients)"
            )
        if len(np.unique(labels[labels >= 0])) < 2:
            return _nothing(BACKBONE, "fewer than two people in role T to learn from")
        train, labels = train[labels >= 0], labels[labels >= 0]
        rows = np.concatenate([self.table.rows(role, side) for role in ("S", "E") for side in ("enrol", "probe")])
        taught, seen = self.release(anonymizer, train), self.release(anonymizer, rows)
        found = {
            model.name: retrained(model, taught, self.frame, labels, how.backbone_epochs, self.seed).embed(
                seen, self.frame
            )
            for model in networks
        }
        return Extra(BACKBONE, rows, found)

    def _mixed(self, how: MixedStrength, anonymizer: Anonymizer) -> Extra:
        if not anonymizer.strength:
            return _nothing(MIXED, f"{anonymizer.name} has no strength that could be changed without fitting it again")
        rows = self.table.rows("T")
        if not len(rows):
            return _nothing(MIXED, "no faces in role T to learn from")
        strengths = draw_strengths(anonymizer, how.settings, self.seed)
        # Every person is seen at several strengths: neighbours in the table, who are the same person, get different ones.
        which = np.arange(len(rows)) % len(strengths)
        parts = []
        for number, setting in enumerate(strengths):
            chosen = rows[which == number]
            if len(chosen):
                parts.append((chosen, self.embed(self.release(self.remake(setting), chosen))))
        order = np.concatenate([chosen for chosen, _ in parts])
        models = parts[0][1]
        return Extra(MIXED, order, {model: np.concatenate([found[model] for _, found in parts]) for model in models})


def _nothing(name: str, why: str) -> Extra:
    return Extra(name, np.empty(0, np.int64), {}, why)


def spread_over_people(table: FaceTable, most: int) -> IntArray:
    """Rows of T, at most so many, taken in turn from each person; ascending."""
    rows = table.rows("T")
    if len(rows) <= most:
        return rows
    people = table.identity[rows]
    order = np.argsort(people, kind="stable")
    _, starts, counts = np.unique(people[order], return_index=True, return_counts=True)
    turn = np.empty(len(rows), dtype=np.int64)
    turn[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return np.sort(rows[np.lexsort((rows, turn))[:most]])


def draw_strengths(anonymizer: Anonymizer, count: int, seed: int) -> list[dict[str, Value]]:
    """Settings that differ from the anonymizer's in its `strength` parameters, drawn evenly between their declared bounds.

    The draw depends on the seed and the method, not on the setting under attack: the attacker does not know that.

    Raises:
        ConfigError: a strength parameter is not declared, or not a number.
    """
    digest = hashlib.blake2b(anonymizer.name.encode(), digest_size=8).digest()
    random = np.random.default_rng([seed, int.from_bytes(digest, "little")])
    found: list[dict[str, Value]] = []
    for _ in range(count):
        change = {name: _between(anonymizer, name, random.random()) for name in anonymizer.strength}
        setting: dict[str, Value] = {**anonymizer.setting, **change}
        if anonymizer.problems(setting):
            raise ConfigError([f"drawn strength: {problem}" for problem in anonymizer.problems(setting)])
        found.append(setting)
    return found


def _between(anonymizer: Anonymizer, name: str, share: float) -> Value:
    parameter: Parameter | None = anonymizer.parameters.get(name)
    match parameter:
        case Float(low=low, high=high, log=log):
            return math.exp(math.log(low) + share * math.log(high / low)) if log else low + share * (high - low)
        case Int(low=low, high=high, step=step):
            return low + step * int(share * ((high - low) // step + 1))
        case _:
            raise ConfigError(f"{anonymizer.name}: strength {name!r} is not a declared number")


def askers(attackers: Sequence[Attacker]) -> dict[str, Attacker]:
    """Who asks for which extra."""
    return {str(getattr(each, "extra", "")): each for each in attackers if getattr(each, "extra", "")}
