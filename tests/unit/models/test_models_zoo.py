from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raysweep.errors import ModelError
from raysweep.models.entry import catalogue
from raysweep.models.zoo import ASSETS, Found, Zoo, open_zoo, weights_folder


def mine(path: Path, name: str, **fields: Any) -> dict[str, Any]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    base = {"name": name, "task": "embedder", "file": path.name, "sha256": digest, "licence": "MIT", "format": "onnx"}
    return base | {"input": {"size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}} | fields


@pytest.fixture
def folder(tmp_path: Path, make_onnx: Callable[..., Path], write_models_yaml: Callable[..., Path]) -> Path:
    a = make_onnx(tmp_path / "a.onnx", seed=1)
    b = make_onnx(tmp_path / "b.onnx", seed=2)
    make_onnx(tmp_path / "stray.onnx", seed=3)
    expression = make_onnx(tmp_path / "x.onnx", outputs=7, seed=4)
    classes = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    write_models_yaml(
        tmp_path,
        [
            mine(a, "mine/a", rank=2),
            mine(b, "mine/b", rank=1, lineage=["mine/a"]),
            mine(expression, "mine/x", task="expression", classes=classes, output={"logits": True}),
        ],
    )
    return tmp_path


def test_a_folder_of_own_files(folder: Path) -> None:
    zoo = open_zoo(folder)
    assert [item.name for item in zoo.of("embedder") if not item.entry.builtin] == ["mine/b", "mine/a"]
    assert [path.name for path in zoo.unknown] == ["stray.onnx"]
    assert any("not used" in line and "stray.onnx" in line for line in zoo.report())
    assert {"embedder", "expression"} <= {zoo.found[name].entry.task for name in ("mine/a", "mine/x")}
    assert zoo.for_data(False).embedders()[0].name == "mine/b"


def test_unknown_files_are_never_used(tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
    make_onnx(tmp_path / "whatever.onnx")
    with pytest.raises(
        ModelError, match=r"no embedder weights at hand(.|\n)*w600k_r50.onnx(.|\n)*whatever.onnx(.|\n)*models.yaml"
    ):
        open_zoo(tmp_path).for_data(synthetic=False)


def test_a_known_name_with_other_bytes_names_both_digests(tmp_path: Path, make_onnx: Callable[..., Path]) -> None:
    path = make_onnx(tmp_path / "w600k_r50.onnx")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ModelError) as caught:
        open_zoo(tmp_path)
    text = str(caught.value)
    assert digest in text
    assert "4c06341c33c2ca1f" in text
    assert "models.yaml" in text


def test_a_pack_in_its_own_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "models" / "buffalo_l").mkdir(parents=True)
    (tmp_path / "models" / "buffalo_l" / "det_10g.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"det_10g.onnx: has sha256"):
        open_zoo(tmp_path)


def test_own_description_of_a_known_name_wins(
    tmp_path: Path, make_onnx: Callable[..., Path], write_models_yaml: Callable[..., Path]
) -> None:
    path = make_onnx(tmp_path / "w600k_r50.onnx")
    write_models_yaml(tmp_path, [mine(path, "mine/r50")])
    assert "mine/r50" in open_zoo(tmp_path).found
    write_models_yaml(tmp_path, [mine(path, "buffalo_l-recognition")])
    with pytest.raises(ModelError, match="is taken by raysweep's own zoo"):
        open_zoo(tmp_path)


def test_an_own_file_that_is_missing_or_changed(folder: Path) -> None:
    (folder / "a.onnx").unlink()
    with pytest.raises(ModelError, match=r"mine/a: its file 'a.onnx' is not beside it"):
        open_zoo(folder)
    (folder / "a.onnx").write_bytes(b"changed")
    with pytest.raises(ModelError, match=r"a.onnx: has sha256"):
        open_zoo(folder)


def test_a_single_file(folder: Path) -> None:
    (folder / "models.yaml").unlink()
    assert open_zoo(folder / "a.onnx").unknown == (folder / "a.onnx",)


def test_a_missing_folder_is_told_unless_it_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        open_zoo(tmp_path / "none")
    monkeypatch.setenv("RAYSWEEP_MODELS", str(tmp_path / "none"))
    assert weights_folder() == tmp_path / "none"
    assert open_zoo().unknown == ()


def test_synthetic_and_photographs_never_share_judges(folder: Path) -> None:
    zoo = open_zoo(folder)
    drawn, real = zoo.for_data(True, needs=()), zoo.for_data(False, needs=())
    assert all(item.entry.builtin for item in drawn.of("embedder") + drawn.of("expression"))
    assert not any(item.entry.builtin for item in real.found.values())


def test_pickling_is_by_description_and_checks_the_bytes(folder: Path) -> None:
    zoo = open_zoo(folder).for_data(False).only(["mine/a", "mine/x"])
    packed = pickle.dumps(zoo)
    assert len(packed) < 2000
    again = pickle.loads(packed)  # noqa: S301 - our own bytes
    assert again.found == zoo.found
    assert (again.synthetic, again.digest()) == (False, zoo.digest())
    text = (folder / "models.yaml").read_text()
    (folder / "a.onnx").write_bytes((folder / "b.onnx").read_bytes())
    (folder / "models.yaml").write_text(
        text.replace(zoo.found["mine/a"].sha256, hashlib.sha256((folder / "b.onnx").read_bytes()).hexdigest())
    )
    with pytest.raises(ModelError, match="differs on this machine"):
        pickle.loads(packed)  # noqa: S301 - our own bytes


def test_the_digest_depends_on_bytes_and_on_the_specification(folder: Path) -> None:
    zoo = open_zoo(folder)
    first = zoo.digest(["mine/a"])
    assert first != zoo.digest(["mine/b"])
    assert first == zoo.digest(["mine/a", "mine/a"])
    found = zoo.found["mine/a"]
    entry = found.entry.model_copy(update={"input": found.entry.input.model_copy(update={"colour": "bgr"})})
    changed = replace(zoo, found=zoo.found | {"mine/a": Found(entry, found.path, found.sha256)})
    assert changed.digest(["mine/a"]) != first


def test_lineage_is_followed_and_avoided(folder: Path) -> None:
    zoo = open_zoo(folder).for_data(False)
    assert zoo.lineage("mine/b") == {"mine/a", "mine/b"}
    assert zoo.judges("embedder", avoid={"mine/a"}) == []
    assert [item.name for item in zoo.judges("embedder", avoid={"mine/b"})] == ["mine/a"]


def test_unknown_and_absent_names(folder: Path) -> None:
    zoo = open_zoo(folder)
    with pytest.raises(ModelError, match="did you mean 'mine/a'"):
        zoo.get("mine/aa")
    with pytest.raises(ModelError, match=r"w600k_r50.onnx is not in .* Get it: python -m raysweep models fetch"):
        zoo.get("buffalo_l-recognition")


def test_require_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"no detector weights at hand in {tmp_path}"):
        open_zoo(tmp_path).require("detector")
    assert open_zoo(tmp_path).detector() is None
    assert open_zoo(tmp_path).landmarks() is None
    assert open_zoo(tmp_path).parsing() is None


def test_checksums_recorded_at_the_first_fetch_bind(tmp_path: Path) -> None:
    path = tmp_path / "vit-face-expression.onnx"
    path.write_bytes(b"first")
    assert "fer-vit" in open_zoo(tmp_path).found  # nothing published, nothing recorded
    (tmp_path / "checksums.json").write_text('{"vit-face-expression.onnx": "%s"}' % ("0" * 64))
    with pytest.raises(ModelError, match=r"vit-face-expression.onnx: has sha256"):
        open_zoo(tmp_path)
    (tmp_path / "checksums.json").write_text("[]")
    with pytest.raises(ModelError, match="not a record of checksums"):
        open_zoo(tmp_path)


BUILT_IN = [entry.file for entry in catalogue() if entry.builtin]


@pytest.mark.skipif(not all((ASSETS / name).is_file() for name in BUILT_IN), reason="built-in weights not all made yet")
class TestBuiltIn:
    def zoo(self, tmp_path: Path) -> Zoo:
        return open_zoo(tmp_path).for_data(True)

    def test_judges_and_teachers_are_disjoint(self, tmp_path: Path) -> None:
        zoo = self.zoo(tmp_path)
        judging = {item.name for task in ("embedder", "expression") for item in zoo.judges(task)}  # type: ignore[arg-type]
        assert judging
        assert not judging & zoo.reserved
        assert "synthetic-fer-teacher" in zoo.reserved

    def test_all_load(self, tmp_path: Path) -> None:
        zoo = self.zoo(tmp_path)
        assert {model.dim for model in zoo.embedders()}
        assert len(zoo.expression_models()) >= 2
