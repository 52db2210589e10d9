"""What a sweep is, as the live view, the figures and MLflow tell it to a person."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from raysweep.metrics.value import MetricValue

__all__ = ["ModelInfo", "SweepInfo"]


@dataclass(frozen=True)
class ModelInfo:
    """A network whose answers count in this sweep.

    Attributes:
        name: as in the zoo.
        role: `embedder`, `expression`, `detector`, ...
        licence: under which the weights may be used.
        sha256: of the weights, empty when not known.
        reference: where it comes from.
        lineage: weights or teachers that it was made from.
    """

    name: str
    role: str = ""
    licence: str = ""
    sha256: str = ""
    reference: str = ""
    lineage: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepInfo:
    """Everything about a sweep that is known before its first trial (counts may be filled in later with `replace`).

    Attributes:
        name: for example `ganonymization`.
        key: short hash of all that decides the results; the same key is the same sweep, which is then resumed.
        dataset: name of the data set.
        synthetic: the faces are drawn, not photographed.
        anonymizer: name, or several joined with a comma.
        run_folder: where the sweep keeps its ledger; its parent is the run root.
        space: the search space, JSON-safe.
        parameters: names of the searched (not fixed) parameters, the most telling first.
        sampler: name of the proposing algorithm.
        seed: of the sweep.
        trials: how many are planned.
        fidelity: the full fidelity; a record at another one never stands on the front. Empty: all records count.
        command: the command line that repeats this sweep, without secrets.
        faces: how many can be used.
        identities: how many per role.
        quarantined: how many images per reason.
        models: networks that judge.
        clear: what the judges reach on clear faces, for example `clear/rank1/<embedder>`, `clear/accuracy/<model>`.
        versions: of raysweep and of the libraries.
        timing: `actual_s` until the last trial was recorded and, where it was foretold, `predicted_s` with `low_s`, `high_s` and `basis`; empty
            for a sweep that was interrupted or has not ended.
        card: of the data set: `kind`, `licence`, `digest`, `frame`, `images` per role, `expressions` with their counts, `notes`.
    """

    name: str
    key: str
    dataset: str
    synthetic: bool
    anonymizer: str
    run_folder: Path
    space: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    sampler: str = ""
    seed: int = 0
    trials: int = 0
    fidelity: Mapping[str, int] = field(default_factory=dict)
    command: str = ""
    faces: int = 0
    identities: Mapping[str, int] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    models: tuple[ModelInfo, ...] = ()
    clear: Mapping[str, MetricValue] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe; the run folder is left out, so that the record may be shared."""
        record = asdict(self)
        del record["run_folder"]
        record["clear"] = {name: value.to_dict() for name, value in self.clear.items()}
        record["models"] = [asdict(model) for model in self.models]
        record["parameters"] = list(self.parameters)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], run_folder: Path) -> SweepInfo:
        """The inverse of `to_dict`; keys of another release are left out, missing ones take their defaults.

        Raises:
            KeyError, TypeError, ValueError: the record is not one of a sweep.
        """
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in record.items() if name in known}
        model_keys = {item.name for item in fields(ModelInfo)}
        values["models"] = tuple(
            ModelInfo(
                **{
                    **{key: model[key] for key in model if key in model_keys},
                    "lineage": tuple(model.get("lineage", ())),
                }
            )
            for model in record.get("models", ())
        )
        values["clear"] = {name: MetricValue.from_dict(value) for name, value in record.get("clear", {}).items()}
        values["parameters"] = tuple(record.get("parameters", ()))
        for name in ("name", "key", "dataset", "anonymizer"):
            values[name] = str(record[name])
        return cls(**{**values, "synthetic": bool(values.get("synthetic")), "run_folder": run_folder})
