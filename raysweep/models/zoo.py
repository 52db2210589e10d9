"""The zoo: which weights are at hand, checked against what is known of them, and the models made of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysweep.errors import ModelError, nearest
from raysweep.models.entry import Entry, Task, catalogue, read_entries
from raysweep.models.loading import file_digest
from raysweep.models.teachers import teacher_entries

if TYPE_CHECKING:
    import torch

    from raysweep.models.base import Embedder, ExpressionModel

__all__ = [
    "ASSETS",
    "CHECKSUMS",
    "Found",
    "Zoo",
    "open_zoo",
    "weights_folder",
]

ASSETS = Path(__file__).resolve().parent.parent / "assets"
CHECKSUMS = "checksums.json"
"""In a weights folder: sha256 of files whose authors publish none, as first fetched."""
SUFFIXES = frozenset({".onnx", ".safetensors", ".pt", ".pth", ".ckpt", ".task"})
LOADABLE = frozenset({".onnx", ".safetensors", ".pt"})
DEPTH = 3
"""Folders below the weights folder that are looked into: packs come with one of their own."""


def weights_folder() -> Path:
    """Where weights lie and are fetched to: `RAYSWEEP_MODELS`, or the user's data folder."""
    given = os.environ.get("RAYSWEEP_MODELS")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("raysweep", appauthor=False)) / "models"


@dataclass(frozen=True)
class Found:
    """An entry whose file is at hand and has the right bytes.

    Attributes:
        entry: the specification.
        path: the file.
        sha256: of the file as it is, 64 digits.
    """

    entry: Entry
    path: Path
    sha256: str

    @property
    def name(self) -> str:
        """Of the entry."""
        return self.entry.name


