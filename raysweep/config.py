"""Typed settings of a run: defaults < the space's `run:` < `key=value` < command-line flags, checked together, with one hash."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from raysweep.errors import ConfigError
from raysweep.search.space import Arm, Space, declared_space, find_space, load_space, shipped_spaces

__all__ = [
    "FrameSettings",
    "RunSettings",
    "SweepConfig",
    "parse_assignments",
    "parse_duration",
    "resolve_evaluation",
    "resolve_run",
    "resolve_sweep",
]


class FrameSettings(BaseModel):
    """Geometry of the crops (see `raysweep.schema.Frame`); unset means: 112/0 for synthetic faces, 160/24 for photographs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int | None = Field(None, ge=64, le=1024, description="side of the crop in pixels")
    margin: int | None = Field(None, ge=0, le=112, description="template pixels around the ArcFace crop")


class RolesSettings(BaseModel):
    """Shares of identities per role; unset means the default of `raysweep.data.roles`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    G: float = Field(0.10, ge=0, le=1)
    T: float = Field(0.48, ge=0, le=1)
    S: float = Field(0.14, ge=0, le=1)
    E: float = Field(0.28, gt=0, le=1)


class RunSettings(BaseModel):
    """How a sweep runs; every field may be given as `key=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(20, ge=1, le=1_000_000, description="how many trials in all")
    seed: int = Field(0, ge=0, lt=2**31, description="of roles, sampler, training and bootstrap")
    repeats: int = Field(
        1, ge=1, le=100, description="how often a study runs each setting it lists, with seeds seed, seed + 1, ..."
    )
    sampler: Literal["tpe", "nsga2", "gp", "qmc", "random"] = Field("tpe", description="who proposes settings")
    rungs: int = Field(
        1,
        ge=1,
        le=8,
        description="rungs of successive halving: shares of the people and of the training eta^-(rungs-1) ... 1; 1 runs every trial in full",
    )
    eta: int = Field(3, ge=2, le=10, description="one in eta trials climbs to the next rung")
    engine: Literal["ray", "local"] = Field("ray", description="worker pool on Ray, or one worker in this process")
    workers: int | None = Field(
        None, ge=1, le=4096, description="workers in the pool; unset: one per GPU, else per core"
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of each worker; unset: the cores divided by the workers. What is trained on a CPU has the same last digits "
        "only with the same number of threads",
    )
    gpus: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="GPUs of a cluster to wait for, which start their machines where these start on demand; unset: those that are there",
    )
    measure_batch: int = Field(
        128, ge=1, le=65536, description="faces per forward pass of the measuring networks at most"
    )
    measure_precision: Literal["float32", "float16"] = Field(
        "float32",
        description="of recognisers on a GPU; float16 for those written in torch whose embeddings it leaves at a cosine of 0.999 or more",
    )
    budget: float | None = Field(None, gt=0, description="seconds after which no new trial starts, e.g. 10m")
    trial_timeout: float | None = Field(
        None, gt=0, description="seconds of work after which a trial is given up as failed, e.g. 30m; unset: never"
    )
    max_failures: float = Field(
        0.5, ge=0, le=1, description="share of the planned trials that may fail; with one more the sweep stops"
    )
    attackers: tuple[str, ...] = Field(
        ("A0", "A1", "A2", "A2c", "A3", "A6"), min_length=1, description="rungs of the attacker ladder"
    )
    attacker: dict[str, dict[str, bool | int | float | str]] = Field(
        {}, description="settings of attackers, as attacker.A3.epochs=20"
    )
    assignment: Literal["per_image", "per_identity"] = Field(
        "per_image", description="draw anew for each image, or once for each person (pseudonyms)"
    )
    learning_curve: bool = Field(
        False, description="also train A2 and A3 on less, to see whether more faces would still help them"
    )
    gallery_size: int | None = Field(
        None, ge=2, description="q of rank-1 at gallery size q; unset: 20, or as many as there are"
    )
    bootstrap: int = Field(1000, ge=100, le=100_000, description="resamplings of identities per interval")
    frame: FrameSettings = FrameSettings()
    roles: RolesSettings | None = None
    conflicts: Literal["refuse", "drop"] = Field(
        "refuse",
        description="the same image under two identities, byte for byte: refuse the data set, or leave such images out",
    )

    @field_validator("budget", "trial_timeout", mode="before")
    @classmethod
    def _duration(cls, value: object) -> object:
        return parse_duration(value) if isinstance(value, str) else value

    @field_validator("attackers", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("attacker", mode="before")
    @classmethod
    def _by_attacker(cls, value: object) -> object:
        """`{"A3.epochs": 20}`, as it comes from the command line -> `{"A3": {"epochs": 20}}`."""
        if not isinstance(value, Mapping):
            return value
        nested: dict[str, Any] = {}
        for key, item in value.items():
            head, dot, last = str(key).rpartition(".")
            if isinstance(item, Mapping):
                nested[str(key)] = {**nested.get(str(key), {}), **item}
            elif dot:
                nested.setdefault(head, {})[last] = item
            else:
                nested[str(key)] = item
        return nested


@dataclass(frozen=True)
class SweepConfig:
    """Everything a sweep is asked to do.

    Attributes:
        space: what to search.
        run: how.
        data: source of faces, None for the built-in synthetic ones.
        kind: layout of the source, None to find out.
        models: folder of weights, None for the built-in ones and the user's weights folder.
    """

    space: Space
    run: RunSettings
    data: str | None
    kind: str | None
    models: str | None


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m`, `1.5h`.

    >>> parse_duration("10m")
    600.0
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 90s, 10m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`key=value` words -> mapping; values by the rules of YAML.

    >>> parse_assignments(["trials=30", "attackers=[A0, A1]"])
    {'trials': 30, 'attackers': ['A0', 'A1']}

    Raises:
        ConfigError: a word without `=`, a value that is not YAML, a key given twice.
    """
    parsed: dict[str, Any] = {}
    problems = []
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w./-]*", key):
            problems.append(f"{word!r} is not key=value")
            continue
        if key in parsed:
            problems.append(f"{key} is given twice")
        try:
            parsed[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(f"{key}: {text!r} is not a YAML value")
    if problems:
        raise ConfigError(problems)
    return parsed


def _run_keys() -> list[str]:
    """Every run setting as it is written on the command line."""
    nested: dict[str, type[BaseModel]] = {"frame": FrameSettings, "roles": RolesSettings}
    keys: list[str] = []
    for name in RunSettings.model_fields:
        keys += [f"{name}.{part}" for part in nested[name].model_fields] if name in nested else [name]
    return keys


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        head, _, rest = key.partition(".")
        if rest:
            nested.setdefault(head, {})
            if isinstance(nested[head], dict):
                nested[head][rest] = value
        else:
            nested[head] = value
    return nested


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            else:
                merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def check_run(settings: Mapping[str, Any], origin: str) -> tuple[RunSettings | None, list[str]]:
    """Validate run settings; returns them, or every problem found."""
    try:
        return RunSettings.model_validate(dict(settings)), []
    except ValidationError as error:
        problems = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                close = difflib.get_close_matches(key, _run_keys(), n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                problems.append(f"{origin}unknown setting {key!r}{hint}; known: {', '.join(_run_keys())}")
            else:
                problems.append(f"{origin}{key} = {item['input']!r}: {item['msg']}")
        return None, problems


def resolve_sweep(
    name: str,
    assignments: Sequence[str] = (),
    *,
    flags: Mapping[str, Any] | None = None,
    data: str | None = None,
    kind: str | None = None,
    models: str | None = None,
) -> SweepConfig:
    """The frozen settings of `tune NAME|FILE [key=value ...]`.

    Args:
        name: shipped space, path of a YAML file, or an anonymizer (also `file:PATH.py:Class`), of which all declared parameters are searched.
        assignments: `key=value` words: a run setting, or a parameter of the space (which fixes it, or narrows it as `parameter.low`).
        flags: run settings given as command-line options; None values are ignored.

    Raises:
        ConfigError: every problem of file, assignments and flags at once.
    """
    from raysweep.anonymizers.registry import list_anonymizers

    declared = name.startswith("file:") or (
        name not in shipped_spaces() and name in {entry.name for entry in list_anonymizers()}
    )
    path = None if declared else find_space(name)
    given = parse_assignments(assignments)
    run_heads = set(RunSettings.model_fields)
    run_given = {key: value for key, value in given.items() if key.split(".")[0] in run_heads}
    parameters = {key: value for key, value in given.items() if key not in run_given}
    problems: list[str] = []
    space: Space | None = None
    try:
        space = declared_space(name, parameters) if path is None else load_space(path, parameters)
    except ConfigError as error:
        problems.extend(error.problems)
    chosen = {key: value for key, value in (flags or {}).items() if value is not None}
    run: RunSettings | None = None
    if space is not None:
        _, found = check_run(space.run, f"{space.name}: run." if path is None else f"{path.name}: run.")
        problems.extend(found)
    run, found = (
        check_run(_merge(space.run if space and not found else {}, _nest(run_given), chosen), "")
        if not problems or space is None
        else (None, [])
    )
    problems.extend(found)
    if problems or space is None or run is None:
        # An unknown key may have been meant as a run setting: name those too.
        raise ConfigError([_with_run_hint(problem, run_heads) for problem in problems])
    return SweepConfig(space=space, run=run, data=data, kind=kind, models=models)


def resolve_run(assignments: Sequence[str], flags: Mapping[str, Any]) -> RunSettings:
    """Run settings alone, for verbs without a search space.

    Raises:
        ConfigError: every problem found.
    """
    run, problems = check_run(_merge(_nest(parse_assignments(assignments)), flags), "")
    if run is None:
        raise ConfigError(problems)
    return run


def resolve_evaluation(
    anonymizer: str,
    assignments: Sequence[str],
    *,
    flags: Mapping[str, Any],
    data: str | None = None,
    kind: str | None = None,
    models: str | None = None,
) -> SweepConfig:
    """One setting of one anonymizer as a sweep of one trial: `key=value` words are its parameters, or run settings.

    Raises:
        ConfigError: every problem found.
    """
    from raysweep.anonymizers.registry import get_anonymizer

    method = get_anonymizer(anonymizer, allow_file=True)
    given = parse_assignments(assignments)
    heads = set(RunSettings.model_fields)
    setting = {key: value for key, value in given.items() if key.split(".")[0] not in heads}
    problems = method.problems(setting)
    run, found = check_run(_merge(_nest({k: v for k, v in given.items() if k not in setting}), flags), "")
    if problems or run is None:
        raise ConfigError([*problems, *found])
    complete = dict(method(**setting).setting)
    space = Space(
        f"evaluate-{method.name.replace('/', '-')}", "one setting", (Arm(anonymizer, settings=(complete,)),), {}
    )
    return SweepConfig(space=space, run=run, data=data, kind=kind, models=models)


def _with_run_hint(problem: str, run_heads: set[str]) -> str:
    match = re.match(r"unknown parameter '([\w.]+)'", problem)
    if match is None:
        return problem
    close = difflib.get_close_matches(match[1].split(".")[0], sorted(run_heads), n=1, cutoff=0.7)
    hint = f" (did you mean {close[0]!r}?)" if close and "did you mean" not in problem else ""
    return f"{problem}{hint}; run settings: {', '.join(_run_keys())}"
