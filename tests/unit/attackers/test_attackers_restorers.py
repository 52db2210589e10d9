from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raysweep.anonymizers.base import Anonymizer
from raysweep.anonymizers.blackout import Blackout
from raysweep.anonymizers.blur import GaussianBlur
from raysweep.anonymizers.pixelate import Pixelate
from raysweep.attackers import attacker
from raysweep.attackers.base import AttackView
from raysweep.attackers.pixels import Darkroom, draw_strengths, spread_over_people
from raysweep.attackers.restorers import Pairs, restore
from raysweep.attackers.reversal import Reversal
from raysweep.errors import ConfigError
from raysweep.schema import FloatArray
from raysweep.testing.anonymizer import example_batch, example_faces
from raysweep.testing.attacker import example_table

CPU = torch.device("cpu")


def _images(count: int, seed: int = 0, side: int = 64) -> torch.Tensor:
    """Smooth pictures of six unknowns each, which a handful of examples determines."""
    random = torch.Generator().manual_seed(seed)
    waves = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    coarse = torch.einsum("nk,kcij->ncij", torch.randn(count, 6, generator=random), waves)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)
    return (smooth * 20 + 128).round().clamp(0, 255).to(torch.uint8)


def _anonymize(method: Anonymizer, images: torch.Tensor) -> torch.Tensor:
    batch = example_batch(example_faces(len(images), size=images.shape[-1]), CPU)
    return method.anonymize(replace(batch, image=images))


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).abs().mean())


@pytest.mark.parametrize("method", [GaussianBlur(kernel_size=61), Pixelate(block_size=16)], ids=["blur", "pixelate"])
@pytest.mark.parametrize("restorer", ["ridge", "operator"])
def test_restored_faces_are_nearer_to_the_clear_ones(method: Anonymizer, restorer: str) -> None:
    train, probes = _images(40), _images(8, seed=1)
    hidden = _anonymize(method, probes)
    how = Reversal(restorer=restorer, iterations=40)  # type: ignore[arg-type]
    found = restore(how, Pairs(_anonymize(method, train), train), hidden, method.operator(), 0)
    assert found.shape == probes.shape
    assert found.dtype == torch.uint8
    assert _error(found, probes) < 0.4 * _error(hidden, probes)


@pytest.mark.slow
@pytest.mark.parametrize("restorer", ["autoencoder", "unet"])
def test_networks_learn(restorer: str) -> None:
    train = _images(32)
    pairs = Pairs(_anonymize(Pixelate(block_size=8), train), train)
    errors = [
        _error(restore(Reversal(restorer=restorer, epochs=epochs), pairs, pairs.anonymized[:8], None, 0), train[:8])  # type: ignore[arg-type]
        for epochs in (0, 20)
    ]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("restorer", ["ridge", "operator", "unet"])
