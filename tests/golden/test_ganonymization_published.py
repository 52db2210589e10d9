"""The whole path from a Lightning checkpoint to an anonymized crop, with weights from the golden recipe: no third party's weights."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.anonymizers.ganonymization import anonymizer as module
from raysweep.anonymizers.ganonymization import weights as weights_module
from raysweep.anonymizers.ganonymization.anonymizer import GANonymization
from raysweep.errors import ConfigError, ModelError
from raysweep.models.zoo import Zoo, open_zoo
from raysweep.testing.anonymizer import example_batch, example_context

HERE = Path(__file__).resolve().parent
SEED = 20240601
CPU = torch.device("cpu")
PUBLISHED: dict[str, Any] = {"init": "published", "size": 256, "width": 64, "depth": 8, "steps": 0}


@pytest.fixture(scope="module")
def recipe() -> Iterator[ModuleType]:
    sys.path.insert(0, str(HERE))
    import golden_recipe

    yield golden_recipe
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(HERE / "ganonymization.golden.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def generator_state(recipe: ModuleType) -> dict[str, torch.Tensor]:
    manifest = recipe.load_manifest(HERE / "ganonymization.manifest.json")
    return dict(recipe.to_torch(recipe.golden_state_dict(manifest, SEED)))


def lightning_file(path: Path, state: dict[str, torch.Tensor], **settings: Any) -> Path:
    """As upstream's trainer writes it: both networks, the optimizers, its settings."""
    torch.save(
        {
            "epoch": 25,
            "global_step": 12,
            "pytorch-lightning_version": "2.6.0",
            "state_dict": {
                **{f"generator.{name}": tensor for name, tensor in state.items()},
                "discriminator.model.0.weight": torch.zeros(64, 6, 4, 4),
            },
            "loops": {},
            "callbacks": {},
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": {"data_dir": "x", "n_epochs": 25, "lr": 2e-4, "img_size": 512, "device": "cuda"}
            | settings,
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, generator_state: dict[str, torch.Tensor]) -> Iterator[Zoo]:
    folder = tmp_path_factory.mktemp("weights")
    lightning_file(folder / "GANonymization_25.ckpt", generator_state)
    weights_module._published.cache_clear()
    yield open_zoo(folder)
    weights_module._published.cache_clear()


def ready(zoo: Zoo, **changes: Any) -> GANonymization:
    """As a worker makes it."""
    context = example_context(CPU, size=64)
    setting = PUBLISHED | changes
    fitting, drawing = GANonymization(**setting), GANonymization(**setting)
    for one in (fitting, drawing):
        assert one.weights_needed() == {"ganonymization"}
        one.use_weights({"ganonymization": zoo.generator("ganonymization")})
    state = fitting.fit(context)
    assert any(name.startswith("generator.") for name in state) == bool(setting["steps"])
    drawing.load(state, CPU)
    return drawing


def test_the_checkpoint_draws_the_golden_faces(
    zoo: Zoo, recipe: ModuleType, golden: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    anonymizer = ready(zoo)
    given = torch.as_tensor(recipe.golden_input("ganonymization", SEED)["x256"])
    monkeypatch.setattr(module, "condition", lambda *_: given)
    batch = example_batch(example_context(CPU, size=256).background, CPU, [0, 1])
    out = anonymizer.anonymize(batch).numpy().astype(int)
    expected = np.clip(np.round((golden["x256_out"] + 1) * 127.5), 0, 255).astype(int)
    difference = np.abs(out - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


def test_the_record_says_which_weights_and_what_is_odd(zoo: Zoo) -> None:
    notes = ready(zoo).guarantee
    assert (notes["init"], notes["steps"], notes["weights"]) == ("published", 0, "ganonymization-25")
    assert notes["sha256"] == zoo.get("ganonymization-25").sha256
    assert (notes["epoch"], notes["precision"]) == (25, "float32")
    assert "trained at 512 pixels and is used at 256" in str(notes["warning"])


def test_workers_of_one_process_share_the_network(zoo: Zoo) -> None:
    one, other = ready(zoo), ready(zoo, shape_mix=0.5)
    assert one._generator is other._generator


@pytest.mark.slow
def test_fine_tuning_moves_a_copy(zoo: Zoo, generator_state: dict[str, torch.Tensor]) -> None:
    drawn = ready(zoo)
    before = drawn._generator.get_parameter("final.2.weight").clone()
    tuned = ready(zoo, steps=1, batch_size=1, discriminator_width=4)
    assert tuned.trained == {"init": "published", "steps": 1}
    assert not torch.equal(tuned._generator.get_parameter("final.2.weight"), generator_state["final.2.weight"])
    assert torch.equal(drawn._generator.get_parameter("final.2.weight"), before)


def test_a_setting_of_another_network_is_refused_before_anything_is_read(zoo: Zoo) -> None:
    anonymizer = GANonymization(init="published")
    with pytest.raises(ConfigError) as caught:
        anonymizer.use_weights({"ganonymization": zoo.generator("ganonymization")})
    assert [problem.rpartition("; ")[2] for problem in caught.value.problems] == [
        "set width=64",
        "set depth=8",
        "set size=256",
    ]
    with pytest.raises(ConfigError, match="see landmarks"):
        GANonymization(**PUBLISHED, conditioning="mask")
    with pytest.raises(ModelError, match="use_weights"):
        GANonymization(**PUBLISHED).fit(example_context(CPU, size=64))


@pytest.mark.parametrize("damage", ["half", "other"])
def test_another_networks_checkpoint_is_refused(
    tmp_path: Path, generator_state: dict[str, torch.Tensor], damage: str
) -> None:
    state = dict(list(generator_state.items())[:8]) if damage == "half" else dict(generator_state)
    if damage == "other":
        state["down2.model.0.weight"] = torch.zeros(128, 64, 3, 3)
    lightning_file(tmp_path / "GANonymization_25.ckpt", state)
    with pytest.raises(
        ModelError,
        match=r"missing: up1\.model" if damage == "half" else r"down2\.model\.0\.weight is \(128, 64, 3, 3\)",
    ):
        ready(open_zoo(tmp_path))


@pytest.mark.slow
def test_the_mask_channels_have_no_influence_at_first(zoo: Zoo) -> None:
    batch = example_batch(example_context(CPU, size=64).background, CPU, [0])
    plain, masked = ready(zoo), ready(zoo, conditioning="landmarks+mask")
    difference = plain.anonymize(batch).int() - masked.anonymize(batch).int()
    assert difference.abs().max() <= 1


@pytest.mark.slow
def test_the_picture_of_a_batch_does_not_depend_on_the_batch(zoo: Zoo) -> None:
    anonymizer = ready(zoo, picture="face")
    faces = example_context(CPU, size=64).background
    together = anonymizer.anonymize(example_batch(faces, CPU, [0, 1, 2]))
    assert torch.equal(anonymizer.anonymize(example_batch(faces, CPU, [2]))[0], together[2])
    bare = dataclasses.replace(example_batch(faces, CPU, [0]), mask=None)
    assert torch.equal(anonymizer.anonymize(bare)[0], together[0])
