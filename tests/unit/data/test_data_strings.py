"""Text columns in little memory say what the plain lists say."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.data.strings import Texts, shared_strings

CHUNKS = st.lists(st.lists(st.text(max_size=3) | st.none(), max_size=5), max_size=4)


@given(chunks=CHUNKS)
def test_the_same_values(chunks: list[list[str | None]]) -> None:
    column, plain = pa.chunked_array(chunks, pa.string()), [value for chunk in chunks for value in chunk]
    texts = Texts(column)
    assert shared_strings(column) == plain
    assert len(texts) == len(plain)
    assert list(texts) == plain
    assert [texts[place] for place in range(len(plain))] == plain
    assert list(texts[1:3]) == plain[1:3]
    assert list(texts[::-2]) == plain[::-2]
    with pytest.raises(IndexError):
        texts[len(plain)]


def test_a_word_is_there_once() -> None:
    first, again, nothing = shared_strings(pa.chunked_array([["one word"], ["one word", None]]))
    assert first is again
    assert nothing is None


def test_many_rows_in_one_chunk() -> None:
    plain = [str(number) for number in range(3000)]
    assert list(Texts(pa.chunked_array([plain]))) == plain
