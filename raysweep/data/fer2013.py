"""FER-2013 as Kaggle gave it out: a CSV with 48 x 48 grey values as text. It has no identities.

Source: I. Goodfellow et al., "Challenges in Representation Learning", ICML 2013 workshop. The folder form
(`train/happy/*.jpg`) is read by `raysweep.data.folder`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raysweep.data.files import ADAPTER_VERSION, blank_row, files_digest, read_text
from raysweep.errors import DataError
from raysweep.schema import EXPRESSIONS, ByteArray

__all__ = ["FER2013", "LICENCE", "SIDE", "is_fer2013_csv"]

SIDE = 48
LICENCE = "FER-2013, ICML 2013 challenge: no licence stated; research use"

_GREY = {str(value): value for value in range(256)}  # a look-up is several times faster than int() and as strict


def is_fer2013_csv(path: Path) -> bool:
    """Whether the first line of a file names the column `pixels`."""
    try:
        with path.open("rb") as file:
            first = file.readline(1000)
    except OSError:
        return False
    return b"pixels" in [column.strip().strip(b'"').lower() for column in first.split(b",")]


class FER2013:
    """Rows of `fer2013.csv` (emotion, pixels, Usage), `icml_face_data.csv`, or the challenge's train.csv and test.csv.

    A line whose pixels are not 2304 numbers from 0 to 255 keeps its row, with an empty image and the attribute `problem`.

    Args:
        path: the CSV file.

    Raises:
        DataError: no column `pixels`, no lines, or not a CSV file.
    """

    kind = "fer2013"
    licence = LICENCE
    synthetic = False

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.name = "fer2013"
        self.notes: tuple[str, ...] = ()
        if not is_fer2013_csv(self.path):
            raise DataError(
                f"{path}: no column `pixels` in its first line; expected the columns emotion, pixels, Usage"
            )
        self._length = sum(1 for _ in self._lines())
        if not self._length:
            raise DataError(f"{path}: no line after the header")

    def __len__(self) -> int:
        return self._length

    def digest(self) -> str:
        """Changes when the file changes."""
        return files_digest(self.path.parent, [self.path.name], self.kind, ADAPTER_VERSION)

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a line; `face_id` is the line's number from 0, six digits."""
        for number, line in enumerate(self._lines()):
            facts: dict[str, object] = {}
            if line.get("usage"):
                facts["usage"] = line["usage"]
            row = blank_row(f"{number:06d}", f"row {number}")
            emotion = line.get("emotion", "")
            if emotion.isdecimal() and int(emotion) < len(EXPRESSIONS):
                row["expression"] = EXPRESSIONS[int(emotion)]
            elif emotion:
                facts["problem"] = f"emotion {emotion[:20]!r} is not 0 to {len(EXPRESSIONS) - 1}"
            pixels = _pixels(line.get("pixels", ""))
            if pixels is None:
                facts["problem"] = f"pixels are not {SIDE * SIDE} numbers from 0 to 255"
            else:
                row["image"] = np.repeat(pixels, 3).tobytes()
                row["height"] = row["width"] = SIDE
            row["attributes"] = json.dumps(facts, sort_keys=True) if facts else None
            yield row

    def _lines(self) -> Iterator[dict[str, str]]:
        reader = csv.reader(read_text(self.path))
        try:
            header = [column.strip().lower() for column in next(reader, [])]
            for line in reader:
                if line:
                    yield {key: value.strip() for key, value in zip(header, line, strict=False)}
        except csv.Error as error:
            raise DataError(f"{self.path}, line {reader.line_num}: not a CSV file ({error})") from error


def _pixels(text: str) -> ByteArray | None:
    try:
        values = bytes(map(_GREY.__getitem__, text.split()))
    except KeyError:
        return None
    return np.frombuffer(values, dtype=np.uint8) if len(values) == SIDE * SIDE else None
