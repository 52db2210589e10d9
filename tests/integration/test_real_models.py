"""Real faces through the real weights: the accuracies that say whether the input specifications are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raysweep.errors import ModelError
from raysweep.models.embedders import load_embedder
from raysweep.models.measure import measure
from raysweep.models.teachers import check_lineage, teachers
from raysweep.models.zoo import Zoo, open_zoo
from raysweep.preprocess.align import align
from raysweep.preprocess.detect import choose_face, open_detector
from raysweep.schema import EXPRESSIONS, Frame

pytestmark = pytest.mark.real

FRAME = Frame(160, 24)
YALE = {"happy": "happy", "sad": "sad", "surprised": "surprise", "normal": "neutral"}


@pytest.fixture(scope="module")
def zoo(real_root: Path) -> Zoo:
    return open_zoo(real_root / "models")


def crops(zoo: Zoo, paths: list[Path]) -> tuple[torch.Tensor, np.ndarray]:
    """Aligned faces of those photographs in which one was found, and which."""
    detector = open_detector(zoo.get("scrfd-500m").path)
    found, kept = [], []
    for index, path in enumerate(paths):
        picture = Image.open(path).convert("RGB")
        if "fer2013" in path.parts:
            # FER-2013 is square; these copies of it were stretched to 150 x 200.
            picture = picture.resize((picture.width, picture.width), Image.Resampling.BOX)
        image = np.asarray(picture)
        faces = detector.detect(image)
        if len(faces):
            best = choose_face(faces, *image.shape[:2])
            found.append(align(image, faces.points[best], FRAME)[0])
            kept.append(index)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous(), np.array(kept)


def test_the_folder_is_known(zoo: Zoo) -> None:
    assert {item.name for item in zoo.of("embedder") if not item.entry.builtin} == {
        "mobilefacenet-foamliu",
        "mobilefacenet-liguiyuan",
        "mobilefacenet-foamliu-torch",
    }
    assert {item.name for item in zoo.of("expression") if not item.entry.builtin} == {
        "fer-faceapi",
        "fer-mini-xception",
    }
    assert zoo.unknown == ()
    detector, landmarks = zoo.detector(), zoo.landmarks()
    assert detector is not None
    assert landmarks is not None
    assert (detector.name, landmarks.name) == ("scrfd-500m", "pfld-68")


def test_the_torch_network_is_the_onnx_one(zoo: Zoo) -> None:
    faces = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 160, 160), dtype=np.uint8))
    rows = [
        load_embedder(zoo.get(name)).embed(faces, FRAME)
        for name in ("mobilefacenet-foamliu", "mobilefacenet-foamliu-torch")
    ]
    np.testing.assert_allclose(*rows, atol=1e-4)


def test_a_teacher_attacks_beside_an_independent_embedder(zoo: Zoo) -> None:
    real = zoo.for_data(False)
    teaching = teachers(real, "cpu", FRAME)
    assert teaching.identity is not None
    assert {item.name for item in real.judges("embedder")} == {"mobilefacenet-liguiyuan", "mobilefacenet-foamliu"}
    assert any(not real.lineage(item.name) & teaching.lineage for item in real.judges("embedder"))
    with pytest.raises(ModelError, match="mobilefacenet-foamliu may not judge"):
        check_lineage(teaching, [load_embedder(zoo.get("mobilefacenet-foamliu"))])


@pytest.mark.slow
def test_lfw_top1(zoo: Zoo, real_root: Path) -> None:
    paths = sorted((real_root / "faces_id" / "lfw").glob("*/*.jpg"))
    faces, kept = crops(zoo, paths)
    assert len(kept) >= len(paths) - 1
    names = np.array([paths[index].parent.name for index in kept])
    rank = np.concatenate([np.arange(np.sum(names == name)) for name in dict.fromkeys(names)])
    gallery, probe = rank % 2 == 0, rank % 2 == 1
    judges = zoo.for_data(False, reserve=False).embedders()
    assert len(judges) == 2
    for name, rows in measure(faces, FRAME, judges, [])[0].items():
        nearest = (rows[probe] @ rows[gallery].T).argmax(axis=1)
        top1 = float(np.mean(names[gallery][nearest] == names[probe]))
        print(f"LFW top-1 {name}: {top1:.4f} ({probe.sum()} probes)")
        assert top1 >= 0.99, name


@pytest.mark.slow
def test_expression_accuracy(zoo: Zoo, real_root: Path) -> None:
    folder = real_root / "faces_expr"
    yale = [
        (path, YALE[path.suffixes[0][1:]])
        for path in sorted((folder / "yale").glob("*.gif"))
        if path.suffixes[0][1:] in YALE
    ]
    fer = [(path, path.parent.name) for path in sorted((folder / "fer2013").glob("*/*.jpg"))]
    judges = zoo.for_data(False).expression_models()
    accuracy = {}
    for name, rows in (("yale", yale), ("fer2013", fer)):
        faces, kept = crops(zoo, [path for path, _ in rows])
        assert len(kept) >= 0.97 * len(rows)
        truth = np.array([EXPRESSIONS.index(rows[index][1]) for index in kept])
        for model, probabilities in measure(faces, FRAME, [], judges)[1].items():
            accuracy[name, model] = float(np.mean(probabilities.argmax(axis=1) == truth))
            print(f"{name} accuracy {model}: {accuracy[name, model]:.3f} ({len(truth)} faces)")
    assert accuracy["yale", "fer-faceapi"] >= 0.769
    assert accuracy["yale", "fer-mini-xception"] >= 0.69
    assert accuracy["fer2013", "fer-faceapi"] >= 0.55
    assert accuracy["fer2013", "fer-mini-xception"] >= 0.64
