"""What CIAGAN's generator sees: a landmark picture, the photograph with the face blacked out, and the way back into the crop.

The picture is cut by the inner eye corners, squeezed to a square, and its middle is kept, as the original's loader does (dvl-tum/ciagan). The
original stops there; `paste`, which stretches the drawn face again and puts it where it came from, is our addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from raysweep.errors import ConfigError
from raysweep.schema import ByteArray, FloatArray

__all__ = [
    "CROP_FRACTION",
    "HEIGHT",
    "WIDTH",
    "Layout",
    "Scene",
    "condition",
    "draw_lines",
    "draw_mask",
    "layout_of",
    "middle",
    "one_hot",
    "paste",
    "shrink",
    "windows",
]

WIDTH, HEIGHT = 178, 218
"""Pixels of the pictures that landmarks and mask are drawn on: those of CelebA's aligned photographs."""

CROP_FRACTION = 8 / 9
"""Share of the squeezed picture that is kept: 128 of 144 pixels."""

EYE_DISTANCES = 5.0
"""Half the height of the cut, in distances between the inner eye corners."""

MASK_THRESHOLD = 0.2
BLOCK = 32
"""Pixels of a resized line that are made at once."""

JPEG_QUALITY = 95


@dataclass(frozen=True)
class Layout:
    """Where the points that CIAGAN uses stand among the landmarks of a model.

    Attributes:
        jaw: 17, from ear to ear as seen from left to right.
        bridge: 4, down the nose.
        mouth: 8, around the inner edge of the lips.
        brows: 2, whose heights are the upper edge of the mask.
        corners: 2, the inner corners of the eyes.
    """

    jaw: tuple[int, ...]
    bridge: tuple[int, ...]
    mouth: tuple[int, ...]
    brows: tuple[int, int]
    corners: tuple[int, int]


LAYOUTS: dict[int, Layout] = {
    # iBUG 300-W, also the order of the drawn faces.
    68: Layout(tuple(range(17)), tuple(range(27, 31)), tuple(range(60, 68)), (19, 24), (39, 42)),
    # insightface's 2d106det, by the correspondence to iBUG in common use.
    106: Layout(
        (1, 10, 12, 14, 16, 3, 5, 7, 0, 23, 21, 19, 32, 30, 28, 26, 17),
        (72, 73, 74, 86),
        (65, 66, 62, 70, 69, 57, 60, 54),
        (49, 104),
        (39, 89),
    ),
    # MediaPipe's mesh; against the original's pictures fair, not identical.
    478: Layout(
        (127, 234, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 454, 356),
        (168, 197, 5, 4),
        (78, 82, 13, 312, 308, 317, 14, 87),
        (105, 334),
        (133, 362),
    ),
}


def layout_of(count: int) -> Layout:
    """The layout of faces with `count` landmarks.

    Raises:
        ConfigError: none is known.
    """
    if count not in LAYOUTS:
        raise ConfigError(
            f"ciagan: faces with {count} landmarks: it is known for {', '.join(map(str, LAYOUTS))} points which are jaw, nose and mouth"
        )
    return LAYOUTS[count]


def windows(landmarks: torch.Tensor, layout: Layout, least: float) -> torch.Tensor:
    """The part of each crop that becomes the picture: five eye distances up and down, and the picture's shape.

    The distance is that along x, as in the original, which makes the cut tighter for a turned head.

    Args:
        landmarks: (n, K, 2) float, crop pixels.
        layout: of them.
        least: eye distance in pixels that is taken at least (our addition: in profile it goes to 0, and the cut with it).

    Returns:
        (n, 4) float: left and upper edge, width and height in crop pixels, where a pixel's centre is a whole number.
    """
    left, right = (landmarks[:, index] for index in layout.corners)
    half = EYE_DISTANCES * (right[:, 0] - left[:, 0]).clamp_min(least)
    reach = torch.stack([half * (WIDTH / HEIGHT), half], dim=1)
    return torch.cat([(left + right) / 2 - reach, 2 * reach], dim=1)


def in_picture(points: FloatArray, window: FloatArray) -> FloatArray:
    """Crop pixels (..., 2) -> pixels of the picture."""
    size = np.array([WIDTH, HEIGHT], dtype=np.float32)
    return np.asarray((points - window[:2]) * size / window[2:] - 0.5, dtype=np.float32)


def draw_lines(points: FloatArray, layout: Layout, jpeg: bool = False) -> ByteArray:
    """The landmark picture: jaw, nose bridge and inner mouth, one pixel wide, blue on white.

    Args:
        points: (K, 2) pixels of the picture.
        layout: of them.
        jpeg: write and read it as a JPEG of quality 95, whose colours are those that the published weights have seen: the original keeps
            its pictures so, and at half resolution of colour a thin blue line turns dark.

    Returns:
        (218, 178, 3) uint8 RGB.
    """
    picture = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    for line, closed in ((layout.jaw, False), (layout.bridge, False), (layout.mouth, True)):
        cv2.polylines(picture, [_whole(points[list(line)])], closed, (0, 0, 255), 1, cv2.LINE_8)
    if not jpeg:
        return picture
    done, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("OpenCV cannot write a JPEG")
    decoded: ByteArray = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return decoded


