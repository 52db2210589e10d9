"""Rows of a release: what is replaced, what stays, and that no face passes which was not anonymized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import prepare_fakes as fakes
import pytest
import torch

from raysweep.anonymizers.base import Anonymizer
from raysweep.anonymizers.blackout import Blackout
from raysweep.data.images import decode
from raysweep.engine.apply import Method, Output, release_rows
from raysweep.preprocess.align import align, invert, paste_back, transform_points
from raysweep.preprocess.detect import Detections, Detector
from raysweep.preprocess.rows import Recipe, Tools
from raysweep.schema import ARCFACE_POINTS, ByteArray, FaceBatch, Frame

FRAME = Frame(112, 0)
PLAIN = Recipe(FRAME)
CPU = torch.device("cpu")


def release(
    rows: list[dict[str, Any]],
    anonymizer: Anonymizer,
    output: Output | None = None,
    tools: Tools | None = None,
    per_person: bool = False,
) -> list[dict[str, Any]]:
    method = Method(anonymizer.name, anonymizer.setting, seed=3, per_person=per_person, synthetic=True)
    persons = {f"person {number}": number for number in range(5)}
    table = release_rows(rows, PLAIN, tools or Tools(), anonymizer, method, output or Output(), persons, CPU)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def pixels(row: dict[str, Any]) -> ByteArray:
    return decode(row["image"], row["encoding"], row["height"], row["width"])


class Stub(Anonymizer):
    """Does what it is told to."""

    name = "stub"

    def __init__(self, work: Callable[[FaceBatch], torch.Tensor]) -> None:
        super().__init__()
        self._work = work

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        return self._work(faces)


def test_the_crop_is_replaced_in_its_place_and_nothing_else() -> None:
    row = fakes.row(1)
    clear = pixels(row)
    (done,) = release([row], Blackout())
    image = pixels(done)
    assert image.shape == clear.shape
    _, matrix = align(clear, np.reshape(row["points"], (5, 2)), FRAME)
    y, x = np.mgrid[: clear.shape[0], : clear.shape[1]]
    place = transform_points(np.stack([x.ravel(), y.ravel()], axis=1), matrix).reshape(*x.shape, 2)
    inside = ((place > 0.5) & (place < FRAME.size - 1.5)).all(axis=2)
    outside = ((place < -1.5) | (place > FRAME.size + 0.5)).any(axis=2)
    assert inside.sum() > 3000
    assert not image[inside].any()
    np.testing.assert_array_equal(image[outside], clear[outside])


def test_a_crop_that_is_pasted_back_and_aligned_again_is_the_same() -> None:
    clear, points = fakes.photograph(4, side=220)
    for scale in (1.0, 1.7):  # a face smaller and larger than the crop
        centre = points.mean(axis=0)
        five = (points - centre) * scale + centre
        crop, matrix = align(clear, five, FRAME)
        smooth = np.clip(crop.astype(int) // 2 + 40, 0, 255).astype(np.uint8)
        again, back = align(paste_back(clear, smooth, matrix), transform_points(FRAME.points, invert(matrix)), FRAME)
        np.testing.assert_allclose(back, matrix, atol=1e-4)
        error = np.abs(again[4:-4, 4:-4].astype(int) - smooth[4:-4, 4:-4])
        assert error.mean() < 2.0


def test_only_labels_are_taken_over_from_the_clear_row() -> None:
    row = fakes.row(2)
    (done,) = release([row], Blackout(), Output(crops=True))
    assert {name: done[name] for name in ("face_id", "identity", "expression", "attributes", "source")} == {
        name: row[name] for name in ("face_id", "identity", "expression", "attributes", "source")
    }
    assert done["landmarks"] is None
    assert done["mask"] is None
    assert pixels(done).shape == (112, 112, 3)
    np.testing.assert_allclose(np.reshape(done["points"], (5, 2)), FRAME.points)


def test_points_say_where_the_crop_lay_and_nothing_of_the_face() -> None:
    moved = fakes.row(2)
    moved["points"] = (np.array(moved["points"]) + np.tile([0, 0.8], 5) * np.repeat([1, -1, 0, 1, -1], 2)).tolist()
    (done,) = release([moved], Blackout())
    five = np.reshape(done["points"], (5, 2)).astype(np.float64)
    _, matrix = align(pixels(moved), np.reshape(moved["points"], (5, 2)), FRAME)
    np.testing.assert_allclose(transform_points(five, matrix), FRAME.points, atol=1e-3)
    assert np.abs(five - np.reshape(moved["points"], (5, 2))).max() > 0.3


def test_bad_rows_have_a_reason_and_no_image() -> None:
    rows = fakes.mixed_rows(12)
    done = release(rows, Blackout())
    assert [row["face_id"] for row in done] == [row["face_id"] for row in rows]
    bad = {row["face_id"]: row["reason"] for row in done if row["reason"]}
    assert bad == {"bad/html": "not_an_image", "bad/points": "bad_points", "bad/truncated": "truncated"}
    assert all((row["image"] == b"") == bool(row["reason"]) for row in done)
    assert all(row["points"] is None for row in done if row["reason"])


def test_a_file_is_written_anew_in_its_kind() -> None:
    jpeg = fakes.row(5, encoding="jpeg", height=0, width=0, image=fakes.jpeg(5))
    assert release([jpeg], Blackout())[0]["encoding"] == "jpeg"
    assert release([jpeg], Blackout(), Output(lossless=True))[0]["encoding"] == "png"
    assert release([fakes.row(5)], Blackout())[0]["encoding"] == "raw"


def test_one_face_that_is_refused_does_not_stop_or_slip_past_the_others() -> None:
    def work(faces: FaceBatch) -> torch.Tensor:
        if "p3/003" in faces.face_id:
            raise RuntimeError("I do not like this one")
        return 255 - faces.image

    done = release([fakes.row(number) for number in range(9)], Stub(work))
    assert {row["face_id"]: row["reason"] for row in done if row["reason"]} == {"p3/003": "not_anonymized"}
    assert done[3]["image"] == b""
    assert "I do not like this one" in done[3]["detail"]


def test_a_face_that_comes_out_as_it_went_in_is_not_written() -> None:
    def work(faces: FaceBatch) -> torch.Tensor:
        image = 255 - faces.image
        image[0] = faces.image[0]
        return image

    done = release([fakes.row(1), fakes.row(2)], Stub(work))
    assert [row["reason"] for row in done] == ["unchanged", ""]
    assert done[0]["image"] == b""


def test_randomness_does_not_depend_on_the_batch_and_follows_the_person_when_asked() -> None:
    seen: dict[str, int] = {}

    def work(faces: FaceBatch) -> torch.Tensor:
        seen.update(zip(faces.face_id, faces.seed.tolist(), strict=True))
        return 255 - faces.image

    rows = [fakes.row(number) for number in range(10)]
    release(rows, Stub(work), Output(batch=4))
    first = dict(seen)
    seen.clear()
    release(rows[::-1], Stub(work), Output(batch=64))
    assert seen == first
    assert len(set(first.values())) == 10
    seen.clear()
    release(rows, Stub(work), per_person=True)
    assert len(set(seen.values())) == 5
    assert seen["p1/001"] == seen["p1/006"]


class Two(Detector):
    """Finds the two faces of `couple`, or none."""

    name, threshold, side = "two", 0.5, None
    places: ClassVar[list[tuple[float, float]]] = [(80.0, 80.0), (240.0, 80.0)]

    def _find(self, image: ByteArray) -> Detections:
        places = [place for place in self.places if image.shape[1] == 320 and image.max() > 140]
        points = np.array([(ARCFACE_POINTS - 56) * 0.9 + place for place in places], np.float32).reshape(-1, 5, 2)
        boxes = np.array([[x - 40, y - 50, x + 40, y + 50] for x, y in places], np.float32).reshape(-1, 4)
        return Detections(boxes, np.ones(len(places), np.float32), points)


def couple() -> dict[str, Any]:
    image = np.concatenate([fakes.photograph(1)[0], fakes.photograph(2)[0]], axis=1)
    return fakes.row(
        1, image=image.tobytes(), height=160, width=320, points=None, landmarks=None, mask=None, identity="person 1"
    )


@pytest.mark.parametrize("known", [False, True])
def test_everybody_in_a_photograph_is_anonymized(known: bool) -> None:
    row = couple()
    if known:
        row["points"] = ((ARCFACE_POINTS - 56) * 0.9 + Two.places[0]).ravel().tolist()
    (done,) = release([row], Blackout(), tools=Tools(detector=Two()))
    image = pixels(done)
    for x, y in Two.places:
        assert not image[int(y) - 15 : int(y) + 15, int(x) - 15 : int(x) + 15].any()
    assert done["reason"] == ""


class Close(Two):
    """The second face lies within the crop of the first."""

    places: ClassVar[list[tuple[float, float]]] = [(100.0, 80.0), (150.0, 80.0)]


def test_a_neighbour_is_not_put_back_by_a_method_that_keeps_the_surroundings() -> None:
    def work(faces: FaceBatch) -> torch.Tensor:
        image = faces.image.clone()
        image[:, :, 40:90, 40:72] = 0  # the middle of the face alone
        return image

    row = couple()
    (done,) = release([row], Stub(work), tools=Tools(detector=Close()))
    image, clear = pixels(done), pixels(row)
    for x, y in Close.places:
        middle = (slice(int(y) - 8, int(y) + 20), slice(int(x) - 8, int(x) + 8))
        assert clear[middle].any()
        assert not image[middle].any()


def test_a_photograph_without_a_face_is_kept_only_on_demand() -> None:
    dark = np.full((160, 320, 3), 60, np.uint8)
    row = couple() | {"image": dark.tobytes()}
    tools = Tools(detector=Two())
    (left_out,) = release([row], Blackout(), tools=tools)
    assert (left_out["reason"], left_out["image"]) == ("no_face", b"")
    (kept,) = release([row], Blackout(), Output(keep_undetected=True), tools)
    assert (kept["reason"], kept["note"]) == ("", "kept")
    np.testing.assert_array_equal(pixels(kept), dark)
