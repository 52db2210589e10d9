from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from raysweep.anonymizers import ksame
from raysweep.anonymizers.base import FitContext
from raysweep.anonymizers.ksame import GuaranteeWarning, KSame, greedy_groups
from raysweep.errors import TrialError
from raysweep.schema import AlignedFaces
from raysweep.testing.anonymizer import example_batch, example_context, example_faces

CPU = torch.device("cpu")


def fitted(context: FitContext, **setting: object) -> KSame:
    anonymizer = KSame(**setting)  # type: ignore[arg-type]
    anonymizer.load(anonymizer.fit(context), CPU)
    return anonymizer


def only(context: FitContext, **releases: AlignedFaces) -> FitContext:
    return dataclasses.replace(context, releases={name.replace("_", "/"): faces for name, faces in releases.items()})


@pytest.mark.parametrize("n", [5, 6, 14, 31])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_groups_hold_k_to_2k_minus_1(n: int, k: int) -> None:
    group = greedy_groups(np.random.default_rng(n).normal(size=(n, 4)), k)
    sizes = np.bincount(group)
    assert sizes.min() >= k
    assert sizes.max() < 2 * k
    assert sizes.sum() == n


def test_equal_features_still_start_with_the_first_row() -> None:
    assert greedy_groups(np.zeros((5, 2)), 2).tolist() == [0, 0, 1, 1, 1]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot form"):
        greedy_groups(np.zeros((3, 2)), 4)


def test_subjects_are_tied_alike_on_both_sides() -> None:
    context = example_context(CPU)
    anonymizer = fitted(context, k=2, unit="subjects")
    tied = []
    for side in ("E/enrol", "E/probe"):
        faces = context.releases[side]
        out = anonymizer.anonymize(example_batch(faces, CPU)).flatten(1)
        same = (out[:, None] == out[None]).all(2).numpy()
        identity = faces.table.identity
        tied.append({int(person): set(identity[same[row]].tolist()) for row, person in enumerate(identity)})
    assert tied[0] == tied[1]
    assert all(len(persons) >= 2 for persons in tied[0].values())
    assert anonymizer.guarantee == {
        "k": 2,
        "distinct_subjects_min": 2,
        "holds": True,
        "guarantee": "holds",
        "reason": "every released image stands for k or more persons, the same ones in every image of a person",
    }


def test_the_average_counts_each_person_once() -> None:
    context = example_context(CPU)
    faces = example_faces(9, "T")
    unequal = faces.take(np.array([0, 1, 2, 3, 6, 7]))
    out = fitted(only(context, T=unequal), k=3, unit="subjects").anonymize(example_batch(unequal, CPU))
    pixels = unequal.crop.astype(float)
    expected = (pixels[:3].mean(0) + pixels[3] + pixels[4:].mean(0)) / 3
    assert np.abs(out[0].permute(1, 2, 0).numpy() - expected).max() <= 0.5 + 1e-9
    assert torch.equal(out, out[:1].expand_as(out))


def test_image_unit_is_the_plain_mean() -> None:
    context = example_context(CPU)
    faces = example_faces(6, "T").take(np.array([0, 3]))
    out = fitted(only(context, T=faces), k=2, unit="images").anonymize(example_batch(faces, CPU))
    expected = np.floor(faces.crop.astype(float).mean(0) + 0.5)
    assert np.array_equal(out[1].permute(1, 2, 0).numpy(), expected)


def test_rank_one_of_a_perfect_matcher_is_one_over_k() -> None:
    """An attacker who compares released images pixel by pixel, ties shared: exactly 1/k where groups have exactly k."""
    context = example_context(CPU)
    for k in (2, 3, 6):
        anonymizer = fitted(context, k=k, unit="subjects")
        enrol, probe = context.releases["E/enrol"], context.releases["E/probe"]
        gallery = anonymizer.anonymize(example_batch(enrol, CPU)).flatten(1).double()
        query = anonymizer.anonymize(example_batch(probe, CPU)).flatten(1).double()
        near = -torch.cdist(query, gallery)
        persons = np.unique(enrol.table.identity)
        score = torch.stack([near[:, torch.from_numpy(enrol.table.identity == who)].amax(1) for who in persons], 1)
        genuine = score[torch.arange(len(probe)), torch.from_numpy(probe.table.identity)]
        above = (score > genuine[:, None]).sum(1)
        equal = (score == genuine[:, None]).sum(1)
        hit = torch.where(above == 0, 1.0 / equal, 0.0).mean().item()
        assert hit == pytest.approx(1 / k)


