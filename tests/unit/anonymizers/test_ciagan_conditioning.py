from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from raysweep.anonymizers.ciagan.conditioning import (
    HEIGHT,
    LAYOUTS,
    WIDTH,
    condition,
    draw_lines,
    draw_mask,
    in_picture,
    layout_of,
    middle,
    one_hot,
    paste,
    shrink,
    windows,
)
from raysweep.data.synthetic import SyntheticFaces
from raysweep.errors import ConfigError

SIDE = 160


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Four synthetic faces, (4, 3, S, S) uint8 and (4, 68, 2)."""
    faces = SyntheticFaces(identities=4, images_per_identity=1, seed=3).draw(np.arange(4), np.zeros(4, np.int64))
    images = torch.from_numpy(np.ascontiguousarray(np.stack(faces.image).transpose(0, 3, 1, 2)))
    return images, torch.from_numpy(np.asarray(faces.landmarks, dtype=np.float32))


def test_every_layout_names_as_many_points() -> None:
    for count, layout in LAYOUTS.items():
        every = [*layout.jaw, *layout.bridge, *layout.mouth, *layout.brows, *layout.corners]
        assert [len(part) for part in (layout.jaw, layout.bridge, layout.mouth)] == [17, 4, 8]
        assert len(set(every)) == len(every)
        assert max(every) < count
    with pytest.raises(ConfigError, match=r"30 landmarks.*68, 106, 478"):
        layout_of(30)


def test_the_drawn_faces_have_their_points_where_the_layout_says(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Against the anatomy: the jaw goes from left to right below all else, the bridge down, the mouth below, corners between the eyes."""
    layout = layout_of(68)
    for points in drawn[1].numpy():
        jaw, bridge, mouth = (points[list(part)] for part in (layout.jaw, layout.bridge, layout.mouth))
        left, right = points[list(layout.corners)]
        assert (np.diff(jaw[::4, 0]) > 0).all()
        assert jaw[8, 1] > points[:, 1].max() - 3
        assert (np.diff(bridge[:, 1]) > 0).all()
        assert left[0] < bridge[0, 0] < right[0]
        assert mouth[:, 1].min() > bridge[-1, 1]
        assert (points[list(layout.brows), 1] < left[1]).all()
        outer = points[48:60]
        assert outer[:, 0].min() <= mouth[:, 0].min() + 1
        assert outer[:, 0].max() >= mouth[:, 0].max() - 1


def test_the_window_is_five_eye_distances_about_the_corners() -> None:
    points = torch.zeros(2, 68, 2)
    points[:, 39] = torch.tensor([70.0, 81.0])
    points[:, 42] = torch.tensor([90.0, 79.0])
    points[1, 42, 0] = 71.0
    window = windows(points, layout_of(68), least=4.0)
    assert torch.allclose(window[0], torch.tensor([80 - 100 * 178 / 218, -20.0, 200 * 178 / 218, 200.0]), atol=1e-4)
    assert window[1, 3] == pytest.approx(40.0), "a face in profile is not cut to nothing"


def test_lines_are_blue_one_pixel_and_where_the_points_are() -> None:
    points = np.full((68, 2), 20.0, dtype=np.float32)
    points[:17] = np.stack([np.linspace(30, 150, 17), np.full(17, 200.0)], axis=1)
    points[27:31] = [[89, 90], [89, 100], [89, 110], [89, 120]]
    points[60:68] = [[70, 150], [80, 145], [89, 145], [98, 145], [108, 150], [98, 155], [89, 155], [80, 155]]
    picture = draw_lines(points, layout_of(68))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    blue = (picture == (0, 0, 255)).all(-1)
    assert (blue | (picture == 255).all(-1)).all()
    assert blue[200].sum() == 121
    assert blue[199].sum() == 0
    assert blue[90:121, 89].all()
    assert blue[90:121, 88].sum() == 0
    assert blue[150, 70]
    assert blue[155, 89]
    assert not blue[20, 20], "eyes, brows, nose base and outer lip are not drawn"


def test_a_jpeg_of_thin_blue_lines_is_dark() -> None:
    """The published pictures: about (20, 19, 104) in the middle of a line."""
    points = np.full((68, 2), -50.0, dtype=np.float32)
    points[27:31] = [[89, 40], [89, 80], [89, 120], [89, 180]]
    core = draw_lines(points, layout_of(68), jpeg=True)[50:170, 89].mean(0)
    assert np.abs(core - (20, 19, 104)).max() < 12


def test_the_mask_reaches_from_the_brows_to_the_chin() -> None:
    points = np.zeros((68, 2), dtype=np.float32)
    turn = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([89 + 60 * np.cos(turn), 110 + 80 * np.sin(turn)], axis=1)
    points[19], points[24] = (60, 70), (118, 74)
    face = draw_mask(points, layout_of(68)) == 0
    rows, columns = np.nonzero(face)
    assert (rows.min(), rows.max()) == (70, 190)
    assert (columns.min(), columns.max()) == (29, 149)
    assert face[75, 29]
    assert face[75, 149]
    assert not face[69].any()