@dataclass(frozen=True)
class Zoo:
    """Weights at hand and weights known; open it with `open_zoo`.

    Pickled as (folder, names): a worker opens it again on its own disk and notices when the bytes differ there.

    Attributes:
        source: folder or single file beside the built-in weights.
        entries: all that is known, in the order of preference within a task.
        found: what is at hand, by name.
        unknown: weight files that no entry describes; never used.
        synthetic: True or False once `for_data` restricted it to one kind of faces, else None.
        reserved: lineage of the expression teacher; what shares it does not judge.
    """

    source: Path
    entries: tuple[Entry, ...]
    found: dict[str, Found]
    unknown: tuple[Path, ...] = ()
    synthetic: bool | None = None
    reserved: frozenset[str] = frozenset()
    names: tuple[str, ...] | None = field(default=None, repr=False)

    def __reduce__(self) -> tuple[Callable[..., Zoo], tuple[Any, ...]]:
        digests = {name: item.sha256 for name, item in self.found.items()}
        return _reopen, (str(self.source), self.names, self.synthetic, self.reserved, digests)

    # ------------------------------------------------------------------ what is there

    def of(self, task: Task) -> list[Found]:
        """What is at hand for a task, the preferred first."""
        return [self.found[entry.name] for entry in self.entries if entry.task == task and entry.name in self.found]

    def get(self, name: str) -> Found:
        """One entry by name.

        Raises:
            ModelError: unknown name, or its file is not at hand; says where to get it.
        """
        if name in self.found:
            return self.found[name]
        known = [entry.name for entry in self.entries]
        if name not in known:
            raise ModelError(f"unknown model {name!r}{nearest(name, known)}; `raysweep ls models` lists them")
        entry = self.entries[known.index(name)]
        raise ModelError(f"model {name!r}: {entry.file} is not in {self.source}. Get it: {entry.where}")

    def detector(self) -> Found | None:
        """The best face detector with five points."""
        return next(iter(self.of("detector")), None)

    def landmarks(self) -> Found | None:
        """The best dense landmark model."""
        return next(iter(self.of("landmarks")), None)

    def parsing(self) -> Found | None:
        """The best face parsing model."""
        return next(iter(self.of("parsing")), None)

    def perceptual(self, family: str = "alex") -> Found | None:
        """The backbone of LPIPS of one family (`alex`, `squeeze`, `vgg`): values of different ones are not comparable."""
        return next((item for item in self.of("perceptual") if item.entry.family == family), None)

    def generator(self, family: str) -> Found:
        """The preferred weights of a published anonymizer that are at hand.

        Raises:
            ModelError: there are none; says what to put where.
        """
        found = next((item for item in self.of("generator") if item.entry.family == family), None)
        if found is not None:
            return found
        choices = [entry for entry in self.entries if entry.task == "generator" and entry.family == family]
        if not choices:
            known = sorted({entry.family for entry in self.entries if entry.task == "generator"})
            raise ModelError(f"no generator of family {family!r}{nearest(family, known)}; known: {', '.join(known)}")
        lines = [
            f"no {family} weights at hand in {self.source}. Put one of these files there, or give --models FOLDER:"
        ]
        raise ModelError("\n".join([*lines, *(f"  {entry.file}: {entry.where}" for entry in choices)]))

    def require(self, task: Task) -> Found:
        """The best weights for a task that may be used as a judge, or an explanation.

        Raises:
            ModelError: there are none; says what to put where.
        """
        usable = self.judges(task)
        if usable:
            return usable[0]
        raise ModelError(self._missing(task))

    def _missing(self, task: Task) -> str:
        builtin = bool(self.synthetic)
        choices = [e for e in self.entries if e.task == task and e.builtin == builtin and e.role != "teacher"]
        if builtin:
            names = ", ".join(entry.file for entry in choices)
            return f"no {task} weights for synthetic faces: {names} should lie in {ASSETS}; install raysweep again"
        why = " (the built-in ones judge synthetic faces only)" if self.synthetic is False else ""
        lines = [f"no {task} weights at hand in {self.source}{why}."]
        lines.append("Put one of these files there, or give --models FOLDER, or set RAYSWEEP_MODELS:")
        # First what one command fetches and anyone may use.
        choices.sort(key=lambda entry: (not entry.where.startswith("python"), entry.non_commercial))
        lines += [f"  {entry.file}: {entry.where}" for entry in choices]
        if self.unknown:
            shown = ", ".join(path.name for path in self.unknown[:5])
            lines.append(
                f"Found but not known: {shown}. Describe your own files in models.yaml (grammar: raysweep/models/zoo.yaml)."
            )
        return "\n".join(lines)

    def report(self) -> list[str]:
        """What was found, and what was seen but not used: one line each."""
        lines = [
            f"{name}: {item.path.name} ({item.entry.task}, {item.entry.licence})" for name, item in self.found.items()
        ]
        lines += [
            f"not used: {path}: no entry describes it; add one to models.yaml beside it (grammar: raysweep/models/zoo.yaml)"
            for path in self.unknown
        ]
        return lines

    def digest(self, names: Iterable[str] | None = None) -> str:
        """sha256 over (name, sha256, input and output specification) of some weights at hand, or of all; 64 digits."""
        wanted = sorted(self.found if names is None else set(names))
        rows = []
        for name in wanted:
            item = self.get(name)
            how = item.entry.model_dump(
                include={"input", "output", "classes", "architecture", "arguments", "key", "prefix"}, mode="json"
            )
            rows.append([name, item.sha256, how])
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def lineage(self, name: str) -> frozenset[str]:
        """The name, and all weights that it shares with or descends from, through all known entries."""
        known = {entry.name: entry.lineage for entry in self.entries}
        seen: set[str] = set()
        open_names = [name]
        while open_names:
            current = open_names.pop()
            if current not in seen:
                seen.add(current)
                open_names += known.get(current, ())
        return frozenset(seen)

    # ------------------------------------------------------------------ restrict

    def only(self, names: Collection[str]) -> Zoo:
        """The same zoo with some of the weights at hand.

        Raises:
            ModelError: a name that is not at hand.
        """
        kept = {self.get(name).name for name in names}
        found = {name: item for name, item in self.found.items() if name in kept}
        return replace(self, found=found, names=tuple(sorted(found)))

    def for_data(
        self, synthetic: bool, needs: Sequence[Task] = ("embedder", "expression"), reserve: bool = True
    ) -> Zoo:
        """The weights that may be used with drawn faces, or with photographs. Never the ones for the others.

        Args:
            synthetic: drawn, not photographed.
            needs: tasks that must have weights; `("detector",)` to prepare photographs, `()` to ask for nothing.
            reserve: set the expression teacher of loss terms aside as long as another judge remains, so that every anonymizer,
                trained or not, has the same judges. An embedder that teaches may still attack: a further attacker can only
                lower the privacy found, and one of other descent always remains beside it.

        Raises:
            ModelError: a needed task has none; says what to put where.
        """
        # LPIPS, landmarks and the like know nothing of who is judged, and serve both.
        neutral = {"perceptual", "detector", "landmarks", "parsing", "generator", "attributes", "backbone"}
        kept = {
            name: item
            for name, item in self.found.items()
            if item.entry.for_drawn == synthetic or (synthetic and item.entry.task in neutral)
        }
        zoo = Zoo(self.source, self.entries, kept, self.unknown, synthetic, names=tuple(sorted(kept)))
        if reserve:
            _, teacher = teacher_entries(zoo)
            zoo = replace(zoo, reserved=zoo.lineage(teacher.name) if teacher is not None else frozenset())
        problems = [
            zoo._missing(task)
            for task in needs
            if not (zoo.judges(task) if task in ("embedder", "expression") else zoo.of(task))
        ]
        if problems:
            raise ModelError("\n".join(problems))
        return zoo

    # ------------------------------------------------------------------ make models

    def judges(self, task: Task, avoid: Collection[str] = ()) -> list[Found]:
        """Weights at hand that may judge: not kept for teaching, of no common descent with `reserved` or `avoid`."""
        barred = self.reserved | frozenset(avoid)
        return [item for item in self.of(task) if item.entry.role != "teacher" and not self.lineage(item.name) & barred]

    def embedders(
        self, device: str | torch.device = "cpu", threads: int | None = 1, avoid: Collection[str] = ()
    ) -> list[Embedder]:
        """Every identity judge at hand, loaded and checked.

        Args:
            device: where to compute.
            threads: CPU threads of one ONNX session, the worker's share.
            avoid: lineage of the trial's teachers.
        """
        from raysweep.models.embedders import load_embedder

        return [
            load_embedder(item, device, threads, self.lineage(item.name)) for item in self.judges("embedder", avoid)
        ]

    def expression_models(
        self, device: str | torch.device = "cpu", threads: int | None = 1, avoid: Collection[str] = ()
    ) -> list[ExpressionModel]:
        """Every expression judge at hand, loaded and checked; arguments as in `embedders`."""
        from raysweep.models.expression import load_expression

        return [
            load_expression(item, device, threads, self.lineage(item.name)) for item in self.judges("expression", avoid)
        ]


