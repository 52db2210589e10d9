"""Decode, detect, align, condition, generate, composite: the whole way of a photograph through the published network, with weights from a recipe."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysweep.anonymizers.deepprivacy2.anonymizer import DeepPrivacy2
from raysweep.anonymizers.deepprivacy2.conditioning import condition, face_boxes, place
from raysweep.faces import PHOTOGRAPH_FRAME
from raysweep.models.zoo import open_zoo
from raysweep.preprocess.align import align, transform_points
from raysweep.preprocess.detect import choose_face, open_detector
from raysweep.schema import FaceBatch
from raysweep.testing.anonymizer import example_context

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")


@pytest.fixture
def photographs(real_root: Path) -> FaceBatch:
    detector = open_detector(real_root / "models" / "det_scrfd_500m_bnkps.onnx")
    crops, points = [], []
    for path in sorted((real_root / "faces_id/lfw").rglob("*.jpg"))[::200][:2]:
        image = np.asarray(Image.open(path).convert("RGB"))
        found = detector.detect(image)
        five = found.points[choose_face(found, *image.shape[:2])]
        crop, matrix = align(image, five, PHOTOGRAPH_FRAME)
        crops.append(crop)
        points.append(transform_points(five, matrix))
    return FaceBatch(
        image=torch.from_numpy(np.stack(crops).transpose(0, 3, 1, 2).copy()),
        points=torch.from_numpy(np.stack(points)),
        landmarks=None,
        mask=None,
        face_id=("a", "b"),
        seed=np.array([4, 2**40 + 5], dtype=np.int64),
        frame=PHOTOGRAPH_FRAME,
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a checkpoint as its authors save it, found by the zoo under its own name."""
    spec = importlib.util.spec_from_file_location("golden_recipe", HERE / "golden_recipe.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    manifest = recipe.load_manifest(HERE / "deepprivacy2.manifest.json")
    state = recipe.to_torch(recipe.golden_state_dict(manifest, 7))
    torch.save({"EMA_generator": state, "w_centers": torch.randn(4, 512)}, tmp_path / "deepprivacy2_fdf256.pth")
    return tmp_path


@pytest.mark.real
@pytest.mark.slow
def test_photographs_go_all_the_way(photographs: FaceBatch, models: Path) -> None:
    zoo = open_zoo(models).for_data(synthetic=False, needs=())
    anonymizer = DeepPrivacy2(truncation=0.7, truncate_to="modes")
    anonymizer.for_faces(synthetic=False)
    anonymizer.use_weights({family: zoo.generator(family) for family in anonymizer.weights_needed()})
    context = example_context(CPU)
    background = dataclasses.replace(context.background, synthetic=False)
    anonymizer.load(anonymizer.fit(dataclasses.replace(context, background=background)), CPU)
    assert anonymizer.guarantee["weights"] == "deepprivacy2-fdf256"
    out = anonymizer.anonymize(photographs)

    boxes = face_boxes(photographs.points.numpy())
    places = place(boxes, 160)
    given, mask = condition(photographs.image, places, 256)
    for row, (x0, y0, x1, y1) in enumerate(places.box):
        # The box holds all five points, with room for a chin.
        five = photographs.points[row].numpy()
        assert (five > [x0, y0]).all()
        assert (five < [x1, y1]).all()
        # As in training: the box is 1 / 1.4 of the window.
        assert (mask[row] == 0).any(dim=2).float().mean().item() == pytest.approx(1 / 1.4, abs=0.02)
        assert given[row].isfinite().all()
        changed = (out[row] != photographs.image[row]).any(dim=0)
        assert changed[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2].float().mean() > 0.95
        changed[y0:y1, x0:x1] = False
        assert not changed.any()
    alone = dataclasses.replace(
        photographs,
        image=photographs.image[1:],
        points=photographs.points[1:],
        face_id=("b",),
        seed=photographs.seed[1:],
    )
    assert torch.equal(anonymizer.anonymize(alone)[0], out[1])
