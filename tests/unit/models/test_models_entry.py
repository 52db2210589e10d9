from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysweep.errors import ModelError
from raysweep.models.architectures import known_architectures
from raysweep.models.entry import catalogue, parse_entries
from raysweep.models.fetch import check_url
from raysweep.schema import EXPRESSIONS


def base(**fields: object) -> dict[str, object]:
    return {"name": "a", "task": "embedder", "file": "a.onnx", "licence": "MIT", "format": "onnx"} | fields


def test_the_catalogue_is_valid_and_says_how_to_get_every_file() -> None:
    entries = catalogue()
    assert len(entries) > 25
    for entry in entries:
        assert entry.builtin or entry.url or entry.archive or entry.hand, entry.name
        assert entry.licence
        assert entry.where
        if entry.task in ("embedder", "expression") and entry.architecture:
            assert entry.architecture in known_architectures()


def test_every_address_of_the_catalogue_may_be_fetched() -> None:
    for entry in catalogue():
        for url in (entry.url, entry.archive.url if entry.archive else None):
            if url is not None:
                check_url(url)


def test_a_file_name_belongs_to_one_entry() -> None:
    names = [name for entry in catalogue() for name in (entry.file, *entry.aliases)]
    assert len(names) == len(set(names))


def test_checksums_in_file_names_agree() -> None:
    stated = [(re.search(r"-([0-9a-f]{8})\.pth$", entry.file), entry.sha256) for entry in catalogue()]
    checked = [(match.group(1), sha256) for match, sha256 in stated if match]
    assert len(checked) >= 4
    assert all(sha256 is not None and sha256.startswith(prefix) for prefix, sha256 in checked)


def test_insightface_weights_are_marked_non_commercial() -> None:
    assert all(entry.non_commercial for entry in catalogue() if "insightface" in entry.licence)


def test_all_problems_are_told_at_once() -> None:
    content = {
        "entries": [
            base(sise=3),
            base(name="b", sha256="XYZ"),
            base(name="c", task="expression", output={"logits": True}, classes=["anger", *EXPRESSIONS[1:]]),
            base(name="d", input={"colour": "grey"}),
            base(name="d", format="torch-state-dict"),
        ]
    }
    with pytest.raises(ModelError) as caught:
        parse_entries(content, "models.yaml")
    text = str(caught.value)
    assert "entry 1 (a): unknown key 'sise' (did you mean 'size'?)" in text
    assert "entry 2 (b): sha256" in text
    assert "unknown class 'anger' (did you mean 'angry'?)" in text
    assert "entry 4 (d): input: mean and std need 1 number(s) for colour grey" in text
    assert "entry 5 (d): entry: a torch state dict needs its architecture" in text
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize("content", [None, [], {"entry": []}, {"entries": {}}, {"entries": [3]}])
def test_another_shape_is_refused(content: object) -> None:
    with pytest.raises(ModelError, match=r"models.yaml"):
        parse_entries(content, "models.yaml")


def test_the_same_name_twice_is_refused() -> None:
    with pytest.raises(ModelError, match="'a' stands 2 times"):
        parse_entries({"entries": [base(), base()]}, "x")


@pytest.mark.parametrize("name", ["../a.onnx", "/a.onnx", "sub/a.onnx", "C:\\a.onnx"])
def test_a_file_is_a_bare_name(name: str) -> None:
    with pytest.raises(ModelError, match="file"):
        parse_entries({"entries": [base(file=name)]}, "x")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=5), c, max_size=3),
        max_leaves=8,
    )
)
def test_any_content_gives_entries_or_a_model_error(raw: object) -> None:
    try:
        parse_entries({"entries": [raw]}, "x")
    except ModelError:
        return
    raise AssertionError("random content became an entry")
