"""Columns of text of a whole data set, held in little memory: a Python string takes 50 bytes before its first letter, and there may be millions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Texts", "shared_strings"]


def shared_strings(column: pa.ChunkedArray) -> list[str | None]:
    """The values of a column in which few different ones stand, each of them once in memory.

    >>> import pyarrow as pa
    >>> shared_strings(pa.chunked_array([["a", None], ["a"]]))
    ['a', None, 'a']
    """
    found: list[str | None] = []
    known: dict[str, str] = {}
    for chunk in column.chunks:
        encoded = chunk.dictionary_encode()
        words = [known.setdefault(word, word) for word in encoded.dictionary.to_pylist()]
        found.extend(None if place is None else words[place] for place in encoded.indices.to_pylist())
    return found


class Texts(Sequence["str | None"]):
    """The values of a column as Arrow keeps them, made strings only when they are asked for.

    Args:
        column: of strings.
    """

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str | None: ...

    @overload
    def __getitem__(self, place: slice) -> Texts: ...

    def __getitem__(self, place: int | slice) -> str | Texts | None:
        """One value, or some of them in the same form."""
        if isinstance(place, slice):
            return self.take(range(*place.indices(len(self))))
        text: str | None = self.column[place].as_py()
        return text

    def __iter__(self) -> Iterator[str | None]:
        for batch in self.column.chunks:
            for start in range(0, len(batch), 1024):
                yield from batch.slice(start, 1024).to_pylist()

    def take(self, places: Sequence[int]) -> Texts:
        """Some of them, in another order."""
        import pyarrow as pa

        return Texts(self.column.take(pa.array(places, pa.int64())))
