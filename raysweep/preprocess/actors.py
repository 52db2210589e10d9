"""What runs in the actors of preparation: a slice of a shard -> columns. Models are held here, the work is in `rows` and `measure`.

Models are loaded by the first call: what fails there reaches the driver as itself, what fails in a constructor only as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysweep.engine.poison import Begun, Tally, careful
from raysweep.errors import DataError
from raysweep.preprocess.measure import measure_columns
from raysweep.preprocess.rows import KILLED, Columns, Recipe, Tools, crop_rows, problem_rows
from raysweep.preprocess.tools import open_tools
from raysweep.schema import Frame
from raysweep.storage.entries import settle_entry

if TYPE_CHECKING:
    from raysweep.models.base import Embedder, ExpressionModel
    from raysweep.models.zoo import Zoo

__all__ = ["CropRows", "MeasureCrops", "PrepareRows", "read_slice"]


def read_slice(path: str, start: int, rows: int) -> list[dict[str, Any]]:
    """Some consecutive rows of a shard, `face_schema` as dictionaries; only the row groups they lie in are read.

    Raises:
        DataError: the file cannot be read there.
        StoreError: the object store of the cache does not answer.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).exists():
        settle_entry(Path(path).parent)  # another machine wrote the shards: they lie in the object store of the cache
    found: list[dict[str, Any]] = []
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                low, high = max(start - first, 0), min(start + rows - first, size)
                if low < high:
                    found += file.read_row_group(group).slice(low, high - low).to_pylist()
                first += size
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}, rows {start} to {start + rows}: cannot be read ({error})") from error
    return found


class CropRows:
    """Work item -> columns of `crop_rows`; rows that kill their process are quarantined where a tally is kept."""

    def __init__(self, zoo: Zoo, recipe: Recipe, threads: int, tally: Tally | None = None) -> None:
        self._zoo, self._recipe, self._threads, self._tally = zoo, recipe, threads, tally

    @cached_property
    def _tools(self) -> Tools:
        _limit_threads(self._threads)
        return open_tools(self._zoo, "cpu", self._threads)

    def crop(self, what: Begun) -> Columns:
        """Some rows of a shard."""
        return crop_rows(read_slice(*what), self._recipe, self._tools)

    def give_up(self, what: Begun) -> Columns:
        """Rows that nobody survives."""
        return problem_rows(read_slice(*what), self._recipe, KILLED, "its worker was killed each time it worked on it")

    def __call__(self, item: Mapping[str, Any]) -> Columns:
        """One work item, as arrays of length 1."""
        return _joined(careful(_rows_of(item), self.crop, self.give_up, self._tally))


class MeasureCrops:
    """Columns of `crop_rows` -> the same and the models' answers."""

    def __init__(self, zoo: Zoo, frame: Frame, device: str | None, threads: int) -> None:
        """Args: device: None for CUDA where this actor sees one, else the CPU."""
        import torch

        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._zoo, self._frame, self._device, self._threads = zoo, frame, device, threads

    @cached_property
    def _models(self) -> tuple[list[Embedder], list[ExpressionModel]]:
        _limit_threads(self._threads)
        zoo, device = self._zoo, self._device
        return zoo.embedders(device, threads=self._threads), zoo.expression_models(device, threads=self._threads)

    def __call__(self, columns: Columns) -> Columns:
        """One block."""
        return measure_columns(columns, self._frame, *self._models, self._device)


class PrepareRows:
    """Both in one actor: on a machine without a GPU a second pool would only cost its start and copies of the pixels."""

    def __init__(self, zoo: Zoo, recipe: Recipe, threads: int, tally: Tally | None = None) -> None:
        self._crop = CropRows(zoo, recipe, threads)
        self._measure = MeasureCrops(zoo, recipe.frame, "cpu", threads)
        self._tally = tally

    def __call__(self, item: Mapping[str, Any]) -> Columns:
        """One work item, as arrays of length 1."""

        def work(what: Begun) -> Columns:
            return self._measure(self._crop.crop(what))

        def give_up(what: Begun) -> Columns:
            return self._measure(self._crop.give_up(what))

        return _joined(careful(_rows_of(item), work, give_up, self._tally))


def _rows_of(item: Mapping[str, Any]) -> Begun:
    return str(item["path"][0]), int(item["start"][0]), int(item["rows"][0])


def _joined(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _limit_threads(threads: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