def test_images_with_repeats_raise_the_warning() -> None:
    context = example_context(CPU)
    with pytest.warns(GuaranteeWarning):
        anonymizer = fitted(context, k=3, unit="images")
    assert anonymizer.guarantee["holds"] is False
    assert anonymizer.guarantee["guarantee"] == "violated"
    assert "groups" in anonymizer.guarantee["reason"] or "fewer" in anonymizer.guarantee["reason"]


def test_images_of_distinct_persons_keep_the_guarantee() -> None:
    context = example_context(CPU)
    one_each = example_faces(18, "T").take(np.arange(0, 18, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anonymizer = fitted(only(context, T=one_each), k=3, unit="images")
    assert anonymizer.guarantee["holds"] is True
    assert anonymizer.guarantee["distinct_subjects_min"] == 3


def test_unknown_persons_leave_the_guarantee_unknown() -> None:
    context = example_context(CPU)
    faces = example_faces(6, "T")
    faces = dataclasses.replace(faces, table=dataclasses.replace(faces.table, identity=np.full(6, -1, dtype=np.int64)))
    with pytest.warns(GuaranteeWarning, match="not known"):
        anonymizer = fitted(only(context, T=faces), k=2, unit="images")
    assert anonymizer.guarantee["distinct_subjects_min"] == -1
    with pytest.raises(TrialError, match="unit=images"):
        KSame(k=2, unit="subjects").fit(only(context, T=faces))


def test_too_few_persons_is_one_message_naming_each_release() -> None:
    with pytest.raises(TrialError, match=r"k = 7 needs at least 7 persons.*E/enrol has 6.*T has 6.*lower k"):
        KSame(k=7, unit="subjects").fit(example_context(CPU))


def test_a_person_on_one_side_only_is_refused() -> None:
    context = example_context(CPU)
    probe = context.releases["E/probe"].take(np.arange(9))
    with pytest.raises(TrialError, match="one side only"):
        KSame(k=2, unit="subjects").fit(only(context, E_enrol=context.releases["E/enrol"], E_probe=probe))


def test_no_release_at_all() -> None:
    with pytest.raises(TrialError, match="nothing to publish"):
        KSame().fit(only(example_context(CPU)))


def test_a_face_of_no_release_is_refused() -> None:
    context = example_context(CPU)
    anonymizer = fitted(context, k=2)
    with pytest.raises(TrialError, match="'G//0'"):
        anonymizer.anonymize(example_batch(context.background, CPU))


def test_the_same_face_id_twice_is_refused() -> None:
    context = example_context(CPU)
    faces = context.releases["T"]
    with pytest.raises(TrialError, match="twice"):
        KSame(k=2, unit="subjects").fit(only(context, S=faces, T=faces))


def test_hash_collisions_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ksame._hash
    monkeypatch.setattr(ksame, "_hash", lambda text, salt: 7 if salt == 0 else real(text, salt))
    context = example_context(CPU)
    anonymizer = fitted(context, k=2)
    assert anonymizer._salt == 1
    assert anonymizer.anonymize(example_batch(context.releases["T"], CPU)).shape == (18, 3, 112, 112)


def test_row_order_does_not_matter() -> None:
    context = example_context(CPU)
    shuffled = {
        name: faces.take(np.random.default_rng(3).permutation(len(faces))) for name, faces in context.releases.items()
    }
    batch = example_batch(context.releases["S/probe"], CPU)
    for unit in ("subjects", "images"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GuaranteeWarning)
            one = fitted(context, k=2, unit=unit).anonymize(batch)
            two = fitted(dataclasses.replace(context, releases=shuffled), k=2, unit=unit).anonymize(batch)
        assert (one.int() - two.int()).abs().max() <= 1


def test_eigen_reconstructs_within_the_span_of_the_background() -> None:
    context = example_context(CPU)
    out = fitted(context, k=2, space="eigen").anonymize(example_batch(context.releases["E/probe"], CPU))
    background = context.background.crop.transpose(0, 3, 1, 2).reshape(24, -1).astype(float)
    mean = background.mean(0)
    centred = background - mean
    rows = out.flatten(1).double().numpy() - mean
    coefficients, *_ = np.linalg.lstsq(centred.T, rows.T, rcond=None)
    free = (rows + mean > 1) & (rows + mean < 254)
    assert np.abs(rows - (centred.T @ coefficients).T)[free].mean() < 3
    pixel = fitted(context, k=2, space="pixel").anonymize(example_batch(context.releases["E/probe"], CPU))
    assert not torch.equal(out, pixel)