def draw_mask(points: FloatArray, layout: Layout) -> ByteArray:
    """The mask picture: what lies between brows and chin and between the ends of the jaw line.

    Args:
        points: (K, 2) pixels of the picture.
        layout: of them.

    Returns:
        (218, 178) uint8, 0 where the face is to be replaced, 255 elsewhere.
    """
    jaw = points[list(layout.jaw)]
    upper = [[jaw[side, 0], points[brow, 1]] for side, brow in zip((0, -1), layout.brows, strict=True)]
    outline = np.concatenate([[upper[0]], jaw, [upper[1]]])
    picture = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
    cv2.fillPoly(picture, [_whole(outline)], 0)
    return picture


def _whole(points: FloatArray) -> npt.NDArray[np.int32]:
    # Far outside there is nothing to see, and OpenCV's integers would overflow.
    return np.round(np.clip(points, -1e4, 1e4)).astype(np.int32)


@lru_cache(maxsize=32)
def _lanczos(before: int, after: int, start: int, count: int) -> npt.NDArray[np.float32]:
    """(count, before): rows `start`, ... of the matrix that resizes a line of pixels from `before` to `after`, as Pillow's LANCZOS."""
    scale = before / after
    stretch = max(1.0, scale)
    centre = (np.arange(start, start + count) + 0.5) * scale
    place = (np.arange(before) + 0.5 - centre[:, None]) / stretch
    weight = np.where(np.abs(place) < 3, np.sinc(place) * np.sinc(place / 3), 0.0)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True), dtype=np.float32)


def middle(size: int, fraction: float) -> tuple[int, int]:
    """Side of the squeezed picture, and where its middle of `size` pixels starts: 144 and 8 for 128 pixels and 8/9."""
    whole = max(size, round(size / fraction))
    return whole, (whole - size) // 2


def shrink(picture: torch.Tensor, size: int, fraction: float) -> torch.Tensor:
    """Squeeze to a square with Lanczos and keep the middle.

    Args:
        picture: (n, C, 218, 178) float in [0, 1].
        size: side of the result.
        fraction: share of the squeezed picture that it shows.

    Returns:
        (n, C, size, size) float in [0, 1].
    """
    whole, start = middle(size, fraction)
    n, channels = picture.shape[:2]
    # One product per picture: a single large one would round a picture by its place in the batch.
    flat = picture.reshape(n * channels, HEIGHT, WIDTH)
    across = [torch.bmm(flat[:, :, near], weight.mT) for near, weight in _blocks(flat, WIDTH, whole, start, size)]
    narrow = torch.cat(across, dim=2).clamp_(0, 1)
    down = [torch.bmm(weight, narrow[:, near]) for near, weight in _blocks(flat, HEIGHT, whole, start, size)]
    return torch.cat(down, dim=1).clamp_(0, 1).view(n, channels, size, size)


def _blocks(like: torch.Tensor, before: int, whole: int, start: int, count: int) -> list[tuple[slice, torch.Tensor]]:
    """The matrix of `_lanczos` in blocks of rows: Lanczos looks at few neighbours, most of the matrix is 0.

    Returns:
        Which pixels a block looks at, and their weights (len(like), rows, pixels), the same for each picture.
    """
    matrix = _lanczos(before, whole, start, count)
    found = []
    for first in range(0, count, BLOCK):
        block = matrix[first : first + BLOCK]
        used = np.flatnonzero(block.any(axis=0))
        near = slice(int(used[0]), int(used[-1]) + 1)
        weight = torch.from_numpy(np.ascontiguousarray(block[:, near])).to(like)
        found.append((near, weight.expand(len(like), -1, -1)))
    return found


@dataclass(frozen=True)
class Scene:
    """What the generator is given of n faces.

    Attributes:
        lines: (n, 3, size, size) float in [0, 1], the landmark picture.
        photo: (n, 3, size, size) float in [0, 1], the clear photograph: for the composite, not for the generator.
        mask: (n, 1, size, size) float, 1 where the face is to be replaced, else 0.
        edges: (n, 4) float: left and upper edge, width and height in crop pixels of what these pictures show.
    """

    lines: torch.Tensor
    photo: torch.Tensor
    mask: torch.Tensor
    edges: torch.Tensor

    @property
    def given(self) -> torch.Tensor:
        """(n, 6, size, size): the generator's input."""
        return torch.cat([self.lines, self.photo * (1.0 - self.mask)], dim=1)

    def composite(self, drawn: torch.Tensor) -> torch.Tensor:
        """Drawn faces (n, 3, size, size) in their surroundings, clamped to [0, 1]; hard edge, as published."""
        return (drawn * self.mask + self.photo * (1.0 - self.mask)).clamp(0.0, 1.0)


