"""Search spaces: YAML that narrows what an anonymizer declares. Data, never code.

A space file has one or several *arms*. Each arm is an anonymizer with parameters; each parameter is a plain value
(fixed), or a mapping that narrows the declared range:

    anonymizer: blur
    parameters:
      kernel_size: {low: 11, high: 101, step: 2, why: "..."}
    try_first:
      - {kernel_size: 31}

`settings:` in place of `parameters:` lists explicit settings (a study). `when:` makes a parameter depend on another one;
where the condition does not hold, the declared default is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raysweep.errors import ConfigError, nearest
from raysweep.search.parameters import Bool, Categorical, Float, Int, Parameter, Value

__all__ = [
    "Arm",
    "Space",
    "canonical_hash",
    "declared_space",
    "find_space",
    "load_space",
    "load_yaml",
    "shipped_spaces",
]

MAX_YAML_BYTES = 1 << 20
MAX_YAML_NODES = 20_000
MAX_YAML_DEPTH = 20
"""A space of ten arms has a few hundred nodes, six deep; what is beyond these bounds is no space, and is not read to its end."""


def canonical_hash(content: object, length: int = 12) -> str:
    """Hash of a JSON-safe object, independent of key order; floats by their shortest repr.

    >>> canonical_hash({"a": 1, "b": 2}) == canonical_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


