"""How much of a published generator's own speed is left when raysweep conditions, draws and composites with it.

    pytest -m slow -s tests/perf/test_generator_throughput.py

Networks of the published sizes with the weights of the golden recipe. The bare loop calls the same network object on tensors of the same
batch that are there already; both alternate in one thread of one process, and processor time is compared, which other jobs change little.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext, Teachers
from raysweep.anonymizers.batch import face_batch
from raysweep.anonymizers.ciagan.network import Generator as CiaganGenerator
from raysweep.anonymizers.ciagan.weights import read_published
from raysweep.anonymizers.deepprivacy2.network import Generator as PaintingGenerator
from raysweep.anonymizers.ganonymization.network import Generator as UNet
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.models.zoo import open_zoo
from raysweep.training.ciagan import SmallRecipe, draw_people

pytestmark = [pytest.mark.slow, pytest.mark.measure]

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CPU = torch.device("cpu")
CASES: dict[str, tuple[type[torch.nn.Module], str, str, Callable[[Any], Any], dict[str, Any]]] = {
    "ganonymization": (
        UNet,
        "forward",
        "GANonymization_25.ckpt",
        lambda state: {"state_dict": {f"generator.{name}": tensor for name, tensor in state.items()}},
        {"init": "published", "size": 512, "width": 64, "depth": 8, "steps": 0},
    ),
    "ciagan": (CiaganGenerator, "draw", "modelG.pth", lambda state: state, {"init": "published"}),
    "deepprivacy2": (
        PaintingGenerator,
        "forward",
        "deepprivacy2_fdf256.pth",
        lambda state: {"EMA_generator": state, "w_centers": torch.randn(4, 512)},
        {"init": "published", "truncate_to": "modes"},
    ),
}


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(GOLDEN), *sys.path])
    import golden_recipe

    return golden_recipe


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(name: str, folder: Path, recipe: ModuleType) -> Anonymizer:
    """The anonymizer as a worker holds it, with a checkpoint as its authors save it."""
    _, _, file, container, setting = CASES[name]
    manifest = recipe.load_manifest(GOLDEN / f"{name}.manifest.json")
    torch.save(container(recipe.to_torch(recipe.golden_state_dict(manifest, 7))), folder / file)
    zoo = open_zoo(folder)
    made = get_anonymizer(name)(**setting)
    made.for_faces(True)
    made.use_weights({family: zoo.generator(family) for family in made.weights_needed()})
    faces = draw_people(SmallRecipe(targets=2, images=2))
    made.load(made.fit(FitContext(faces, {}, Teachers(), CPU, 0, lambda numbers: None)), CPU)
    return made


def seconds(call: Callable[[], Any]) -> float:
    started = time.process_time()
    with torch.inference_mode():
        call()
    return time.process_time() - started


@pytest.mark.parametrize("name", list(CASES))
def test_most_of_the_time_is_the_networks(
    name: str, tmp_path: Path, recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(name, tmp_path, recipe)
    seen: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    network, method = CASES[name][:2]
    forward = getattr(network, method)

    def watched(self: Any, *given: Any, **named: Any) -> Any:
        seen.append((self, given, named))
        return forward(self, *given, **named)

    for count in (1, 4):
        batch = face_batch(draw_people(SmallRecipe(targets=count, images=1)), 0, CPU)
        with monkeypatch.context() as patch:
            patch.setattr(network, method, watched)
            seen.clear()
            with torch.inference_mode():
                made.anonymize(batch)
        calls = list(seen)
        assert calls
        size = len(next(item for item in calls[0][1] if isinstance(item, torch.Tensor)))

        def bare(calls: list[Any] = calls) -> None:
            for module, given, named in calls:
                forward(module, *given, **named)

        pairs = [(seconds(bare), seconds(lambda batch=batch: made.anonymize(batch))) for _ in range(3)]
        ratio = statistics.median(plain / ours for plain, ours in pairs[1:])
        print(
            f"{name}: {count} faces, network batches of {size}: {ratio:.3f} of a bare loop of the same calls, "
            f"{count / statistics.median(ours for _, ours in pairs[1:]):.2f} faces/s"
        )
        assert ratio > 0.85


def test_folding_the_norms_buys_more_than_the_pictures_cost(tmp_path: Path, recipe: ModuleType) -> None:
    """CIAGAN against the network as it is published: spectral norms in each convolution, the target's code made anew for each face."""
    made = opened("ciagan", tmp_path, recipe)
    count = 4
    batch = face_batch(draw_people(SmallRecipe(targets=count, images=1)), 0, CPU)
    published = read_published(made.weights_of("ciagan"))
    pictures, targets = torch.rand(count, 6, 128, 128), torch.eye(published.classes)[:count]
    pairs = [(seconds(lambda: published(pictures, targets)), seconds(lambda: made.anonymize(batch))) for _ in range(5)]
    ratio = statistics.median(plain / ours for plain, ours in pairs[1:])
    print(f"ciagan: {count} faces: {ratio:.3f} of a bare loop of the network as published")
    assert ratio > 0.85