def condition(
    image: torch.Tensor,
    landmarks: torch.Tensor,
    size: int,
    fraction: float = CROP_FRACTION,
    least: float = 1.0,
    jpeg: bool = False,
) -> Scene:
    """Make the generator's input.

    Args:
        image: (n, 3, S, S) uint8 RGB. Beyond it its edge goes on, as in the original.
        landmarks: (n, K, 2) float, crop pixels; K is 68, 106 or 478.
        size: side of the generator's pictures.
        fraction: share of the squeezed picture that they show; published 0.889 (8/9) in use, 0.5 to 0.75 in training.
        least: see `windows`.
        jpeg: see `draw_lines`.

    Raises:
        ConfigError: landmarks of a kind that is not known, or not finite.
    """
    layout = layout_of(landmarks.shape[1])
    points = landmarks.float().cpu().numpy()
    used = [*layout.jaw, *layout.bridge, *layout.mouth, *layout.brows, *layout.corners]
    lost = np.flatnonzero(~np.isfinite(points[:, used]).all(axis=(1, 2)))
    if len(lost):
        raise ConfigError(
            f"ciagan: face {lost[0]} of a batch has landmarks that are not numbers; prepare the faces again"
        )
    # On the CPU for every device: the lines must be where the photograph is cut.
    window = windows(torch.from_numpy(points), layout, least)
    placed = [in_picture(face, place) for face, place in zip(points, window.numpy(), strict=True)]
    lines = _stack([draw_lines(face, layout, jpeg) for face in placed], image)
    rest = _stack([draw_mask(face, layout)[..., None] for face in placed], image)
    window = window.to(image.device)
    photo = _cut(image.float() / 255.0, window)
    whole, start = middle(size, fraction)
    edges = torch.cat([window[:, :2] + window[:, 2:] * (start / whole), window[:, 2:] * (size / whole)], dim=1)
    return Scene(
        lines=shrink(lines, size, fraction),
        photo=shrink(photo, size, fraction),
        mask=(1.0 - shrink(rest, size, fraction) > MASK_THRESHOLD).float(),
        edges=edges,
    )


def _stack(pictures: Sequence[ByteArray], like: torch.Tensor) -> torch.Tensor:
    stacked = np.stack(pictures) if pictures else np.zeros((0, HEIGHT, WIDTH, 3), np.uint8)
    return torch.from_numpy(stacked).to(like.device).permute(0, 3, 1, 2).float() / 255.0


def _cut(image: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """(n, 3, S, S) float -> (n, 3, 218, 178), cubic, in the range of the image."""
    side = image.shape[-1]
    x = window[:, 0:1] + window[:, 2:3] * ((torch.arange(WIDTH, device=image.device) + 0.5) / WIDTH)
    y = window[:, 1:2] + window[:, 3:4] * ((torch.arange(HEIGHT, device=image.device) + 0.5) / HEIGHT)
    grid = torch.stack(
        [x[:, None].expand(-1, HEIGHT, -1), y[:, :, None].expand(-1, -1, WIDTH)], dim=-1
    )  # fmt: skip
    cut = F.grid_sample(
        image, (2.0 * grid + 1.0) / side - 1.0, mode="bicubic", padding_mode="border", align_corners=False
    )
    return cut.clamp(0.0, 1.0)


def paste(drawn: torch.Tensor, mask: torch.Tensor, edges: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Stretch drawn faces and put them into their crops; differentiable in `drawn`. Not in the original, which stops at the squeezed square.

    Outside the mask every pixel is the crop's own. Where a tight cut leaves a part of the mask out, that part stays as it was.

    Args:
        drawn: (n, 3, size, size) float, about [0, 1]; clamped here.
        mask, edges: of the `Scene`.
        image: (n, 3, S, S) float in [0, 1], the crops.

    Returns:
        (n, 3, S, S) float in [0, 1].
    """
    side = image.shape[-1]
    place = torch.arange(side, device=image.device, dtype=image.dtype)
    x = 2.0 * (place - edges[:, 0:1]) / edges[:, 2:3] - 1.0
    y = 2.0 * (place - edges[:, 1:2]) / edges[:, 3:4] - 1.0
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
    face = F.grid_sample(drawn.clamp(0.0, 1.0), grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = F.grid_sample(mask, grid, mode="bilinear", padding_mode="zeros", align_corners=False) >= 0.5
    return torch.where(inside, face, image)


def one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    """(n,) int64 -> (n, classes) float."""
    return F.one_hot(target, classes).float()
