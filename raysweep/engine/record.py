"""A trial before and after: the task, what came out, and the record that the ledger stores and everything downstream reads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from raysweep.metrics.value import MetricValue
from raysweep.search.parameters import Value

if TYPE_CHECKING:
    import numpy.typing as npt

    from raysweep.schema import IntArray

__all__ = ["Outcome", "TrialRecord", "TrialTask", "Work"]


@dataclass(frozen=True)
class TrialTask:
    """One trial to run.

    Attributes:
        key, number, anonymizer, setting, control: as in `TrialRecord`.
        seed: of training and of whatever an anonymizer draws.
        extras: what attackers need pixels for, see `AttackView.extra`.
        trains: its fit may take long, so that nothing should wait behind it.
        staged: its training is divided among the rungs, see `Anonymizer.resumable_steps`.
    """

    key: str
    number: int
    anonymizer: str
    setting: Mapping[str, Value]
    seed: int
    control: str = ""
    extras: tuple[str, ...] = ()
    trains: bool = True
    staged: bool = False


@dataclass(frozen=True)
class Work:
    """What is measured of every trial of a sweep.

    Attributes:
        chunks: row numbers, each chunk one work item; with rungs, what they leave for full fidelity.
        rungs: chunks of each rung below full fidelity, only what is new on it.
        fidelity: recorded as it is.
    """

    chunks: Sequence[IntArray]
    rungs: Sequence[Sequence[IntArray]] = ()
    fidelity: Mapping[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> Work:
        """The same rows at full fidelity at once."""
        return Work([*itertools.chain.from_iterable(self.rungs), *self.chunks], fidelity=self.fidelity)

    @property
    def anew(self) -> Work:
        """The same for what is measured again on each rung: its chunks and those of the rungs below it."""
        rungs = [list(itertools.chain.from_iterable(self.rungs[: number + 1])) for number in range(len(self.rungs))]
        return Work(self.whole.chunks, rungs, self.fidelity)


@dataclass(frozen=True)
class Outcome:
    """What a worker found out about a trial: small, and readable without any heavy import."""

    metrics: Mapping[str, MetricValue]
    attackers: tuple[Mapping[str, Any], ...]
    curves: Mapping[str, tuple[float, ...]]
    seconds: Mapping[str, float]
    notes: Mapping[str, Any]
    evidence: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    fidelity: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRecord:
    """One trial at one fidelity.

    Attributes:
        key: hash of (anonymizer, setting, fidelity, rows, weights, code, seed); one final record per key.
        number: order of proposal in the sweep, from 0.
        anonymizer: name.
        setting: parameter values.
        seed: of training and of what the anonymizer draws; it tells the repeats of a setting apart.
        fidelity: for example {"identities": 40, "steps": 150}.
        state: `failed` carries a reason and no metrics; `stopped` was discarded on a rung below full fidelity and has none either: what
            was found there, an upper estimate of privacy, stands in `rungs`.
        rungs: what was found on each rung below full fidelity: `identities`, `images`, `steps` of training where it is divided among the
            rungs, `wall` seconds since the start, `privacy`, `utility` and their upper ends `privacy_hi`, `utility_hi` where they are ok.
        reason: why it failed, one line.
        metrics: by name; `privacy` and `utility` are the two objectives, further ones are grouped with a slash
            (`privacy/naive`, `utility/match`, `realism/ssim`, ...).
        attackers: rows of the attacker table: attacker, embedder, rank-1 on S and E, clear control, advantage, status, reason.
        curves: per name, values by step (training losses).
        seconds: per stage, worker seconds on all rungs (fit, anonymize, embed, express, realism, judge) and `wall`.
        control: empty for a proposed trial; `identity`, `blackout` or `untrained` for a control row, which never enters the front.
        notes: what else the anonymizer says of itself, for example whether the 1/k guarantee of k-Same holds.
        ended_at: wall clock, seconds since the epoch (a stamp only; durations are in `seconds`).
        evidence: arrays of `Judgement.evidence`; stored beside the ledger (`scores/<key>.npz`), not in it.
    """

    key: str
    number: int
    anonymizer: str
    setting: Mapping[str, Value]
    fidelity: Mapping[str, int]
    state: Literal["complete", "stopped", "failed"]
    reason: str = ""
    metrics: Mapping[str, MetricValue] = field(default_factory=dict)
    attackers: tuple[Mapping[str, Any], ...] = ()
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    control: str = ""
    seed: int = 0
    rungs: tuple[Mapping[str, float], ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    ended_at: float = 0.0
    evidence: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rankable(self) -> bool:
        """Complete, proposed (not a control), and both objectives are `ok`: only such a trial may stand on the front."""
        if self.state != "complete" or self.control:
            return False
        objectives = [self.metrics.get(name) for name in ("privacy", "utility")]
        return all(value is not None and value.ok for value in objectives)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            "key": self.key,
            "number": self.number,
            "anonymizer": self.anonymizer,
            "setting": dict(self.setting),
            "fidelity": dict(self.fidelity),
            "state": self.state,
            "reason": self.reason,
            "metrics": {name: value.to_dict() for name, value in self.metrics.items()},
            "attackers": [dict(row) for row in self.attackers],
            "curves": {name: list(values) for name, values in self.curves.items()},
            "seconds": dict(self.seconds),
            "control": self.control,
            "seed": self.seed,
            "rungs": [dict(rung) for rung in self.rungs],
            "notes": dict(self.notes),
            "ended_at": self.ended_at,
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> TrialRecord:
        """The inverse of `to_dict`."""
        fields = dict(record)
        fields["metrics"] = {name: MetricValue.from_dict(value) for name, value in record["metrics"].items()}
        fields["attackers"] = tuple(record["attackers"])
        fields["rungs"] = tuple(record.get("rungs", ()))
        fields["curves"] = {name: tuple(values) for name, values in record["curves"].items()}
        return cls(**fields)
