"""One entry of the zoo: a weight file, where it comes from, and how its network wants its face. The grammar of `zoo.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raysweep.errors import ModelError, nearest
from raysweep.models.base import InputSpec
from raysweep.schema import EXPRESSIONS

__all__ = ["CATALOGUE", "Archive", "Entry", "Task", "catalogue", "parse_entries"]

Task = Literal[
    "embedder", "expression", "detector", "landmarks", "parsing", "perceptual", "generator", "attributes", "backbone"
]
Format = Literal["onnx", "safetensors", "torch-state-dict", "mediapipe-task"]
CATALOGUE = Path(__file__).with_name("zoo.yaml")
MAX_YAML = 2**20

FileName = Annotated[str, Field(pattern=r"^[^/\\:\x00]+$", max_length=200)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Strict):
    """A zip that holds the file.

    Attributes:
        url: where it lies.
        size: bytes, sha256: digest; None when not known.
        member: base name of the file in the zip; None when it is the entry's own.
    """

    url: str
    size: Positive | None = None
    sha256: Digest | None = None
    member: FileName | None = None


class _Input(_Strict):
    size: Positive = 112
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (127.5, 127.5, 127.5)
    region: tuple[float, float, float, float] = (0.0, 0.0, 112.0, 112.0)
    layout: Literal["nchw", "nhwc"] = "nchw"
    batch: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> _Input:
        channels = 1 if self.colour == "grey" else 3
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(f"mean and std need {channels} number(s) for colour {self.colour}")
        if any(value <= 0 for value in self.std):
            raise ValueError("std must be above 0")
        x0, y0, x1, y1 = self.region
        if x1 <= x0 or y1 <= y0 or abs((x1 - x0) - (y1 - y0)) > 1e-6:
            raise ValueError(f"region {list(self.region)} is not a square (x0, y0, x1, y1)")
        return self


class _Output(_Strict):
    dim: Positive | None = None
    logits: bool | None = None


class Entry(_Strict):
    """A row of the zoo; `zoo.yaml` explains the fields.

    Raises:
        pydantic.ValidationError: every field that is wrong; `parse_entries` turns it into a `ModelError`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=100)]
    task: Task
    family: str = ""
    file: FileName
    aliases: tuple[FileName, ...] = ()
    builtin: bool = False
    drawn: bool = False
    url: str | None = None
    archive: Archive | None = None
    hand: str | None = None
    size: Positive | None = None
    sha256: Digest | None = None
    licence: str
    non_commercial: bool = False
    format: Format
    architecture: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    key: str | None = None
    prefix: str = ""
    input: _Input = Field(default_factory=_Input)
    output: _Output = Field(default_factory=_Output)
    classes: tuple[str, ...] = ()
    role: Literal["judge", "teacher", "any"] = "any"
    lineage: tuple[str, ...] = ()
    rank: int = 100
    reference: str = ""
    check: tuple[float, ...] = ()
    note: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Entry:
        if self.task == "expression":
            if self.output.logits is None:
                raise ValueError("an expression model must say output: {logits: true or false}")
            unknown = [name for name in self.classes if name not in (*EXPRESSIONS, "contempt")]
            if unknown:
                hint = nearest(unknown[0], EXPRESSIONS)
                raise ValueError(f"unknown class {unknown[0]!r}{hint}; known: {', '.join(EXPRESSIONS)}, contempt")
            missing = [name for name in EXPRESSIONS if self.classes.count(name) != 1]
            if missing or self.classes.count("contempt") > 1:
                raise ValueError(
                    f"classes must name each of the seven expressions once; wrong: {', '.join(missing) or 'contempt'}"
                )
        elif self.classes:
            raise ValueError("only an expression model has classes")
        if self.format == "torch-state-dict" and not self.architecture:
            raise ValueError("a torch state dict needs its architecture")
        return self

    @property
    def spec(self) -> InputSpec:
        """What the network is fed with."""
        return InputSpec(**self.input.model_dump())

    @property
    def for_drawn(self) -> bool:
        """Whether it learned from drawn faces: it then judges and teaches those, and never photographs."""
        return self.builtin or self.drawn

    @property
    def differentiable(self) -> bool:
        """Whether we hold the network itself, so that gradients can pass through it."""
        return self.format in ("safetensors", "torch-state-dict")

    @property
    def where(self) -> str:
        """How to get the file, in one line."""
        if self.builtin:
            return "comes with raysweep; install it again"
        if self.hand:
            return " ".join(self.hand.split())
        source = self.url or (self.archive.url if self.archive else "")
        if not source:
            return f"a file of your own: {self.file}"
        licence = " --accept-licence" if self.non_commercial else ""
        return f"python -m raysweep models fetch {self.name}{licence}  ({source})"


def parse_entries(content: object, where: str) -> tuple[Entry, ...]:
    """Check the content of a zoo file.

    Args:
        content: decoded YAML, `{"entries": [...]}`.
        where: for the message.

    Raises:
        ModelError: every problem of every entry, one a line.
    """
    if not isinstance(content, Mapping) or set(content) != {"entries"} or not isinstance(content["entries"], list):
        raise ModelError(f"{where}: expected `entries:` with a list; see raysweep/models/zoo.yaml for the grammar")
    known = list(Entry.model_fields)
    problems: list[str] = []
    entries: list[Entry] = []
    for number, raw in enumerate(content["entries"], start=1):
        label = f"{where}: entry {number}"
        if isinstance(raw, Mapping) and isinstance(raw.get("name"), str):
            label += f" ({raw['name']})"
        try:
            entries.append(Entry.model_validate(raw))
        except ValidationError as error:
            for item in error.errors():
                field = ".".join(str(part) for part in item["loc"]) or "entry"
                if item["type"] == "extra_forbidden":
                    problems.append(f"{label}: unknown key {field!r}{nearest(field, known)}")
                else:
                    given = "" if item["type"] in ("missing", "value_error") else f", given {item['input']!r}"
                    problems.append(f"{label}: {field}: {item['msg'].removeprefix('Value error, ')}{given}")
    names = [entry.name for entry in entries]
    problems += [
        f"{where}: the name {name!r} stands {names.count(name)} times"
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise ModelError("\n".join(problems))
    return tuple(entries)


def read_entries(path: Path) -> tuple[Entry, ...]:
    """The entries of a YAML file.

    Raises:
        ModelError: not readable, not YAML, or `parse_entries`.
    """
    try:
        if path.stat().st_size > MAX_YAML:
            raise ModelError(f"{path}: larger than {MAX_YAML} bytes, not a zoo file")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read as YAML: {error}") from error
    return parse_entries(content, str(path))


def catalogue() -> tuple[Entry, ...]:
    """The entries that come with raysweep."""
    return read_entries(CATALOGUE)
