"""Which attackers there are: the built-in ladder, and those of installed plug-ins.

A plug-in is an installed distribution with an entry point in the group `raysweep.attackers`; the entry point's name is the attacker's
id, `vendor.name` (a slash parts the names of stored ranks). It is imported when it is asked for, so that a broken one harms nobody else.

An attacker of several kinds is named `ID:KIND`: `A2:mlp`, `A4:unet`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any, get_args, get_type_hints

from raysweep.attackers.adaptive_head import AdaptiveHead
from raysweep.attackers.base import Attacker
from raysweep.attackers.cross_domain import CrossDomain
from raysweep.attackers.fused import Fused
from raysweep.attackers.ignorant import Ignorant
from raysweep.attackers.lazy import Lazy
from raysweep.attackers.mixed_strength import MixedStrength
from raysweep.attackers.pseudonym_link import PseudonymLink
from raysweep.attackers.reversal import Reversal
from raysweep.attackers.semi_informed import SemiInformed
from raysweep.attackers.transfer import Transfer
from raysweep.entry_points import entry_points
from raysweep.errors import ConfigError, nearest

__all__ = [
    "ATTACKERS",
    "GROUP",
    "Settings",
    "attacker",
    "attackers_of",
    "kinds_of",
    "label",
    "list_attackers",
    "plugin_of",
]

GROUP = "raysweep.attackers"
"""The entry-point group of plug-ins."""

Settings = Mapping[str, Mapping[str, int | float | str | bool]]
"""Parameters by attacker id or name."""

ATTACKERS: dict[str, Callable[..., Attacker]] = {
    kind.id: kind
    for kind in (
        Ignorant,
        Lazy,
        SemiInformed,
        CrossDomain,
        MixedStrength,
        AdaptiveHead,
        Reversal,
        Transfer,
        Fused,
        PseudonymLink,
    )
}
"""The built-in ones by id; `attacker` also takes the long name."""


def attacker(name: str, **parameters: Any) -> Attacker:
    """Make an attacker by id (`A1`), name (`lazy`) or id and kind (`A4:unet`).

    Raises:
        ConfigError: no such attacker, kind or parameter.
    """
    base, colon, kind = name.partition(":")
    made = _class_of(base)
    if colon:
        chooses = getattr(made, "variant", "")
        if not chooses:
            raise ConfigError(f"attacker {name!r}: {base} has no kinds; write {base}")
        if parameters.get(chooses, kind) != kind:
            raise ConfigError(f"attacker {name!r}: {chooses} is also set to {parameters[chooses]!r}")
        parameters = {**parameters, chooses: kind}
    try:
        return made(**parameters)
    except TypeError as error:
        raise ConfigError(f"attacker {name}: {error}") from error


def label(each: Attacker) -> str:
    """What tells an attacker from the others of a protocol: its id, and its kind when that is not the usual one.

    >>> label(attacker("A2")), label(attacker("A4:unet"))
    ('A2', 'A4:unet')
    """
    chooses = getattr(each, "variant", "")
    usual = not chooses or (
        not hasattr(each, "expands") and getattr(each, chooses) == getattr(type(each), chooses, None)
    )
    return each.id if usual else f"{each.id}:{getattr(each, chooses)}"


def attackers_of(names: Sequence[str], settings: Settings) -> tuple[Attacker, ...]:
    """The attackers of a protocol, with their settings.

    Args:
        names: as for `attacker`. One that stands for several (`A5`) becomes all of them.
        settings: by id or name.

    Raises:
        ConfigError: every unknown attacker, kind or parameter; one named twice; settings for one that is not asked.
    """
    problems: list[str] = []
    made: list[Attacker] = []
    used: set[str] = set()
    for name in names:
        try:
            plain = attacker(name)
            own = {key for key in (plain.id, plain.name) if key in settings}
            used |= own
            given = {key: value for item in sorted(own) for key, value in settings[item].items()}
            chosen = ":" in name or getattr(plain, "variant", "") in given
            several = () if chosen else getattr(plain, "expands", ())
            made += [attacker(f"{name}:{kind}", **given) for kind in several] or [attacker(name, **given)]
        except ConfigError as error:
            problems += error.problems
    labels = [label(each) for each in made]
    if len(set(labels)) < len(labels):
        problems.append(f"attackers: {', '.join(labels)}; each may be named once")
    unused = sorted(set(settings) - used)
    if unused and not problems:
        problems.append(f"attacker settings: {', '.join(unused)} is not among the attackers {', '.join(labels)}")
    if problems:
        raise ConfigError(problems)
    team = tuple(each for each in made if "company" not in each.needs and each.id not in ("A5", "A7"))
    return tuple(replace(each, members=team) if isinstance(each, Fused) and team else each for each in made)


def list_attackers() -> list[tuple[str, str, Attacker | None, str]]:
    """Each known attacker: id, origin (`built-in`, or distribution and version), an instance, or why there is none."""
    listed: list[tuple[str, str, Attacker | None, str]] = [
        (name, "built-in", make(), "") for name, make in ATTACKERS.items()
    ]
    for point in sorted(entry_points(group=GROUP), key=lambda item: item.name):
        try:
            listed.append((point.name, _origin(point), attacker(point.name), ""))
        except ConfigError as error:
            listed.append((point.name, _origin(point), None, str(error)))
    return listed


def kinds_of(each: Attacker) -> str:
    """What may stand after the colon, the usual one first; empty when there is one kind only.

    >>> kinds_of(attacker("A4"))
    'ridge, autoencoder, unet, operator'
    """
    chooses = getattr(each, "variant", "")
    if not chooses:
        return ""
    allowed = get_args(get_type_hints(type(each)).get(chooses, str))
    usual = getattr(type(each), chooses, None)
    return ", ".join(sorted(map(str, allowed), key=lambda kind: kind != str(usual)))


def plugin_of(each: Attacker) -> str:
    """Module of an attacker that raysweep does not bring itself, else empty: its code decides results too."""
    module = type(each).__module__
    return "" if module.startswith("raysweep.") else module


def _class_of(name: str) -> Callable[..., Attacker]:
    known = {**ATTACKERS, **{kind.name: kind for kind in ATTACKERS.values()}}  # type: ignore[attr-defined]
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(points) + (name in known) > 1:
        owners = ["built-in"] * (name in known) + [_origin(point) for point in points]
        raise ConfigError(f"attacker {name!r} exists more than once: in {' and in '.join(owners)}; uninstall one")
    if name in known:
        return known[name]
    if not points:
        everything = [*known, *(point.name for point in entry_points(group=GROUP))]
        raise ConfigError(f"unknown attacker {name!r}{nearest(name, everything)}; known: {', '.join(everything)}")
    return _from_entry_point(points[0])


def _from_entry_point(point: EntryPoint) -> Callable[..., Attacker]:
    where = f"plug-in {point.name!r} of {_origin(point)} ({point.value})"
    if not re.fullmatch(r"[a-z0-9_-]+\.[a-z0-9_.-]+", point.name):
        raise ConfigError(f"{where}: the id of a plug-in is vendor.name, in small letters")
    try:
        loaded = point.load()
    except Exception as error:  # a foreign module may fail in any way; its failure is the message
        raise ConfigError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(loaded, type):
        raise ConfigError(f"{where} is not a class")
    missing = [
        name
        for name in ("id", "name", "knowledge", "needs", "reference", "problem", "scores")
        if not hasattr(loaded, name)
    ]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; see raysweep.attackers.base.Attacker")
    made: Callable[..., Attacker] = loaded
    if getattr(loaded, "id", "") != point.name:
        raise ConfigError(f"{where}: its class calls itself {getattr(loaded, 'id', '')!r}")
    return made


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown distribution"
