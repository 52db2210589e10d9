"""CIAGAN's conditioning against the pictures that its authors made of the same photographs, and the whole path on photographs."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from raysweep.anonymizers.base import FitContext, Teachers
from raysweep.anonymizers.ciagan.anonymizer import CIAGAN
from raysweep.anonymizers.ciagan.conditioning import condition, draw_lines, draw_mask, layout_of, windows
from raysweep.errors import ModelError
from raysweep.models.zoo import open_zoo
from raysweep.preprocess.align import align, transform_points
from raysweep.preprocess.detect import choose_face, open_detector
from raysweep.preprocess.landmarks import LandmarkModel, open_landmarks
from raysweep.schema import FaceBatch, Frame
from raysweep.training.ciagan import SmallRecipe, draw_people

pytestmark = pytest.mark.real

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


@pytest.fixture(params=["pfld", "mesh"])
def model(request: pytest.FixtureRequest, real_root: Path) -> LandmarkModel:
    if request.param == "pfld":
        return open_landmarks(real_root / "models" / "lmk68_pfld.onnx")
    try:
        return open_landmarks("mediapipe")
    except ModelError as error:
        pytest.skip(str(error).split(":")[0])


def located(root: Path, model: LandmarkModel, every: int) -> list[tuple[Path, Any, Any, Any]]:
    """Path, photograph, five points and dense landmarks of every so many photographs of the sample."""
    detector = open_detector(root / "models" / "det_scrfd_500m_bnkps.onnx")
    found = []
    for path in sorted((root / "faces_id" / "celeba_ciagan").glob("clr/*/*.jpg"))[::every]:
        image = np.asarray(Image.open(path).convert("RGB"))
        faces = detector.detect(image)
        best = choose_face(faces, *image.shape[:2])
        points = model.locate([image], faces.boxes[best : best + 1])[0]
        assert np.isfinite(points).all()
        found.append((path, image, faces.points[best], points))
    return found


def distance_to(lines: Any, shown: Any) -> float:
    """Mean distance of drawn pixels to the nearest shown one."""
    away = cv2.distanceTransform((~shown).astype(np.uint8), cv2.DIST_L2, 5)
    return float(away[lines].mean())


def check_pictures(root: Path, model: LandmarkModel, every: int) -> None:
    overlap, distance, window = [], [], []
    for path, _, _, points in located(root, model, every):
        layout = layout_of(len(points))
        there = {
            kind: np.asarray(Image.open(path.parents[2] / kind / path.parent.name / path.name).convert("RGB"))
            for kind in ("msk", "lndm")
        }
        face, ours = there["msk"][..., 0] < 204, draw_mask(points, layout) == 0
        overlap.append((face & ours).sum() / (face | ours).sum())
        distance.append(distance_to(draw_lines(points, layout)[..., 0] < 128, there["lndm"][..., 0] < 128))
        window.append(windows(torch.from_numpy(points)[None], layout, 1.0)[0].numpy())
    middle = np.median(window, axis=0)
    print(f"{model.name}: {len(overlap)} faces, mask IoU mean {np.mean(overlap):.3f} min {np.min(overlap):.3f}, "
          f"lines {np.mean(distance):.2f} px, cut {middle.round(1)}")  # fmt: skip
    assert np.mean(overlap) > 0.88
    assert np.min(overlap) > 0.7
    assert np.mean(distance) < 2.5
    # The photographs of the sample are themselves the cut: its geometry from the eye corners must come to 0, 0, 178, 218.
    assert np.abs(middle - (0, 0, 178, 218)).max() < 16


def test_pictures_of_some_photographs(real_root: Path, model: LandmarkModel) -> None:
    check_pictures(real_root, model, every=10)


@pytest.mark.slow
def test_pictures_of_all_photographs(real_root: Path, model: LandmarkModel) -> None:
    check_pictures(real_root, model, every=1)


def recipe() -> ModuleType:
    sys.path.insert(0, str(GOLDEN))
    try:
        import golden_recipe
    finally:
        sys.path.remove(str(GOLDEN))
    return golden_recipe


@pytest.mark.slow
def test_the_whole_path_with_a_network_of_the_published_size(real_root: Path, tmp_path: Path) -> None:
    """decode, align, condition, generate, composite; the weights are those of the parity test, in a file as the authors published theirs."""
    made = recipe()
    manifest = made.load_manifest(GOLDEN / "ciagan.manifest.json")
    torch.save(made.to_torch(made.golden_state_dict(manifest, 7)), tmp_path / "modelG.pth")
    frame = Frame(160, 24)
    crops, points, landmarks = [], [], []
    for _, image, five, dense in located(real_root, open_landmarks(real_root / "models" / "lmk68_pfld.onnx"), every=20):
        crop, matrix = align(image, five, frame)[:2]
        crops.append(crop)
        points.append(transform_points(five, matrix))
        landmarks.append(transform_points(dense, matrix))
    batch = FaceBatch(
        image=torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous(),
        points=torch.from_numpy(np.stack(points)).float(),
        landmarks=torch.from_numpy(np.stack(landmarks)).float(),
        mask=None,
        face_id=tuple(map(str, range(len(crops)))),
        seed=np.arange(len(crops)),
        frame=frame,
    )
    anonymizer = CIAGAN()
    anonymizer.for_faces(synthetic=False)
    anonymizer.use_weights({family: open_zoo(tmp_path).generator(family) for family in anonymizer.weights_needed()})
    background = replace(draw_people(SmallRecipe(targets=1, images=1)), synthetic=False)
    context = FitContext(background, {}, Teachers(), torch.device("cpu"), 0, lambda numbers: None)
    anonymizer.load(anonymizer.fit(context), torch.device("cpu"))
    out = anonymizer.anonymize(batch)
    assert anonymizer.trained == {"init": "published", "steps": 0, "targets": 1200}
    changed = (out != batch.image).any(1).float().mean((1, 2))
    assert ((changed > 0.1) & (changed < 0.6)).all()
    scene = condition(batch.image, batch.landmarks, 128, jpeg=True)
    inside = scene.edges[:, 1] + scene.edges[:, 3] * 0.5
    assert (inside - batch.landmarks[:, [39, 42], 1].mean(1)).abs().max() < 0.5