# ------------------------------------------------------------------ files
def shipped_spaces() -> dict[str, Path]:
    """Name -> file of the spaces that come with the project."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "search_spaces", package / "_search_spaces"):
        files = sorted(folder.glob("*.yaml"))
        if files:
            return {file.stem: file for file in files}
    return {}


def find_space(name: str) -> Path:
    """The file of a shipped name, or the given path.

    Raises:
        ConfigError: neither; names the nearest shipped one.
    """
    shipped = shipped_spaces()
    if name in shipped:
        return shipped[name]
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"} or path.exists():
        if path.is_file():
            return path
        raise ConfigError(f"no search space at {name}: give a YAML file or one of {', '.join(shipped)}")
    raise ConfigError(f"unknown search space {name!r}{nearest(name, list(shipped))}; known: {', '.join(shipped)}")


class _Lines(dict[tuple[str | int, ...], int]):
    """Line number of each key path of a YAML document."""


def load_yaml(path: Path) -> tuple[dict[str, Any], Mapping[tuple[str | int, ...], int]]:
    """Read a mapping without tags, anchors or duplicate keys; returns it with the line of each key.

    Raises:
        ConfigError: every problem with file and line.
    """
    if path.stat().st_size > MAX_YAML_BYTES:
        raise ConfigError(f"{path.name}: larger than {MAX_YAML_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name}: not readable as UTF-8 text ({error})") from error
    lines = _Lines()
    problems: list[str] = []

    def visit(node: yaml.Node | None, where: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                if name in seen:
                    problems.append(f"{path.name}:{key.start_mark.line + 1}: duplicate key {name!r}")
                seen.add(name)
                lines[(*where, name)] = key.start_mark.line + 1
                visit(value, (*where, name))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*where, index)] = item.start_mark.line + 1
                visit(item, (*where, index))

    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if count > MAX_YAML_NODES or depth > MAX_YAML_DEPTH:
                limit = (
                    f"more than {MAX_YAML_NODES} items"
                    if count > MAX_YAML_NODES
                    else f"nested deeper than {MAX_YAML_DEPTH}"
                )
                raise ConfigError(f"{path.name}: {limit}")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError(f"{path.name}:{line}: anchors and aliases are not allowed")
        visit(yaml.compose(text, Loader=yaml.SafeLoader), ())
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name}: not readable as YAML: {' '.join(str(error).split())}") from error
    if problems:
        raise ConfigError(problems)
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name}: must be a mapping of keys, found {type(content).__name__}")
    return content, lines


# ------------------------------------------------------------------ the space
@dataclass(frozen=True)
class Arm:
    """One anonymizer with the ranges to search, or with explicit settings.

    Attributes:
        anonymizer: registered name.
        ranges: searched parameters, in the order of the file.
        fixed: parameters held at one value.
        when: parameter -> {other parameter: allowed values}.
        settings: explicit settings; with them nothing is searched.
        try_first: settings proposed before the sampler's own.
    """

    anonymizer: str
    ranges: Mapping[str, Parameter] = field(default_factory=dict)
    fixed: Mapping[str, Value] = field(default_factory=dict)
    when: Mapping[str, Mapping[str, tuple[Value, ...]]] = field(default_factory=dict)
    settings: tuple[Mapping[str, Value], ...] = ()
    try_first: tuple[Mapping[str, Value], ...] = ()

    def active(self, name: str, setting: Mapping[str, Value]) -> bool:
        """Whether a conditional parameter is searched, given the parameters before it."""
        return all(setting.get(other) in allowed for other, allowed in self.when.get(name, {}).items())


@dataclass(frozen=True)
class Space:
    """A named set of arms.

    Attributes:
        name: file stem.
        summary: one line.
        arms: at least one.
        run: defaults of run settings that the file brings (`trials`, `sampler`, ...).
        text: the file as it was, for the record.
    """

    name: str
    summary: str
    arms: tuple[Arm, ...]
    run: Mapping[str, Any]
    text: str = ""

    def canonical(self) -> dict[str, Any]:
        """What makes two spaces the same: JSON-safe, without comments and order of keys."""
        return {
            "arms": [
                {
                    "anonymizer": arm.anonymizer,
                    "ranges": {
                        name: {
                            "type": type(item).__name__,
                            **{k: v for k, v in asdict(item).items() if k not in {"why", "unit"}},
                        }
                        for name, item in arm.ranges.items()
                    },
                    "fixed": dict(arm.fixed),
                    "when": {name: {k: list(v) for k, v in rule.items()} for name, rule in arm.when.items()},
                    "settings": [dict(setting) for setting in arm.settings],
                    "try_first": [dict(setting) for setting in arm.try_first],
                }
                for arm in self.arms
            ]
        }

    @property
    def size(self) -> int | None:
        """How many different settings there are, None when not finite (or not counted)."""
        total = 0
        for arm in self.arms:
            if arm.settings:
                total += len(arm.settings)
                continue
            count = 1
            for item in arm.ranges.values():
                if isinstance(item, Float):
                    return None
                if isinstance(item, Int):
                    count *= (item.high - item.low) // item.step + 1
                elif isinstance(item, Categorical):
                    count *= len(item.choices)
                else:
                    count *= 2
            total += count
        return total


_SPACE_KEYS = ("summary", "anonymizer", "parameters", "settings", "try_first", "arms", "run")
_ARM_KEYS = ("anonymizer", "parameters", "settings", "try_first")
_SHAPE_KEYS = ("low", "high", "step", "log", "choices")
_SHAPES: Mapping[type, tuple[str, ...]] = {
    Float: ("low", "high", "log"),
    Int: ("low", "high", "step", "log"),
    Categorical: ("choices",),
    Bool: (),
}
_RANGE_KEYS = ("low", "high", "step", "log", "choices", "default", "when", "why", "unit")


def load_space(path: Path, overrides: Mapping[str, object] | None = None) -> Space:
    """Read, check against what the anonymizers declare, and apply `parameter=value` overrides.

    Args:
        path: of the YAML file.
        overrides: parameter -> fixed value, or `parameter.low` / `parameter.high` / `parameter.choices`.

    Raises:
        ConfigError: every problem found, with file and line.
    """
    content, lines = load_yaml(path)

    def where(*keys: str | int) -> str:
        line = lines.get(keys)
        return f"{path.name}:{line}" if line else path.name

    return _read_space(content, path.stem, path.read_text(encoding="utf-8"), where, overrides or {}, allow_file=False)


def declared_space(anonymizer: str, overrides: Mapping[str, object] | None = None) -> Space:
    """The space of all parameters that an anonymizer declares, in their widest bounds: for a method that brings no file.

    Args:
        anonymizer: a registered name, or `file:PATH.py:Class` as typed by the user.
        overrides: as in `load_space`.

    Raises:
        ConfigError: no such anonymizer, or every problem of the overrides.
    """
    from raysweep.anonymizers.registry import get_anonymizer

    method = get_anonymizer(anonymizer, allow_file=True)
    content: dict[str, Any] = {"anonymizer": anonymizer, "parameters": {key: {} for key in method.parameters}}
    if not method.parameters:
        content = {"anonymizer": anonymizer, "settings": [{}]}
    text = yaml.safe_dump(content, sort_keys=False)
    name = re.sub(r"[^\w.-]+", "-", method.name)
    return _read_space(content, name, text, lambda *_: anonymizer, overrides or {}, allow_file=True)


def _read_space(
    content: Mapping[str, Any],
    name: str,
    text: str,
    where: Callable[..., str],
    overrides: Mapping[str, object],
    allow_file: bool,
) -> Space:
    from raysweep.anonymizers.registry import get_anonymizer

    problems: list[str] = []

    for key in content:
        if key not in _SPACE_KEYS:
            problems.append(
                f"{where(key)}: unknown key {key!r}{nearest(str(key), _SPACE_KEYS)}; known: {', '.join(_SPACE_KEYS)}"
            )
    if ("arms" in content) == ("anonymizer" in content):
        problems.append(f"{where()}: give either `anonymizer:` or `arms:`")
    raw_arms = content.get("arms") or [{key: content[key] for key in _ARM_KEYS if key in content}]
    if not isinstance(raw_arms, list):
        raise ConfigError([*problems, f"{where('arms')}: must be a list of anonymizers"])
    prefix: tuple[str, ...] = ("arms",) if "arms" in content else ()
    used: set[str] = set()
    arms = []
    for index, raw in enumerate(raw_arms):
        at: tuple[str | int, ...] = (*prefix, index) if prefix else ()
        arm = _read_arm(raw, at, where, overrides, used, problems, allow_file)
        if arm is not None:
            arms.append(arm)
    names = [arm.anonymizer for arm in arms]
    known = sorted({key for arm in arms for key in get_anonymizer(arm.anonymizer, allow_file).parameters})
    for key in overrides:
        if key in used:
            continue
        base = key.split(".")[0]
        problems.append(f"unknown parameter {key!r}{nearest(base, known)}; known: {', '.join(known) or 'none'}")
    if len(set(names)) != len(names):
        problems.append(f"{where()}: the same anonymizer stands in two arms")
    run = content.get("run") or {}
    if not isinstance(run, dict):
        problems.append(f"{where('run')}: must be a mapping of run settings")
    if problems:
        raise ConfigError(problems)
    return Space(
        name=name,
        summary=str(content.get("summary", "")),
        arms=tuple(arms),
        run=run,
        text=text,
    )


def _read_arm(
    raw: object,
    at: tuple[str | int, ...],
    where: Any,
    overrides: Mapping[str, object],
    used: set[str],
    problems: list[str],
    allow_file: bool,
) -> Arm | None:
    from raysweep.anonymizers.registry import get_anonymizer

    if not isinstance(raw, dict) or not isinstance(raw.get("anonymizer"), str):
        problems.append(f"{where(*at)}: an arm needs `anonymizer: NAME`")
        return None
    for key in raw:
        if key not in _ARM_KEYS:
            problems.append(f"{where(*at, key)}: unknown key {key!r}{nearest(str(key), _ARM_KEYS)}")
    name = raw["anonymizer"]
    try:
        anonymizer = get_anonymizer(name, allow_file)
    except ConfigError as error:
        problems.extend(f"{where(*at, 'anonymizer')}: {line}" for line in error.problems)
        return None
    if "settings" in raw and "parameters" in raw:
        problems.append(f"{where(*at, 'settings')}: give either `parameters:` or `settings:`")
    ranges: dict[str, Parameter] = {}
    fixed: dict[str, Value] = {}
    when: dict[str, Mapping[str, tuple[Value, ...]]] = {}
    parameters = raw.get("parameters") or {}
    if not isinstance(parameters, dict):
        problems.append(f"{where(*at, 'parameters')}: must be a mapping of parameters")
        parameters = {}
    parameters = dict(parameters)
    # An override may name a declared parameter that the file leaves at its default; `NAME.parameter` is for one arm of several.
    mine = [key for key in overrides if key.removeprefix(f"{name}.").split(".")[0] in anonymizer.parameters]
    overridden = bool(mine)
    used.update(mine)
    for key in sorted(mine, key=lambda key: key.startswith(f"{name}.")):
        base, _, part = key.removeprefix(f"{name}.").partition(".")
        value = overrides[key]
        if not part:
            parameters[base] = value
        else:
            current = parameters.get(base)
            parameters[base] = {**(current if isinstance(current, dict) else {}), part: value}
    for key, item in parameters.items():
        line = where(*at, "parameters", key)
        declared = anonymizer.parameters.get(key)
        if declared is None:
            known = list(anonymizer.parameters)
            problems.append(
                f"{line}: {name} has no parameter {key!r}{nearest(str(key), known)}; known: {', '.join(known) or 'none'}"
            )
        elif isinstance(item, dict):
            narrowed, rule = _narrow(key, declared, item, line, problems)
            if narrowed is not None:
                ranges[key] = narrowed
            if rule:
                when[key] = rule
        elif (problem := declared.problem(item)) is not None:
            problems.append(f"{line}: {key} = {problem}")
        else:
            fixed[key] = item
    for key, rule in when.items():
        before = list(fixed) + list(ranges)[: list(ranges).index(key)] if key in ranges else []
        problems.extend(
            f"{where(*at, 'parameters', key)}: `when` names {other!r}, which must stand before {key!r}"
            for other in rule
            if other not in before
        )
    settings = _read_settings(raw.get("settings"), anonymizer, where, (*at, "settings"), problems)
    if settings:
        # A study lists its settings: `x=1` from the command line holds in all of them, and there is no range to narrow.
        problems.extend(
            f"{name}: {key} cannot be narrowed, the settings are listed; fix it with {key}=VALUE" for key in ranges
        )
        settings = tuple(
            dict(item) for item in dict.fromkeys(tuple({**setting, **fixed}.items()) for setting in settings)
        )
        fixed = {}
    try_first = _read_settings(raw.get("try_first"), anonymizer, where, (*at, "try_first"), problems)
    # A point to try first that an override made impossible is moved onto the override, or dropped when out of its range.
    kept = []
    for setting in try_first:
        moved = {**setting, **fixed}
        if all(ranges[key].problem(value) is None for key, value in moved.items() if key in ranges) and all(
            key in ranges or key in fixed for key in moved
        ):
            if moved not in kept:
                kept.append(moved)
        elif not overridden and not problems:
            problems.append(f"{where(*at, 'try_first')}: {setting} lies outside the searched ranges")
    return Arm(name, ranges, fixed, when, settings, tuple(kept))


def _read_settings(
    raw: object, anonymizer: Any, where: Any, at: tuple[str | int, ...], problems: list[str]
) -> tuple[dict[str, Value], ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        problems.append(f"{where(*at)}: must be a list of settings")
        return ()
    settings = []
    for index, item in enumerate(raw):
        if not isinstance(item, dict):
            problems.append(f"{where(*at, index)}: must be a mapping parameter: value")
            continue
        found = anonymizer.problems(item)
        problems.extend(f"{where(*at, index)}: {problem}" for problem in found)
        if not found:
            settings.append(dict(item))
    return tuple(settings)


def _narrow(
    key: str, declared: Parameter, item: Mapping[str, Any], line: str, problems: list[str]
) -> tuple[Parameter | None, Mapping[str, tuple[Value, ...]]]:
    """The declared parameter with tighter bounds; widening past the declared ones is a problem."""
    count = len(problems)
    for part in item:
        if part not in _RANGE_KEYS:
            problems.append(f"{line}: unknown key {part!r}{nearest(str(part), _RANGE_KEYS)} in {key!r}")
        elif part in _SHAPE_KEYS and part not in _SHAPES[type(declared)]:
            allowed = ", ".join(_SHAPES[type(declared)]) or "none; it is true or false"
            kind = type(declared).__name__.lower()
            problems.append(f"{line}: {key}: `{part}` means nothing for a parameter of type {kind}; allowed: {allowed}")
    rule = item.get("when") or {}
    if not isinstance(rule, dict):
        problems.append(f"{line}: `when` must be a mapping parameter: value or list of values")
        rule = {}
    conditions = {str(other): tuple(value) if isinstance(value, list) else (value,) for other, value in rule.items()}
    narrowed: Parameter
    if isinstance(declared, Categorical):
        choices: Sequence[Any] = item.get("choices", declared.choices)
        if not isinstance(choices, list | tuple) or not choices:
            problems.append(f"{line}: {key}: `choices` must be a list with at least one entry")
            choices = declared.choices
        problems.extend(f"{line}: {key} = {p}" for c in choices if (p := declared.problem(c)) is not None)
        narrowed = Categorical(tuple(choices), choices[0])
    elif isinstance(declared, Bool):
        narrowed = declared
    else:
        low, high = item.get("low", declared.low), item.get("high", declared.high)
        bounds_ok = True
        for bound, value in (("low", low), ("high", high)):
            # The step is counted from the space's own `low`, so only the outer bounds are checked here.
            plain: Parameter = (
                declared if isinstance(declared, Float) else Int(declared.low, declared.high, declared.low)
            )
            if (problem := plain.problem(value)) is not None:
                problems.append(f"{line}: {key}.{bound} = {problem}")
                bounds_ok = False
        if bounds_ok and low > high:
            problems.append(f"{line}: {key}: low {low} is above high {high}")
        log = item.get("log", declared.log)
        if not isinstance(log, bool):
            problems.append(f"{line}: {key}: `log` must be true or false")
            log = False
        if log and bounds_ok and low <= 0:
            problems.append(f"{line}: {key}: a logarithmic range needs low > 0, found {low}")
        if isinstance(declared, Float):
            narrowed = Float(low, high, low, log)
        else:
            step = item.get("step", declared.step)
            if isinstance(step, bool) or not isinstance(step, int) or step < 1 or step % declared.step:
                problems.append(f"{line}: {key}: step {step!r} must be a multiple of {declared.step}")
                step = declared.step
            if bounds_ok and (low - declared.low) % declared.step:
                problems.append(
                    f"{line}: {key}.low = {low} is not allowed; allowed: {declared.low}, {declared.low + declared.step}, ..."
                )
            if log and step != 1:
                problems.append(f"{line}: {key}: a logarithmic range has no step")
            if bounds_ok:
                high -= (high - low) % step
            narrowed = Int(low, high, low, step, log)
    return (narrowed if len(problems) == count else None), conditions