@pytest.mark.parametrize(("size", "fraction"), [(128, 8 / 9), (64, 8 / 9), (128, 0.6), (64, 1.0)])
def test_squeezing_is_that_of_pillow(size: int, fraction: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    whole, start = middle(size, fraction)
    stop = start + size
    expected = np.asarray(picture.resize((whole, whole), Image.Resampling.LANCZOS))[start:stop, start:stop]
    tensor = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
    got = shrink(tensor, size, fraction)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(got - expected).max() <= 3.0  # Pillow rounds between the two passes
    assert np.abs(got - expected).mean() < 0.5


def test_128_pixels_are_the_middle_of_144() -> None:
    assert middle(128, 8 / 9) == (144, 8)
    assert middle(128, 0.889) == (144, 8)
    assert middle(64, 8 / 9) == (72, 4)


def test_the_scene_shows_the_crop(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, landmarks = drawn
    scene = condition(image, landmarks, 64)
    assert scene.given.shape == (4, 6, 64, 64)
    assert set(scene.mask.unique().tolist()) == {0.0, 1.0}
    assert 0.1 < float(scene.mask.mean()) < 0.5
    hidden = scene.mask.expand(-1, 3, -1, -1) > 0
    assert (scene.given[:, 3:][hidden] == 0).all(), "nothing of the face is seen"
    assert torch.equal(scene.given[:, 3:][~hidden], scene.photo[~hidden])
    # The middle of the picture is the middle between the eye corners.
    layout = layout_of(68)
    centre = landmarks[:, list(layout.corners)].mean(1)
    assert torch.allclose(scene.edges[:, :2] + scene.edges[:, 2:] / 2, centre, atol=1e-3)


def test_a_moved_photograph_gives_the_same_picture(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, landmarks = drawn
    shift = torch.tensor([3.0, -2.0])
    moved = condition(torch.roll(image, (3, -2), (3, 2)), landmarks + shift, 64)
    still = condition(image, landmarks, 64)
    assert torch.allclose(moved.mask, still.mask)
    inner = slice(16, 48)
    assert (moved.photo - still.photo)[:, :, inner, inner].abs().max() < 1e-3


def test_beyond_the_crop_its_edge_goes_on() -> None:
    points = torch.zeros(1, 68, 2)
    points[0, 39], points[0, 42] = torch.tensor([5.0, 20.0]), torch.tensor([15.0, 20.0])
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    image[:, 0, :, 0] = 200
    scene = condition(image, points, 64, fraction=1.0)
    assert scene.photo[0, 0, 32, :10].sub(200 / 255).abs().max() < 1e-3


def test_paste_takes_a_picture_back_where_it_came_from(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, landmarks = drawn
    clear = image.float() / 255
    scene = condition(image, landmarks, 128)
    back = paste(scene.photo, scene.mask, scene.edges, clear)
    assert (back - clear).abs().mean() < 0.01, "the clear picture, squeezed and stretched again"
    marked = paste(torch.ones_like(scene.photo), scene.mask, scene.edges, clear)
    changed = (marked != clear).any(1)
    assert torch.equal(marked[:, 0][~changed], clear[:, 0][~changed])
    for row in range(len(image)):
        window = windows(landmarks, layout_of(68), 1.0)[row].numpy()
        expected = draw_mask(in_picture(landmarks[row].numpy(), window), layout_of(68)) == 0
        corner, size = window[:2], window[2:] / (WIDTH, HEIGHT)
        x, y = (np.arange(image.shape[-1]) - corner[0]) / size[0], (np.arange(image.shape[-1]) - corner[1]) / size[1]
        inside = ((x >= 0) & (x < WIDTH))[None] & ((y >= 0) & (y < HEIGHT))[:, None]
        wanted = inside & expected[np.clip(y, 0, HEIGHT - 1).astype(int)][:, np.clip(x, 0, WIDTH - 1).astype(int)]
        got = marked[row].min(0).values.numpy() == 1.0
        assert (wanted & got).sum() / (wanted | got).sum() > 0.95


def test_paste_lets_gradients_through_inside_only(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, landmarks = drawn
    scene = condition(image, landmarks, 64)
    face = torch.full_like(scene.photo, 0.5, requires_grad=True)
    paste(face, scene.mask, scene.edges, image.float() / 255).sum().backward()
    assert face.grad is not None
    assert face.grad[:, :, 40, 32].abs().min() > 0
    assert face.grad[:, :, 0, 0].abs().max() == 0


def test_landmarks_that_are_not_numbers_are_refused(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    landmarks = drawn[1].clone()
    landmarks[2, 8] = float("nan")
    with pytest.raises(ConfigError, match="face 2"):
        condition(drawn[0], landmarks, 64)


def test_one_hot() -> None:
    assert one_hot(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