def _reopen(
    source: str,
    names: tuple[str, ...] | None,
    synthetic: bool | None,
    reserved: frozenset[str],
    digests: dict[str, str],
) -> Zoo:
    """Open again what was pickled, perhaps on another machine.

    Raises:
        ModelError: weights that were there are missing here, or have other bytes.
    """
    zoo = open_zoo(source, missing_ok=True)
    for name, digest in digests.items():
        here = zoo.found.get(name)
        if here is None:
            raise ModelError(
                f"model {name!r} is not in {source} on this machine; put the same weights at the same path on every node"
            )
        if here.sha256 != digest:
            raise ModelError(
                f"model {name!r} differs on this machine: {here.path} has sha256 {here.sha256}, the driver has {digest}"
            )
    found = {name: zoo.found[name] for name in zoo.found if name in digests}
    return Zoo(zoo.source, zoo.entries, found, zoo.unknown, synthetic, reserved, names)


def open_zoo(models: str | Path | None = None, missing_ok: bool = False) -> Zoo:
    """Look at the built-in weights and at a folder, and check every known file against its sha256.

    Args:
        models: folder (or one weight file) with weights; None for `weights_folder()`, which may be missing.
        missing_ok: a given folder may be missing too.

    Raises:
        ModelError: no such folder; a known file name with other bytes; a wrong models.yaml (all its problems at once).
    """
    source = weights_folder() if models is None else Path(models).expanduser()
    source = source.absolute()
    if not source.exists() and models is not None and not missing_ok:
        raise ModelError(f"--models {models}: no such folder or file")
    files, own_file = _weight_files(source)
    own = read_entries(own_file) if own_file else ()
    known = _catalogue()
    taken = {entry.name for entry in own}
    replaced = [entry.name for entry in known if entry.name in taken]
    if replaced:
        raise ModelError(f"{own_file}: the name {replaced[0]!r} is taken by raysweep's own zoo; choose another")
    own_names = {name for entry in own for name in (entry.file, *entry.aliases)}

    found: dict[str, Found] = {}
    for entry in known:
        path = ASSETS / entry.file
        if entry.builtin and path.is_file():
            found[entry.name] = Found(entry, path, file_digest(path))
    unknown: list[Path] = []
    recorded = _recorded(source if source.is_dir() else source.parent)
    problems: list[str] = []
    by_name: dict[str, list[Entry]] = {}
    for entry in (*own, *(item for item in known if not item.builtin)):
        for name in (entry.file, *entry.aliases):
            # A user's own description of a file wins over ours.
            if entry.name in taken or name not in own_names:
                by_name.setdefault(name, []).append(entry)
    for path in files:
        candidates = by_name.get(path.name, [])
        if not candidates:
            if path.suffix in LOADABLE:
                unknown.append(path)
            continue
        digest = file_digest(path)
        matching = [entry for entry in candidates if digest.startswith(entry.sha256 or recorded.get(path.name, ""))]
        for entry in matching:
            found.setdefault(entry.name, Found(entry, path, digest))
        if not matching:
            wanted = candidates[0].sha256 or recorded.get(path.name, "")
            problems.append(
                f"{path}: has sha256 {digest}, but {candidates[0].name} has {wanted}. Damaged or another file: "
                f"delete it and get it again ({candidates[0].where}), or, if it is yours, describe it in {path.parent / 'models.yaml'}"
            )
    lost = [entry for entry in own if entry.name not in found]
    problems += [f"{own_file}: {entry.name}: its file {entry.file!r} is not beside it" for entry in lost]
    if problems:
        raise ModelError("\n".join(problems))
    entries = tuple(sorted((*own, *known), key=lambda entry: (entry.task, not entry.builtin, entry.rank, entry.name)))
    return Zoo(source, entries, found, tuple(unknown))


@lru_cache(maxsize=1)
def _catalogue() -> tuple[Entry, ...]:
    return catalogue()


def _weight_files(source: Path) -> tuple[list[Path], Path | None]:
    """Weight files, shallow ones first, and the models.yaml if there is one."""
    if source.is_file():
        beside = source.parent / "models.yaml"
        return [source], beside if beside.is_file() else None
    files: list[Path] = []
    level = [source] if source.is_dir() else []
    for _ in range(DEPTH):
        deeper: list[Path] = []
        for folder in level:
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.name.startswith("."):
                    deeper.append(path)
                elif path.suffix in SUFFIXES and path.is_file():
                    files.append(path)
        level = deeper
    own = source / "models.yaml"
    return files, own if own.is_file() else None


def _recorded(folder: Path) -> dict[str, str]:
    """Checksums that `fetch` wrote down for files whose authors publish none."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; delete it to record the checksums again") from error
    if not isinstance(content, dict) or not all(
        isinstance(value, str) and len(value) == 64 for value in content.values()
    ):
        raise ModelError(f"{path}: is not a record of checksums; delete it to record them again")
    return dict(content)