def test_a_restored_face_depends_on_no_other_probe_and_not_on_threads(restorer: str) -> None:
    method = GaussianBlur(kernel_size=31)
    train, probes = _images(12), _images(5, seed=2)
    pairs, hidden = Pairs(_anonymize(method, train), train), _anonymize(method, probes)
    how = Reversal(restorer=restorer, epochs=2, iterations=5)  # type: ignore[arg-type]
    whole = restore(how, pairs, hidden, method.operator(), 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        part = restore(how, pairs, hidden[1:3], method.operator(), 0)
    finally:
        torch.set_num_threads(threads)
    # Byte for byte, but for a rounding that the arithmetic may tip over.
    assert (whole[1:3].int() - part.int()).abs().max() <= 1


def test_an_operator_that_says_nothing_leaves_all_faces_equal() -> None:
    """Blackout as an operator: the search stays at the mean face."""
    train = _images(12)
    hidden = torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    found = restore(Reversal(restorer="operator", iterations=5), Pairs(train, train), hidden, lambda x: x * 0, 0)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_bad_budgets_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        attacker("A4", restorer="magic", epochs=-1, images=1)
    assert [word for word in ("magic", "epochs=-1", "images=1") if word in str(caught.value)] == [
        "magic",
        "epochs=-1",
        "images=1",
    ]
    with pytest.raises(ConfigError, match="restorer='diffusion'; allowed: ridge"):
        attacker("A4:diffusion")
    with pytest.raises(ValueError, match="1 pairs"):
        restore(Reversal(), Pairs(_images(1), _images(1)), _images(1), None, 0)


def test_the_operator_is_the_anonymizer_before_rounding() -> None:
    images = example_batch(example_faces(6), CPU)
    for method in (GaussianBlur(kernel_size=61), Pixelate(block_size=9), Pixelate(block_size=32)):
        exact = method.operator()(images.image.double())
        assert torch.equal((exact + 0.5).floor().to(torch.uint8), method.anonymize(images))


def test_strengths_are_drawn_alike_for_every_setting() -> None:
    weak, strong = (draw_strengths(GaussianBlur(kernel_size=size), 20, 3) for size in (11, 101))
    sizes = [setting["kernel_size"] for setting in weak]
    assert sizes == [setting["kernel_size"] for setting in strong]
    assert len(set(sizes)) > 8
    assert min(sizes) < 40 < 70 < max(sizes)
    assert sizes != [setting["kernel_size"] for setting in draw_strengths(GaussianBlur(), 20, 4)]
    assert all(not GaussianBlur.problems(setting) for setting in weak)


def test_faces_are_taken_evenly_from_all_people() -> None:
    table = example_table(people={"T": 5, "E": 2})
    chosen = spread_over_people(table, 12)
    assert len(chosen) == 12
    assert set(np.bincount(table.identity[chosen], minlength=5)[:5].tolist()) == {2, 3}
    assert (table.role[chosen] == "T").all()
    assert np.array_equal(spread_over_people(table, 1000), table.rows("T"))


def _darkroom(images: torch.Tensor, released: list[tuple[dict[str, object], int]]) -> Darkroom:
    table = example_table(people={"T": 5, "S": 2, "E": 2})

    def release(method: Anonymizer, rows: np.ndarray) -> torch.Tensor:
        released.append((dict(method.setting), len(rows)))
        return _anonymize(method, images[torch.from_numpy(rows)])

    def embed(crops: torch.Tensor) -> dict[str, FloatArray]:
        return {"mean": crops.float().mean(dim=(2, 3)).numpy()}

    return Darkroom(
        table=table,
        clear=lambda rows: images[torch.from_numpy(rows)],
        release=release,
        embed=embed,
        remake=lambda setting: GaussianBlur(**setting),
        seed=0,
    )


def test_what_is_measured_for_whom() -> None:
    images = _images(54, side=112)
    released: list[tuple[dict[str, object], int]] = []
    room = _darkroom(images, released)
    table = room.table
    restored = room.develop(attacker("A4"), GaussianBlur())
    probes = np.concatenate([table.rows("S", "probe"), table.rows("E", "probe")])
    assert restored.name == "restored:ridge"
    assert np.array_equal(restored.rows, probes)
    assert restored.embeddings["mean"].shape == (len(probes), 3)
    released.clear()
    mixed = room.develop(attacker("A2m", settings=4), GaussianBlur())
    assert np.array_equal(np.sort(mixed.rows), table.rows("T"))
    assert len(released) == 4
    # Each row carries the embedding of its own face, whatever strength it was drawn.
    own = images[torch.from_numpy(mixed.rows)].float().mean(dim=(2, 3)).numpy()
    assert np.abs(mixed.embeddings["mean"] - own).max() < 6


def test_what_cannot_be_measured_has_a_reason() -> None:
    room = _darkroom(_images(54, side=112), [])
    assert "no strength" in room.develop(attacker("A2m"), Blackout()).absent
    assert "no fixed map" in room.develop(attacker("A4:operator"), Blackout()).absent
    empty = replace(room, table=example_table(people={"E": 3}))
    assert "role T" in empty.develop(attacker("A4"), GaussianBlur()).absent
    assert "role T" in empty.develop(attacker("A2m"), GaussianBlur()).absent
    table = example_table()
    faces = np.eye(len(table), 24, dtype=np.float32)
    from raysweep.attackers.base import Embeddings

    view = AttackView.of(table, "E", Embeddings.of(faces), Embeddings.of(faces))
    assert attacker("A4").problem(view) == "restored:ridge: not measured"
    told = replace(view, absent={"mixed": "blackout declares none"})
    assert attacker("A2m").problem(told) == "blackout declares none"
