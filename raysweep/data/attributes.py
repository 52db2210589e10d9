"""Which groups people belong to: from the JSON facts of each face to a few columns of words.

A fact becomes a column when it says something of the person: its name is one of `GROUP_NAMES`, or it is the same in all photographs of
everybody. It needs two to twelve values; `age` in years becomes bands. Facts of the photograph (pose, light, split) stay out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raysweep.errors import DataError
from raysweep.schema import StringArray

__all__ = ["GROUP_NAMES", "MAX_COLUMNS", "MAX_VALUES", "attribute_columns"]

GROUP_NAMES = frozenset(
    {
        "age", "age_band", "age_group", "ethnicity", "fitzpatrick", "gender", "group", "male", "race", "sex",
        "skin", "skin_tone", "skin_type", "young",
    }
)  # fmt: skip
"""Names that count as groups even where a label is not the same in all photographs of a person; compared in lower case."""
TECHNICAL = frozenset({"condition", "landmark_picture", "mask_problem", "problem", "split", "synthetic", "usage"})
MAX_VALUES = 12
MAX_COLUMNS = 8
MAX_WORD = 60
AGE_BANDS = (18, 30, 45, 60)


def attribute_columns(facts: Sequence[str | None], identity: Sequence[str | None]) -> dict[str, StringArray]:
    """Columns of words, one a group attribute, sorted by name; at most `MAX_COLUMNS`.

    Args:
        facts: N JSON objects or None (column `attributes` of a shard); an object inside is read as further facts.
        identity: N names, None where unknown.

    Returns:
        name -> (N,) strings, empty where not known.

    Raises:
        DataError: a text that is no JSON object.

    >>> attribute_columns(['{"gender": "f", "yaw": 3.1}', None], ["a", "b"])["gender"].tolist()
    ['f', '']
    """
    columns: dict[str, _Column] = {}
    for row, text in enumerate(facts):
        for name, value in _flat(text, row).items():
            word = _word(name, value)
            if word:
                columns.setdefault(name, _Column(len(facts))).put(row, word)
    kept = [name for name in sorted(columns) if _is_group(name, columns[name], identity)]
    return {name: columns[name].words() for name in kept[:MAX_COLUMNS]}


class _Column:
    """Words of one fact, a byte a row: a data set may have millions of rows. With too many values it keeps nothing more."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._codes = np.zeros(0, dtype=np.uint8)
        self._known: dict[str, int] = {"": 0}

    @property
    def values(self) -> int:
        """How many different words, counted up to one more than is of use."""
        return len(self._known) - 1

    def put(self, row: int, word: str) -> None:
        if self.values > MAX_VALUES:
            return
        if not len(self._codes):
            self._codes = np.zeros(self._rows, dtype=np.uint8)
        self._codes[row] = self._known.setdefault(word, len(self._known))
        if self.values > MAX_VALUES:
            self._codes = np.zeros(0, dtype=np.uint8)

    def items(self) -> Iterator[tuple[int, int]]:
        """Row and code of each word."""
        rows = np.flatnonzero(self._codes)
        return zip(rows.tolist(), self._codes[rows].tolist(), strict=True)

    def words(self) -> StringArray:
        return np.array(list(self._known), dtype=np.str_)[self._codes]


def _flat(text: str | None, row: int) -> dict[str, Any]:
    if not text:
        return {}
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"row {row}: attributes are not JSON ({error})") from error
    if not isinstance(content, Mapping):
        raise DataError(f"row {row}: attributes are not a JSON object")
    inner = {name: value for item in content.values() if isinstance(item, Mapping) for name, value in item.items()}
    return {**inner, **{name: value for name, value in content.items() if not isinstance(value, Mapping)}}


def _word(name: str, value: object) -> str:
    """A value as a word; empty when it is none (a measured number, a list, nothing)."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.lower() == "age":
        return _age_band(value)
    if isinstance(value, str | int):
        return " ".join(str(value).split())[:MAX_WORD]
    return ""


def _age_band(value: object) -> str:
    """`0-17`, `18-29`, `30-44`, `45-59`, `60+`; a word stays a word."""
    try:
        years = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return " ".join(value.split())[:MAX_WORD] if isinstance(value, str) else ""
    if not math.isfinite(years) or years < 0:
        return ""
    lower = max((edge for edge in AGE_BANDS if years >= edge), default=0)
    upper = next((edge for edge in AGE_BANDS if years < edge), None)
    return f"{lower}+" if upper is None else f"{lower}-{upper - 1}"


def _is_group(name: str, column: _Column, identity: Sequence[str | None]) -> bool:
    if name.lower() in TECHNICAL or not 2 <= column.values <= MAX_VALUES:
        return False
    if name.lower() in GROUP_NAMES:
        return True
    of_person: dict[str, int] = {}
    photographs = 0
    for row, word in column.items():
        person = identity[row]
        if person is not None:
            photographs += 1
            if of_person.setdefault(person, word) != word:
                return False
    # With one photograph of each person everything is the same in all photographs.
    return bool(of_person) and len(of_person) < photographs
