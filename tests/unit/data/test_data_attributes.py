"""Groups of people from the facts of each face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysweep.data.attributes import MAX_COLUMNS, attribute_columns
from raysweep.data.folder import FolderFaces
from raysweep.data.roles import face_table
from raysweep.data.synthetic import SyntheticFaces
from raysweep.errors import DataError


def _columns(*facts: object, identity: tuple[str | None, ...] | None = None) -> dict[str, list[str]]:
    texts = [None if fact is None else json.dumps(fact) for fact in facts]
    who = identity or tuple("ab"[row % 2] for row in range(len(facts)))
    return {name: words.tolist() for name, words in attribute_columns(texts, who).items()}


def test_groups_of_people_are_kept_and_facts_of_the_photograph_left_out() -> None:
    found = _columns(
        {"gender": "f", "team": "red", "yaw": 1.5, "lamp": "left", "split": "train"},
        {"gender": "m", "team": "blue", "yaw": -1.5, "lamp": "left", "split": "test"},
        {"gender": "f", "team": "red", "yaw": 0.5, "lamp": "right", "split": "train"},
        {"gender": "m", "team": "blue", "yaw": 0.1, "lamp": "right", "split": "test"},
    )
    assert found == {"gender": ["f", "m", "f", "m"], "team": ["red", "blue", "red", "blue"]}


def test_named_groups_may_vary_within_a_person_and_lie_inside() -> None:
    inner = [{"attributes": {"Male": male, "Smiling": True}} for male in (True, False, False, False)]
    assert _columns(*inner) == {"Male": ["yes", "no", "no", "no"]}


def test_ages_become_bands() -> None:
    ages = [{"age": age} for age in (3, "17", 18, 44.9, 60, 99, "adult", None, -2, [1])]
    assert _columns(*ages)["age"] == ["0-17", "0-17", "18-29", "30-44", "60+", "60+", "adult", "", "", ""]


def test_unknown_people_one_value_many_values_and_hostile_words() -> None:
    assert _columns({"team": "red"}, {"team": "blue"}) == {}
    assert _columns({"gender": "f"}, {"gender": "f"}) == {}
    assert _columns(*({"gender": str(n)} for n in range(13))) == {}
    odd = "<b>\n\x1b[31m/../" + "x" * 500
    (words,) = _columns({"gender": odd}, {"gender": "m"}, None).values()
    assert len(words[0]) <= 60
    assert "\n" not in words[0]
    assert words[2] == ""
    many = [{f"group{n}": team for n in range(30)} for team in ("x", "y", "x", "y")]
    assert len(_columns(*many)) == MAX_COLUMNS
    no_names = _columns({"gender": "f", "team": "x"}, {"gender": "m", "team": "y"}, identity=(None, None))
    assert no_names == {"gender": ["f", "m"]}


@pytest.mark.parametrize("text", ["[1]", "{", '"word"'])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="row 1: attributes are not"):
        attribute_columns([None, text], ["a", "b"])


def test_drawn_people_have_skin_tones_of_all_kinds() -> None:
    rows = list(SyntheticFaces(30, 3, size=32).rows())
    table = face_table(
        [row["face_id"] for row in rows], [row["identity"] for row in rows], [row["expression"] for row in rows],
        dataset="drawn", seed=0, attributes=[row["attributes"] for row in rows],
    )  # fmt: skip
    assert list(table.attributes) == ["skin_tone"]
    tone = table.attributes["skin_tone"].reshape(30, 3)
    assert (tone == tone[:, :1]).all()
    assert set(tone[:, 0]) == {"light", "medium", "dark"}
    some = table.take(np.array([5, 0]))
    assert some.attributes["skin_tone"].tolist() == [tone[1, 2], tone[0, 0]]


def test_further_columns_of_labels_csv(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text("file,identity,gender,age\na/1.png,a,f,31\na/2.png,a,f,\n")
    facts = {row["face_id"]: row["attributes"] for row in FolderFaces(tmp_path).rows()}
    assert json.loads(facts["a/1.png"]) == {"age": "31", "gender": "f"}
    assert json.loads(facts["a/2.png"]) == {"gender": "f"}
    assert facts["b/1.png"] is None
