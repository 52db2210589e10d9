"""Which anonymizers there are: the built-in ones, those of installed plug-ins, those registered from Python, and one in a file.

A plug-in is an installed distribution with an entry point in the group `raysweep.anonymizers`; the entry point's name is the
anonymizer's name, `vendor/name`. Nothing is imported before it is asked for, so that a listing is quick and a broken plug-in harms
nobody else. A file is taken from the command line only, never from a shared YAML: reading a search space must not run code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

from raysweep.anonymizers.base import Anonymizer
from raysweep.entry_points import entry_points
from raysweep.errors import ConfigError, nearest
from raysweep.search.parameters import Value

__all__ = ["GROUP", "Listing", "get_anonymizer", "list_anonymizers", "register_anonymizer", "trains_in_stages"]

GROUP = "raysweep.anonymizers"
"""The entry-point group of plug-ins."""

BUILT_IN: dict[str, str] = {
    "blackout": "raysweep.anonymizers.blackout:Blackout",
    "blur": "raysweep.anonymizers.blur:GaussianBlur",
    "ciagan": "raysweep.anonymizers.ciagan.anonymizer:CIAGAN",
    "deepprivacy2": "raysweep.anonymizers.deepprivacy2.anonymizer:DeepPrivacy2",
    "ganonymization": "raysweep.anonymizers.ganonymization.anonymizer:GANonymization",
    "identity": "raysweep.anonymizers.identity:Identity",
    "k-same": "raysweep.anonymizers.ksame:KSame",
    "pixelate": "raysweep.anonymizers.pixelate:Pixelate",
}

_registered: dict[str, type[Anonymizer]] = {}


@dataclass(frozen=True)
class Listing:
    """One line of `raysweep ls anonymizers`.

    Attributes:
        name: what to call it by.
        origin: `built-in`, `registered`, or distribution and version of the plug-in.
        target: `module:Class`.
        error: why it cannot be used, empty when it can (or has not been imported yet).
    """

    name: str
    origin: str
    target: str
    error: str = ""


def register_anonymizer(cls: type[Anonymizer]) -> type[Anonymizer]:
    """Make a class known by its `name` in this process; usable as a decorator.

    Registering the same class again (a notebook cell run twice) replaces it.

    Raises:
        ConfigError: not an `Anonymizer`, no name, or the name belongs to another one.
    """
    _checked(cls, repr(cls))
    known = _registered.get(cls.name)
    if known is not None and _target(known) != _target(cls):
        raise ConfigError(f"anonymizer {cls.name!r} is registered twice: by {_target(known)} and by {_target(cls)}")
    others = [entry for entry in list_anonymizers() if entry.name == cls.name and entry.origin != "registered"]
    if others:
        raise ConfigError(
            f"anonymizer {cls.name!r} of {_target(cls)} has the name of {others[0].target} ({others[0].origin}); rename one"
        )
    _registered[cls.name] = cls
    return cls


def list_anonymizers(check: bool = False) -> list[Listing]:
    """All known anonymizers, by name.

    Args:
        check: import each one, so that a plug-in that cannot be used says why. Without it nothing is imported.
    """
    listed = [Listing(name, "built-in", target) for name, target in BUILT_IN.items()]
    listed += [Listing(name, "registered", _target(cls)) for name, cls in _registered.items()]
    listed += [Listing(point.name, _origin(point), point.value) for point in entry_points(group=GROUP)]
    listed.sort(key=lambda entry: (entry.name, entry.origin))
    return [_with_error(entry) for entry in listed] if check else listed


def get_anonymizer(name: str, allow_file: bool = False) -> type[Anonymizer]:
    """The class called `name`.

    Args:
        name: a name of `list_anonymizers`, or `file:./my_blur.py:MyBlur`.
        allow_file: the name was typed on the command line (or in Python) by the user, so a file may be run.

    Raises:
        ConfigError: unknown, ambiguous or broken; says which and why.

    >>> get_anonymizer("blur").name
    'blur'
    """
    if name.startswith("file:"):
        if not allow_file:
            raise ConfigError(
                f"anonymizer {name!r}: a file may only be named on the command line, not in a YAML file or a record"
            )
        return _from_file(name)
    plugins = [point for point in entry_points(group=GROUP) if point.name == name]
    owners = [_origin(point) for point in plugins]
    owners += ["built-in"] * (name in BUILT_IN) + ["registered"] * (name in _registered)
    if len(owners) > 1:
        raise ConfigError(f"anonymizer {name!r} exists more than once: in {' and in '.join(owners)}; uninstall one")
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        return _from_target(BUILT_IN[name])
    if plugins:
        return _from_entry_point(plugins[0])
    known = sorted({entry.name for entry in list_anonymizers()})
    raise ConfigError(f"unknown anonymizer {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def trains_in_stages(name: str, setting: Mapping[str, Value]) -> bool:
    """Whether the training of a setting can be divided among the rungs of a search; not where it only loads what was trained before.

    Args:
        name: of an anonymizer, or a file that the user named.
        setting: of one trial.

    >>> trains_in_stages("ganonymization", {"steps": 100}), trains_in_stages("ganonymization", {"steps": 0})
    (True, False)
    """
    try:
        return get_anonymizer(name, allow_file=True)(**setting).resumable_steps() > 0
    except Exception:  # an anonymizer is anybody's code: what is wrong with a setting is the reason why its trial fails
        return False


def _target(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown distribution"


def _with_error(entry: Listing) -> Listing:
    try:
        get_anonymizer(entry.name)
    except ConfigError as error:
        return Listing(entry.name, entry.origin, entry.target, str(error))
    return entry


def _from_target(target: str) -> type[Anonymizer]:
    module, _, attribute = target.partition(":")
    return _checked(getattr(importlib.import_module(module), attribute), target)


def _from_entry_point(point: EntryPoint) -> type[Anonymizer]:
    where = f"plug-in {point.name!r} of {_origin(point)} ({point.value})"
    if "/" not in point.name:
        raise ConfigError(f"{where}: the name of a plug-in is vendor/name")
    try:
        loaded = point.load()
    except Exception as error:  # a foreign module may fail in any way; its failure is the message
        raise ConfigError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error
    cls = _checked(loaded, where)
    if cls.name != point.name:
        raise ConfigError(f"{where}: its class calls itself {cls.name!r}")
    return cls


def _from_file(name: str) -> type[Anonymizer]:
    path_text, _, attribute = name.removeprefix("file:").rpartition(":")
    path = Path(path_text)
    if not path_text or not attribute:
        raise ConfigError(f"anonymizer {name!r}: write file:PATH.py:CLASS")
    if not path.is_file():
        raise ConfigError(f"anonymizer {name!r}: no such file: {path}")
    try:
        module = _module_of(path)
    except Exception as error:  # the user's own file may fail in any way
        raise ConfigError(f"anonymizer {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(f"anonymizer {name!r}: {path} has no class {attribute!r}{nearest(attribute, known)}")
    return _checked(getattr(module, attribute), name)


def _module_of(path: Path) -> ModuleType:
    """Run a file as a module, once per content: two spellings of a path give one class."""
    digest = hashlib.blake2b(path.resolve().as_posix().encode() + path.read_bytes(), digest_size=8).hexdigest()
    name = f"raysweep_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _checked(loaded: object, where: str) -> type[Anonymizer]:
    if not (isinstance(loaded, type) and issubclass(loaded, Anonymizer)):
        raise ConfigError(f"{where} is not a subclass of raysweep.anonymizers.base.Anonymizer")
    missing: Sequence[str] = sorted(getattr(loaded, "__abstractmethods__", frozenset()))
    if missing:
        raise ConfigError(f"{where} does not implement {', '.join(missing)}")
    if not isinstance(getattr(loaded, "name", None), str) or not loaded.name:
        raise ConfigError(f"{where} has no name")
    return loaded
