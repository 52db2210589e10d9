"""How a synthetic face is built: factors -> outlines -> paint. Everything up to the paint is vectorised over faces.

Outlines live in *face coordinates*: template pixels of `ARCFACE_POINTS` about the nose tip (56, 72), x right, y down, with a depth
that pose turns. Left and right are as seen in the image. Every random number is a hash of (seed, identity, image, name of the factor): a face
does not depend on which others are drawn with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from raysweep.schema import ARCFACE_SIZE, EXPRESSIONS, PARTS, ByteArray, IntArray

__all__ = ["LANDMARKS", "MARGIN", "Canvas", "Factors", "Outlines", "expression_of", "outline", "paint"]

Floats = npt.NDArray[np.float64]

LANDMARKS = 68
"""Points per face, in the order of iBUG 300-W: 0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-67 mouth."""

MARGIN = 12.0
"""A face at rest lies in the image as in a `Frame` with this margin: the whole head and some background are visible."""

SHIFT = 4
"""Fractional bits of the coordinates handed to OpenCV."""

SHADE = 4
"""Image pixels per pixel of the shading map."""

LABEL = {name: value for value, name in enumerate(PARTS)}


# Random numbers by name


def _mix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014), elementwise modulo 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache(maxsize=1024)
def _name_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Draws:
    """Random numbers of n faces, each a function of its key and the name asked for.

    Attributes:
        key: (n,) uint64.
    """

    key: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, *parts: int | IntArray) -> Draws:
        """Keys from integers or (n,) integers."""
        key = np.zeros(1, dtype=np.uint64)
        for part in parts:
            word = np.atleast_1d(np.asarray(part, dtype=np.int64)).astype(np.uint64)
            key = _mix64(key + np.uint64(0x9E3779B97F4A7C15) + _mix64(word + np.uint64(0x632BE59BD9B4E019)))
        return cls(key)

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0, size: int | None = None) -> Floats:
        """(n,) or (n, size) in [low, high)."""
        base = _mix64(self.key ^ np.uint64(_name_key(name)))
        if size is not None:
            base = _mix64(base[:, None] + np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        unit = (base >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def bell(self, name: str, deviation: float, size: int | None = None) -> Floats:
        """(n,) or (n, size): sum of three uniforms, mean 0, never beyond three deviations."""
        total = sum(self.uniform(f"{name}/{k}", size=size) for k in range(3))
        return np.asarray((total - 1.5) * 2.0 * deviation)

    def choice(self, name: str, weights: Sequence[float]) -> IntArray:
        """(n,) index with the given odds."""
        edges = np.cumsum(np.asarray(weights, dtype=np.float64))
        return np.searchsorted(edges / edges[-1], self.uniform(name), side="right").clip(0, len(edges) - 1)


def expression_of(seed: int, identity: IntArray, image: IntArray) -> IntArray:
    """(n,) index into `EXPRESSIONS`: each run of seven images of an identity holds every class once, in an order of its own."""
    classes = len(EXPRESSIONS)
    draws = Draws.of(seed, identity, image // classes)
    order = np.argsort(draws.uniform("expression order", size=classes), axis=1, kind="stable")
    return np.take_along_axis(order, (image % classes)[:, None], axis=1)[:, 0].astype(np.int64)


# Factors

SKIN = np.array(
    [[250, 222, 202], [241, 204, 178], [229, 184, 150], [209, 158, 120], [178, 124, 88], [140, 92, 62], [102, 66, 46]],
    dtype=np.float64,
)
HAIR = np.array(
    [[30, 26, 28], [58, 40, 32], [94, 62, 40], [134, 84, 48], [168, 86, 40], [194, 154, 100], [226, 202, 156], [168, 166, 168], [112, 46, 50]],
    dtype=np.float64,
)  # fmt: skip
EYES = np.array([[70, 44, 28], [104, 72, 38], [92, 116, 66], [70, 116, 168], [118, 132, 142]], dtype=np.float64)
CLOTH = np.array(
    [[52, 84, 132], [150, 60, 64], [72, 120, 96], [196, 178, 140], [60, 60, 70], [214, 214, 218], [128, 96, 146], [222, 148, 70]],
    dtype=np.float64,
)  # fmt: skip

MOVES = (
    "inner", "outer", "upper", "lower", "corner", "width", "gap", "raise", "jaw", "teeth",
    "furrow", "nose", "forehead", "fold", "cheek", "press",
)  # fmt: skip
"""What an expression moves: brow ends, lids, mouth corners (pixels down), mouth width (share), opening, upper lip and chin (pixels), then marks."""

MOVES_OF = np.array(
    [
        # inner outer  upper lower corner width  gap raise  jaw teeth furrow nose forehead fold cheek press
        [3.4, -1.4, -0.12, -0.12, 1.8, -0.08, 1.2, -0.2, 0.0, 0.8, 1.0, 0.25, 0.0, 0.2, 0.0, -0.35],  # angry
        [1.9, 0.5, -0.36, -0.34, 2.0, -0.03, 2.0, -2.8, 0.0, 0.6, 0.35, 1.0, 0.0, 0.9, 0.4, -0.10],  # disgust
        [-3.4, -0.6, 0.45, 0.12, 1.5, 0.10, 3.6, 0.0, 2.0, 0.8, 0.25, 0.0, 0.8, 0.0, 0.0, -0.15],  # fear
        [-0.4, -0.8, -0.08, -0.32, -4.6, 0.20, 4.2, -0.6, 2.0, 1.0, 0.0, 0.1, 0.0, 0.7, 1.0, -0.10],  # happy
        [-3.0, 2.0, -0.30, 0.00, 3.6, -0.06, 0.0, 0.3, 0.0, 0.0, 0.25, 0.0, 0.35, 0.1, 0.0, 0.12],  # sad
        [-3.8, -3.8, 0.50, 0.15, 0.6, -0.20, 9.0, -0.8, 6.0, 0.4, 0.0, 0.0, 1.0, 0.0, 0.0, 0.00],  # surprise
        [0.0] * 16,  # neutral
    ]
)  # fmt: skip
"""(7, moves) at full intensity, in the order of `EXPRESSIONS`."""

MOVE_NOISE = np.array([0.55, 0.55, 0.07, 0.07, 0.65, 0.03, 0.5, 0.3, 0.5, 0.15, 0.14, 0.14, 0.14, 0.16, 0.16, 0.06])

STYLES = np.array(
    [
        # top side ends  hairline left..right (down from the middle)   back: length width  curl
        [2.0, 1.2, -20.0, 3.0, 0.5, 0.0, 0.5, 3.0, 0.0, 0.0, 0.0],  # cropped
        [8.0, 3.0, -14.0, 5.0, 3.0, -2.0, -4.0, 3.0, 0.0, 0.0, 0.0],  # side parting
        [13.0, 2.0, -16.0, 4.0, -1.0, -3.0, -1.0, 4.0, 0.0, 0.0, 0.6],  # swept up
        [6.0, 6.0, 8.0, 12.0, 12.0, 12.0, 12.0, 12.0, 34.0, 9.0, 0.0],  # bob with a fringe
        [5.0, 4.0, 6.0, 9.0, 2.0, -5.0, 2.0, 9.0, 78.0, 8.0, 0.0],  # long, middle parting
        [15.0, 12.0, -10.0, 4.0, 2.0, 1.0, 2.0, 4.0, 12.0, 15.0, 2.4],  # round curls
        [3.0, 1.5, -18.0, 6.0, -1.0, -3.0, -1.0, 6.0, 0.0, 0.0, 0.0],  # tied up (a bun is added)
        [1.2, 1.5, -12.0, 0.0, -13.0, -9.0, -13.0, 0.0, 0.0, 0.0, 0.0],  # receding
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # none
        [8.0, 6.0, 6.0, 10.0, 6.0, -1.0, -6.0, 8.0, 64.0, 11.0, 2.0],  # long waves, side parting
        [6.0, 4.0, -6.0, 11.0, 10.0, 9.5, 10.0, 11.0, 0.0, 0.0, 0.5],  # short with a fringe
        [9.0, 7.0, -4.0, 8.0, 4.0, -1.0, 6.0, 10.0, 22.0, 8.0, 1.8],  # short waves
    ]
)  # fmt: skip
STYLE_ODDS = (1.0, 1.4, 1.0, 0.9, 1.1, 1.0, 0.8, 0.6, 0.5, 1.0, 0.8, 0.9)
BUN, BALD = 6, 8


WOBBLE = 0.9
"""Spread of a measure within a person over its spread between people: outlines alone should tell people apart only in part."""


def _blend(palette: Floats, position: Floats) -> Floats:
    """(n,) in [0, 1] -> (n, 3) along a palette."""
    place = position * (len(palette) - 1)
    low = np.floor(place).astype(np.int64).clip(0, len(palette) - 2)
    return _mix(palette[low], palette[low + 1], place - low)


def _mix(a: Floats, b: Floats | Sequence[float], share: Floats | float) -> Floats:
    """a towards b, colours (n, 3), share (n,) or a number."""
    t = np.asarray(share, dtype=np.float64)
    t = t[:, None] if t.ndim else t
    return np.asarray(a * (1.0 - t) + np.asarray(b, dtype=np.float64) * t)


@dataclass(frozen=True)
class Factors:
    """What the faces are made from. All arrays have n rows.

    Attributes:
        expression: (n,) index into `EXPRESSIONS`.
        intensity: (n,) 0.5 to 1.
        who: factors of the person: sizes, shapes, colours.
        here: factors of the photograph: pose, light, background, blur, noise.
        move: named columns of `MOVES`.
    """

    expression: IntArray
    intensity: Floats
    who: dict[str, Any]
    here: dict[str, Any]
    move: dict[str, Floats]

    @classmethod
    def of(cls, seed: int, identity: IntArray, image: IntArray) -> Factors:
        """Draw all factors of (seed, identity, image)."""
        person, photo = Draws.of(seed, identity), Draws.of(seed, identity, image)
        n = len(identity)
        expression = expression_of(seed, identity, image)
        intensity = photo.uniform("intensity", 0.5, 1.0)
        other = photo.choice("other expression", [1.0] * len(EXPRESSIONS))
        stray = np.where(photo.uniform("stray") < 0.3, photo.uniform("stray share", 0.1, 0.4), 0.0)
        moves = MOVES_OF[expression] * (intensity * (1.0 - stray))[:, None] + MOVES_OF[other] * (stray * 0.8)[:, None]
        rest = person.bell("resting face", 0.6, size=len(MOVES)) + photo.bell("move noise", 1.0, size=len(MOVES))
        moves = moves + rest * MOVE_NOISE
        move = {name: moves[:, k] for k, name in enumerate(MOVES)}
        for name in ("gap", "teeth", "furrow", "nose", "forehead", "fold", "cheek", "jaw"):
            move[name] = np.maximum(move[name], 0.0)
        return cls(expression, intensity, _who(person, photo, n), _here(photo, n), move)


def _who(person: Draws, photo: Draws, n: int) -> dict[str, Any]:
    def shape_of(name: str, deviation: float) -> Floats:
        """A measure of the face: the person's own, and what lens, posture and tissue add in this photograph."""
        return 0.88 * (person.bell(name, deviation) + photo.bell(name, WOBBLE * deviation))

    skin = (_blend(SKIN, person.uniform("skin")) * (1.0 + person.bell("skin shade", 0.02, size=3))).clip(30, 250)
    dark = 1.0 - skin.mean(axis=1) / 255.0
    tone = person.uniform("hair colour")
    # Dark skin seldom goes with fair hair; the palette runs from black to fair.
    hair = _blend(HAIR, np.where(dark > 0.45, tone * 0.35, tone)) * (1.0 + person.bell("hair shade", 0.06, size=3))
    style = person.choice("hair style", STYLE_ODDS)
    shape = STYLES[style] + 0.0
    shape[:, :2] *= person.uniform("hair volume", 0.75, 1.3)[:, None]
    shape[:, 3:8] += person.bell("hairline", 1.2, size=5)
    mirror = person.uniform("parting side") < 0.5
    shape[mirror, 3:8] = shape[mirror, 7:2:-1]
    beard = person.choice("beard", (5.2, 1.6, 0.7, 0.7, 1.1))  # none, stubble, moustache, goatee, full
    beard = np.where(np.isin(style, (3, 4, 9)), 0, beard)
    return {
        "skin": skin,
        "dark": dark,
        "hair": hair.clip(12, 245),
        "style": style,
        "hair_shape": shape,
        "curl_phase": person.uniform("curl phase", 0.0, 6.28),
        "brow": _mix(hair, (28.0, 20.0, 18.0), person.uniform("brow dark", 0.25, 0.6)).clip(10, 220),
        "eye": _blend(EYES, person.uniform("eye colour") * np.where(dark > 0.45, 0.4, 1.0)),
        "lip": _mix(skin, (176.0, 52.0, 64.0), person.uniform("lip colour", 0.3, 0.62)),
        "blush": person.uniform("blush", 0.15, 0.8),
        "beard": beard,
        "stubble": np.where(beard == 1, person.uniform("stubble", 0.35, 0.8), 0.0),
        "freckles": person.uniform("freckles") < 0.22,
        "freckle_x": person.uniform("freckle x", -1.0, 1.0, size=16),
        "freckle_y": person.uniform("freckle y", -1.0, 1.0, size=16),
        "moles": person.choice("mole count", (0.55, 0.27, 0.12, 0.06)),
        "mole_x": person.uniform("mole x", 0.32, 0.78, size=3) * np.where(person.uniform("mole side", size=3) < 0.5, -1.0, 1.0),
        "mole_y": person.uniform("mole y", -8.0, 24.0, size=3),
        "mole_size": person.uniform("mole size", 0.7, 1.25, size=3),
        "glasses": person.uniform("glasses") < 0.2,
        "glasses_round": person.uniform("glasses round", 2.0, 4.5),
        "glasses_size": person.uniform("glasses size", 10.5, 13.0),
        "glasses_colour": _blend(np.array([[24.0, 22, 26], [92, 58, 34], [150, 40, 48], [120, 120, 128]]), person.uniform("frame")),
        "earring": person.uniform("earring") < 0.14,
        "lashes": person.uniform("lashes", 0.55, 1.25),
        "face_w": 1.0 + shape_of("face width", 0.045),
        "jaw_w": 1.0 + shape_of("jaw width", 0.065),
        "chin_w": 1.0 + shape_of("chin width", 0.14),
        "chin_y": shape_of("chin", 2.2),
        "skull_y": shape_of("skull", 2.2),
        "eye_x": 17.6 * (1.0 + shape_of("eye distance", 0.05)),
        "eye_y": shape_of("eye height", 1.0),
        "eye_w": 8.8 * (1.0 + shape_of("eye width", 0.08)),
        "eye_h": 1.0 + shape_of("eye opening", 0.13),
        "eye_tilt": shape_of("eye tilt", 0.08),
        "brow_y": shape_of("brow height", 1.3),
        "brow_thick": person.uniform("brow thickness", 0.9, 2.4),
        "brow_arch": 2.2 + shape_of("brow arch", 1.1),
        "brow_long": 1.0 + shape_of("brow length", 0.07),
        "nose_w": 6.6 * (1.0 + shape_of("nose width", 0.13)),
        "nose_y": shape_of("nose length", 1.8),
        "mouth_w": 14.4 * (1.0 + shape_of("mouth width", 0.08)),
        "mouth_y": 20.6 + shape_of("mouth height", 1.3),
        "lip_u": 2.8 * (1.0 + shape_of("upper lip", 0.22)),
        "lip_l": 3.9 * (1.0 + shape_of("lower lip", 0.22)),
        "ear": 1.0 + shape_of("ear", 0.12),
        "n": n,
    }  # fmt: skip


def _here(photo: Draws, n: int) -> dict[str, Any]:
    warmth, tint = photo.bell("warmth", 0.055), photo.bell("tint", 0.015)
    light = 1.0 + np.stack([warmth, tint, -warmth], axis=1)
    return {
        "roll": photo.bell("roll", 5.0),
        "yaw": photo.bell("yaw", 8.0),
        "pitch": photo.bell("pitch", 4.0),
        "scale": 1.0 + photo.bell("scale", 0.025),
        "shift_x": photo.bell("shift x", 1.3),
        "shift_y": photo.bell("shift y", 1.3),
        "light_angle": photo.uniform("light angle", 0.0, 2.0 * np.pi),
        "light_strength": photo.uniform("light strength", 0.02, 0.26),
        "light_gain": photo.uniform("light gain", 0.72, 1.16),
        "light_colour": light,
        "background": photo.choice("background", [1.0] * BACKGROUNDS),
        "background_flip": photo.uniform("background flip") < 0.5,
        "cloth": _blend(CLOTH, photo.uniform("cloth")),
        "cloth_neck": photo.uniform("neckline", 0.0, 7.0),
        "hair_light": photo.uniform("hair light", 0.82, 1.2),
        "glasses_on": photo.uniform("glasses on") < 0.85,
        "blur": photo.uniform("blur", 0.35, 0.95),
        "noise": photo.uniform("noise", 0.04, 0.3),
        "noise_x": photo.uniform("noise x"),
        "noise_y": photo.uniform("noise y"),
        "n": n,
    }


# Curves


@lru_cache(maxsize=64)
def _spline_matrix(count: int, steps: int, closed: bool) -> Floats:
    """(P, count) weights of a Catmull-Rom spline through `count` points, `steps` samples per piece; open ends are reflected."""
    pieces = count if closed else count - 1
    rows = pieces * steps + (0 if closed else 1)
    matrix = np.zeros((rows, count))
    for row in range(rows):
        piece, t = divmod(row, steps)
        if piece == pieces:
            piece, t = pieces - 1, steps
        u = t / steps
        weights = (
            -0.5 * u + u**2 - 0.5 * u**3,
            1.0 - 2.5 * u**2 + 1.5 * u**3,
            0.5 * u + 2.0 * u**2 - 1.5 * u**3,
            -0.5 * u**2 + 0.5 * u**3,
        )
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
            k = piece + offset
            if closed:
                matrix[row, k % count] += weight
            elif k < 0:
                matrix[row, 0] += 2.0 * weight
                matrix[row, 1] -= weight
            elif k >= count:
                matrix[row, count - 1] += 2.0 * weight
                matrix[row, count - 2] -= weight
            else:
                matrix[row, k] += weight
    return matrix


def _curve(control: Floats, steps: int, closed: bool = False) -> Floats:
    """(n, C, 2) -> (n, P, 2), through the control points."""
    return np.asarray(np.matmul(_spline_matrix(control.shape[1], steps, closed), control))


def _points(*xy: tuple[Floats | float, Floats | float], n: int) -> Floats:
    """Points whose coordinates are numbers or (n,) -> (n, P, 2)."""
    out = np.empty((n, len(xy), 2))
    for k, (x, y) in enumerate(xy):
        out[:, k, 0], out[:, k, 1] = x, y
    return out


def _stroke(centre: Floats, half: Floats) -> Floats:
    """A line (n, P, 2) with half widths (P,) or (n, P) -> its outline (n, 2P, 2)."""
    direction = np.gradient(centre, axis=1)
    direction /= np.maximum(np.hypot(direction[..., :1], direction[..., 1:]), 1e-9)
    normal = (
        np.stack([-direction[..., 1], direction[..., 0]], axis=-1) * np.broadcast_to(half, centre.shape[:2])[..., None]
    )
    return np.concatenate([centre + normal, (centre - normal)[:, ::-1]], axis=1)


def _ring(x: Floats, y: Floats, rx: Floats | float, ry: Floats | float, count: int) -> Floats:
    """Ellipses about (n, G) centres -> (n, G, count, 2)."""
    turn = np.arange(count) * (2.0 * np.pi / count)
    rx, ry = (np.broadcast_to(np.asarray(r, dtype=np.float64), x.shape)[..., None] for r in (rx, ry))
    return np.stack([x[..., None] + rx * np.cos(turn), y[..., None] + ry * np.sin(turn)], axis=-1)


def _mirrored(shape: Floats) -> Floats:
    """(n, P, 2) of the right half -> (n, 2, P, 2) left and right."""
    other = shape.copy()
    other[..., 0] *= -1.0
    return np.stack([other, shape], axis=1)


_TAPER = np.sin(np.linspace(0.0, np.pi, 7))


# Outlines


@dataclass(frozen=True)
class Layer:
    """One coat of paint.

    Attributes:
        shape: (n, G, P, 2) int32 image coordinates with `SHIFT` fractional bits; G outlines painted at once, even-odd.
        colour: n triples, or None for a label alone.
        labels: one value of the mask per outline, or one for all of them together, () for none.
        when: n flags, None for always.
        shade: paints the shading map (128 is neutral) instead of the image.
    """

    shape: npt.NDArray[np.int32]
    colour: list[list[int]] | None
    labels: tuple[int, ...] = ()
    when: list[bool] | None = None
    shade: bool = False


@dataclass(frozen=True)
class Outlines:
    """Everything the painter needs, and the exact geometry.

    Attributes:
        points: (n, 5, 2), order of `ARCFACE_POINTS`, image pixels.
        landmarks: (n, 68, 2), image pixels.
        layers: from back to front.
    """

    points: Floats
    landmarks: Floats
    layers: list[Layer]


class _Pose:
    """Face coordinates -> image pixels, and the list of layers being built."""

    def __init__(self, factors: Factors, size: int) -> None:
        self.here, self.size, self.n = factors.here, size, len(factors.expression)
        self.pixel = size / (ARCFACE_SIZE + 2.0 * MARGIN)
        self.layers: list[Layer] = []
        radians = {name: np.deg2rad(self.here[name]) for name in ("roll", "yaw", "pitch")}
        self.sine = {name: np.sin(angle) for name, angle in radians.items()}
        self.cosine = {name: np.cos(angle) for name, angle in radians.items()}

    def project(self, shape: Floats, lift: float = 0.0) -> Floats:
        """(n, ..., 2) -> image pixels. The head is a paraboloid; `lift` is how far a part stands out of it."""
        wide = (slice(None),) + (None,) * (shape.ndim - 2)
        x, y = shape[..., 0], shape[..., 1]
        z = 34.0 * np.maximum(1.0 - (x / 44.0) ** 2 - ((y + 8.0) / 62.0) ** 2, -0.2) - 20.0 + lift
        side = x * self.cosine["yaw"][wide] + z * self.sine["yaw"][wide]
        down = y * self.cosine["pitch"][wide] - z * self.sine["pitch"][wide]
        scale = self.here["scale"][wide]
        across = (side * self.cosine["roll"][wide] - down * self.sine["roll"][wide]) * scale + self.here["shift_x"][
            wide
        ]
        along = (side * self.sine["roll"][wide] + down * self.cosine["roll"][wide]) * scale + self.here["shift_y"][wide]
        offset = np.array([56.0, 72.0]) + MARGIN + 0.5
        return np.stack([(across + offset[0]) * self.pixel - 0.5, (along + offset[1]) * self.pixel - 0.5], axis=-1)

    def add(
        self,
        shape: Floats,
        colour: Floats | Sequence[float] | None,
        labels: str | Sequence[str] = (),
        when: npt.NDArray[np.bool_] | None = None,
        lift: float = 0.0,
        shade: bool = False,
    ) -> None:
        """Append a layer: `shape` (n, P, 2) or (n, G, P, 2) in face coordinates, `colour` (n, 3) or one triple."""
        if shape.ndim == 3:
            shape = shape[:, None]
        placed = self.project(shape, lift)
        if shade:
            placed = (placed + 0.5) / SHADE - 0.5
        fixed = np.round(placed * (1 << SHIFT)).astype(np.int32)
        paints = None
        if colour is not None:
            tone = np.broadcast_to(np.asarray(colour, dtype=np.float64), (self.n, 3)).clip(0, 255)
            paints = np.round(tone).astype(np.int64).tolist()
        names = (labels,) if isinstance(labels, str) else tuple(labels)
        numbers = tuple(LABEL[name] for name in names)
        self.layers.append(Layer(fixed, paints, numbers, None if when is None else when.tolist(), shade))


def outline(factors: Factors, size: int) -> Outlines:
    """Outlines of n faces in an image of `size` pixels."""
    n = len(factors.expression)
    who, here, move, pose = factors.who, factors.here, factors.move, _Pose(factors, size)
    add = pose.add
    skin, hair = who["skin"], who["hair"] * here["hair_light"][:, None]
    deep = _mix(skin, (86.0, 34.0, 30.0), 0.42)

    # Head and jaw
    wide = 38.0 * who["face_w"]
    jaw = 29.5 * who["face_w"] * who["jaw_w"]
    chin = 12.5 * who["chin_w"] * who["jaw_w"]
    chin_y = 42.5 + who["chin_y"] + 0.8 * move["jaw"]
    skull = -64.0 + who["skull_y"]
    control = _points(
        (-wide, -22.0), (-0.985 * wide, -4.0), (-0.5 * (jaw + 0.96 * wide), 10.0 + 0.1 * move["jaw"]),
        (-jaw, 20.0 + 0.3 * move["jaw"]), (-0.5 * (jaw + chin) - 1.0, chin_y - 10.0),
        (-chin, chin_y - 3.4), (-0.5 * chin, chin_y - 0.7), (0.0, chin_y), (0.5 * chin, chin_y - 0.7), (chin, chin_y - 3.4),
        (0.5 * (jaw + chin) + 1.0, chin_y - 10.0), (jaw, 20.0 + 0.3 * move["jaw"]),
        (0.5 * (jaw + 0.96 * wide), 10.0 + 0.1 * move["jaw"]), (0.985 * wide, -4.0), (wide, -22.0),
        (0.96 * wide, -40.0), (0.72 * wide, 0.86 * skull), (0.0, skull), (-0.72 * wide, 0.86 * skull), (-0.96 * wide, -40.0),
        n=n,
    )  # fmt: skip
    head = _curve(control, 4, closed=True)
    # 17 points at equal steps along the 14 pieces of the jaw (56 samples).
    jaw_line = _curve(control[:, :15], 8)[:, ::7]
    jaw_line[:, [0, 16]] = control[:, [0, 14]]

    # Hair behind, neck, cloth, ears
    shape = who["hair_shape"]
    top, side, ends, curl = shape[:, 0], shape[:, 1], shape[:, 2], shape[:, 10]
    long, back = shape[:, 8], wide + shape[:, 9]
    has_hair = who["style"] != BALD
    behind = _points(
        (0.0, skull - top), (0.62 * back, 0.9 * skull - 0.8 * top), (0.97 * back, -38.0), (1.02 * back, -8.0), (1.0 * back, 0.5 * long),
        (0.9 * back, long), (0.0, long + 3.0), (-0.9 * back, long), (-1.0 * back, 0.5 * long), (-1.02 * back, -8.0),
        (-0.97 * back, -38.0), (-0.62 * back, 0.9 * skull - 0.8 * top), n=n,
    )  # fmt: skip
    behind = _curled(_curve(behind, 5, closed=True), curl, who["curl_phase"])
    add(behind, hair * 0.84, "hair", when=has_hair & (long > 0), lift=-8.0)
    bun = _ring(np.zeros((n, 1)), (skull - 6.0)[:, None], 15.0, 12.0, 16)
    add(bun, hair * 0.85, "hair", when=who["style"] == BUN, lift=-10.0)
    neck = 0.66 * jaw
    add(
        _points((-neck, 14.0), (neck, 14.0), (neck, 70.0), (-neck, 70.0), n=n),
        _mix(skin, deep, 0.5),
        "neck",
        lift=-12.0,
    )
    shoulder = _curve(
        _points((-84.0, 96.0), (-66.0, 68.0), (-neck - 6.0, 56.5), (0.0, 61.0 + here["cloth_neck"]), (neck + 6.0, 56.5), (66.0, 68.0), (84.0, 96.0), n=n),
        4,
    )  # fmt: skip
    add(shoulder, here["cloth"], "cloth", lift=-12.0)
    collar = _curve(_points((-neck - 7.0, 57.0), (-0.5 * neck, 60.5 + 0.7 * here["cloth_neck"]), (0.0, 62.0 + here["cloth_neck"]),
                            (0.5 * neck, 60.5 + 0.7 * here["cloth_neck"]), (neck + 7.0, 57.0), n=n), 3)  # fmt: skip
    add(_stroke(collar, np.full(13, 1.4)), here["cloth"] * 0.72, lift=-12.0)
    ear = who["ear"]
    ears = _curve(
        _points((wide - 2.0, -22.0), (wide + 3.0 * ear, -26.0 * ear), (wide + 6.4 * ear, -21.0), (wide + 5.2 * ear, -9.0), (wide + 1.6, 2.0 * ear), (wide - 3.0, -2.0), n=n),
        3, closed=True,
    )  # fmt: skip
    bare = ~has_hair | (long < 20.0)
    add(_mirrored(ears), skin * 0.95, ("l_ear", "r_ear"), when=bare, lift=-8.0)
    inner_ear = _curve(
        _points((wide + 1.0, -19.0), (wide + 3.6 * ear, -20.0), (wide + 3.2 * ear, -11.0), (wide + 1.0, -6.0), n=n), 3
    )
    add(_mirrored(_stroke(inner_ear, np.full(10, 0.7))), deep, when=bare, lift=-8.0)
    drop = _ring(np.stack([-wide - 2.4, wide + 2.4], axis=1), np.full((n, 2), 4.4), 1.7, 1.7, 8)
    add(drop, (232.0, 200.0, 110.0), ("ear_r", "ear_r"), when=who["earring"] & bare, lift=-8.0)
    add(head, skin, "skin")

    # Soft shading of the head
    add(_stroke(head, np.full(head.shape[1], 3.2)), (102.0, 96.0, 94.0), shade=True)
    add(_ring(np.zeros((n, 1)), np.full((n, 1), -44.0), 22.0, 9.0, 12), (138.0, 138.0, 137.0), shade=True)
    rosy = (0.35 * who["blush"] + 0.5 * move["cheek"])[:, None] * np.array([6.0, -16.0, -12.0]) + 128.0
    cheek_x = np.stack([-0.6 * wide, 0.6 * wide], axis=1)
    add(_ring(cheek_x, np.full((n, 2), 4.0) - 2.0 * move["cheek"][:, None], 9.0, 7.0, 10), rosy, shade=True)
    eyes_x = np.stack([-who["eye_x"], who["eye_x"]], axis=1)
    eye_y = -20.3 + who["eye_y"]
    eyes_y = np.stack([eye_y, eye_y], axis=1)
    add(_ring(eyes_x * 0.94, eyes_y - 2.0, 10.5, 6.5, 12), (117.0, 111.0, 109.0), shade=True)
    shadow = here["light_strength"] * np.cos(here["light_angle"])
    nose_tip = 0.5 + who["nose_y"]
    for sign in (-1.0, 1.0):
        flank = _points(
            (sign * 1.5, -14.0),
            (sign * 5.0, -8.0),
            (sign * (who["nose_w"] + 1.0), nose_tip + 4.0),
            (sign * 2.0, nose_tip + 2.0),
            n=n,
        )
        add(flank, 116.0 + (sign * shadow * 60.0)[:, None] * np.ones(3), shade=True)
    ridge = _points((-1.6, -14.0), (1.6, -14.0), (2.6, nose_tip), (-2.6, nose_tip), n=n)
    add(ridge, (144.0, 143.0, 141.0), shade=True)
    stubble = who["stubble"][:, None] * np.array([-30.0, -26.0, -20.0]) + 128.0
    growth = np.concatenate(
        [jaw_line[:, 3:14] * np.array([0.97, 0.985]), _points((0.62 * wide, 12.0), (0.3 * wide, 12.5), (0.0, 10.0), (-0.3 * wide, 12.5), (-0.62 * wide, 12.0), n=n)],
        axis=1,
    )  # fmt: skip
    add(growth, stubble, when=who["beard"] == 1, shade=True)

    # Mouth: landmarks first, since the beard follows them
    mouth_y, half = who["mouth_y"] - 0.12 * move["gap"], who["mouth_w"] * (1.0 + move["width"])
    corner = mouth_y - 0.5 + 0.75 * move["corner"]
    arch = -0.25 * move["corner"]
    gap_up, gap_down = 0.25 * move["gap"], 0.75 * move["gap"] + 0.25 * move["jaw"] * (move["gap"] > 0.5)
    lip_u, lip_l = who["lip_u"] * (1.0 + move["press"]), who["lip_l"] * (1.0 + move["press"])
    rise = mouth_y + arch + move["raise"]
    dip = mouth_y + arch
    inner_up, inner_down = rise - gap_up, np.maximum(dip + gap_down, rise - gap_up + 0.5)
    outer_lip = _points(
        (-half, corner),
        (-0.62 * half, _between(corner, inner_up, 0.62) - 0.75 * lip_u), (-0.26 * half, inner_up - lip_u), (0.0, inner_up - 0.78 * lip_u), (0.26 * half, inner_up - lip_u),
        (0.62 * half, _between(corner, inner_up, 0.62) - 0.75 * lip_u),
        (half, corner),
        (0.62 * half, _between(corner, inner_down, 0.66) + 0.75 * lip_l), (0.28 * half, inner_down + lip_l), (0.0, inner_down + 1.05 * lip_l), (-0.28 * half, inner_down + lip_l),
        (-0.62 * half, _between(corner, inner_down, 0.66) + 0.75 * lip_l),
        n=n,
    )  # fmt: skip
    inner_lip = _points(
        (-0.9 * half, corner), (-0.42 * half, _between(corner, inner_up, 0.84)), (0.0, inner_up + 0.2), (0.42 * half, _between(corner, inner_up, 0.84)),
        (0.9 * half, corner), (0.42 * half, _between(corner, inner_down, 0.84)), (0.0, inner_down), (-0.42 * half, _between(corner, inner_down, 0.84)),
        n=n,
    )  # fmt: skip
    inner_lip[:, 5:, 1] = np.maximum(inner_lip[:, 5:, 1], inner_lip[:, 3:0:-1, 1] + 0.3)
    add(_ring(np.zeros((n, 1)), (inner_down + lip_l + 3.5)[:, None], 8.0, 1.8, 8), (112.0, 107.0, 105.0), shade=True)

    # Beards
    coat = _mix(hair, skin, 0.16)
    full = np.concatenate(
        [
            jaw_line[:, 2:15] * np.array([1.005, 1.02]),
            _curve(_points((0.9 * wide, 2.0), (0.7 * wide, 12.0), (half + 5.0, corner - 5.5), (0.4 * half, inner_up - lip_u - 4.5), (0.0, inner_up - lip_u - 3.2),
                           (-0.4 * half, inner_up - lip_u - 4.5), (-half - 5.0, corner - 5.5), (-0.7 * wide, 12.0), (-0.9 * wide, 2.0), n=n), 3),
        ],
        axis=1,
    )  # fmt: skip
    add(full, coat, when=who["beard"] == 4)
    goatee = _curve(_points((-0.5 * half, inner_down + lip_l + 2.0), (0.5 * half, inner_down + lip_l + 2.0), (0.6 * half, chin_y - 2.0), (0.0, chin_y + 2.0), (-0.6 * half, chin_y - 2.0), n=n), 4, closed=True)  # fmt: skip
    add(goatee, coat, when=who["beard"] == 3)
    moustache = _curve(_points((-half - 1.5, corner + 0.5), (-0.5 * half, inner_up - lip_u - 3.2), (0.0, inner_up - lip_u - 2.4), (0.5 * half, inner_up - lip_u - 3.2), (half + 1.5, corner + 0.5),
                               (0.5 * half, inner_up - 0.7 * lip_u), (0.0, inner_up - 0.9 * lip_u), (-0.5 * half, inner_up - 0.7 * lip_u), n=n), 3, closed=True)  # fmt: skip
    add(moustache, coat, when=np.isin(who["beard"], (2, 3)))

    # Nose
    wing = who["nose_w"]
    nose_mask = _curve(_points((-2.6, -15.0), (2.6, -15.0), (4.0, -5.0), (wing, nose_tip + 2.5), (0.82 * wing, nose_tip + 6.2), (0.0, nose_tip + 8.0), (-0.82 * wing, nose_tip + 6.2), (-wing, nose_tip + 2.5), (-4.0, -5.0), n=n), 3, closed=True)  # fmt: skip
    add(nose_mask, None, "nose", lift=3.0)
    base = _curve(_points((-wing, nose_tip + 1.5), (-0.86 * wing, nose_tip + 5.4), (-0.35 * wing, nose_tip + 5.6), (0.0, nose_tip + 7.0), (0.35 * wing, nose_tip + 5.6), (0.86 * wing, nose_tip + 5.4), (wing, nose_tip + 1.5), n=n), 3)  # fmt: skip
    add(_stroke(base, 0.15 + 0.55 * np.sin(np.linspace(0.0, np.pi, 19))), _mix(skin, deep, 0.75), lift=4.0)
    nostril = _ring(
        np.stack([-0.45 * wing, 0.45 * wing], axis=1),
        np.stack([nose_tip + 5.0] * 2, axis=1),
        (0.26 * wing)[:, None],
        1.1,
        8,
    )
    add(nostril, _mix(deep, (30.0, 12.0, 12.0), 0.45), lift=4.0)

    # Eyes
    _eyes(pose, who, move, deep, eye_y)
    eye_width, opening_up, opening_down = _eye_opening(who, move)

    # Brows
    reach = who["eye_x"] + (who["eye_w"] + 4.5) * who["brow_long"]
    start = np.maximum(who["eye_x"] - who["eye_w"] - 2.0, 4.5) - 0.35 * move["furrow"]
    brow_y = eye_y - 10.8 + who["brow_y"]
    at = np.linspace(0.0, 1.0, 5)
    across = start[:, None] + (reach - start)[:, None] * at
    heights = (
        brow_y[:, None]
        - who["brow_arch"][:, None] * np.array([0.3, 0.8, 1.0, 0.75, -0.1])
        + move["inner"][:, None] * np.array([1.0, 0.72, 0.4, 0.12, 0.0])
        + move["outer"][:, None] * np.array([0.0, 0.28, 0.6, 0.88, 1.0])
    )
    brow_line = np.stack([across, heights], axis=-1)
    brow_curve = _curve(brow_line, 3)
    weight = who["brow_thick"][:, None] * np.interp(
        np.linspace(0, 1, 13), [0.0, 0.25, 0.6, 1.0], [0.75, 1.0, 0.85, 0.25]
    )
    add(_mirrored(_stroke(brow_curve, weight)), who["brow"], ("l_brow", "r_brow"), lift=2.0)

    # Wrinkles: as strong as the colour they are painted in
    def wrinkle(line: Floats, width: float, strength: Floats, both: bool = True) -> None:
        drawn = _stroke(_curve(line, 3) if line.shape[1] == 3 else line, width * _TAPER)
        add(
            _mirrored(drawn) if both else drawn,
            _mix(skin, deep, (0.85 * strength).clip(0, 1)),
            when=strength > 0.12,
            lift=2.0,
        )

    knit = heights[:, 0]
    wrinkle(_points((2.6, knit - 3.0), (2.0, knit + 0.5), (2.4, knit + 4.0), n=n), 0.75, move["furrow"])
    wrinkle(_points((0.6, -13.5), (2.6, -13.0), (4.6, -11.2), n=n), 0.7, move["nose"])
    wrinkle(_points((0.8, -9.8), (3.0, -9.3), (5.2, -7.4), n=n), 0.7, move["nose"])
    for level in (-8.5, -13.0):
        line = _points((-17.0, knit + level + 1.5), (0.0, knit + level), (17.0, knit + level + 1.5), n=n)
        wrinkle(line, 0.65, move["forehead"], both=False)
    fold = _points((wing + 2.0, nose_tip + 3.0), (0.72 * half + 4.0, corner - 8.0), (half + 4.5, corner - 0.5), n=n)
    wrinkle(fold, 0.8, move["fold"])

    # Mouth, back to front
    inside = _curve(inner_lip, 3, closed=True)
    add(inside, (92.0, 26.0, 34.0), "mouth", lift=2.0)
    open_enough = move["gap"] + move["raise"] * -0.5 > 1.3
    tongue = _between(inner_up, inner_down, 0.68)
    tongue_shape = _curve(
        _points((-0.5 * half, inner_down - 0.4), (0.0, tongue), (0.5 * half, inner_down - 0.4), n=n), 4
    )
    add(tongue_shape, (186.0, 84.0, 88.0), when=open_enough & (move["gap"] > 4.5), lift=2.0)
    upper_edge = _curve(inner_lip[:, :5], 3)[:, 1:12]
    lower_edge = _curve(inner_lip[:, [0, 7, 6, 5, 4]], 3)[:, 1:12]
    share = (np.minimum(3.4, 0.3 + 2.8 * move["teeth"]) / np.maximum(inner_down - inner_up, 1.0)).clip(0.0, 0.9)
    bite = upper_edge + (lower_edge - upper_edge) * share[:, None, None]
    teeth = np.concatenate([upper_edge, bite[:, ::-1]], axis=1)
    add(teeth, (244.0, 240.0, 232.0), when=open_enough & (move["teeth"] > 0.2), lift=2.0)
    lip = who["lip"]
    upper = np.concatenate([_curve(outer_lip[:, :7], 3), _curve(inner_lip[:, 4::-1], 3)], axis=1)
    lower = np.concatenate(
        [_curve(outer_lip[:, [6, 7, 8, 9, 10, 11, 0]], 3), _curve(inner_lip[:, [0, 7, 6, 5, 4]], 3)], axis=1
    )
    add(lower, lip, "l_lip", lift=2.0)
    add(upper, lip * 0.88, "u_lip", lift=2.0)
    gleam = _points(
        (-0.26 * half, inner_down + 0.45 * lip_l),
        (0.0, inner_down + 0.55 * lip_l),
        (0.26 * half, inner_down + 0.45 * lip_l),
        n=n,
    )
    add(_stroke(_curve(gleam, 3), 0.55 * _TAPER), _mix(lip, (255.0, 235.0, 230.0), 0.4), lift=2.0)
    closed = _curve(inner_lip[:, :5], 3)
    add(
        _stroke(closed, 0.5 * np.sin(np.linspace(0.15, np.pi - 0.15, 13))),
        _mix(lip, (60.0, 12.0, 20.0), 0.65),
        when=~open_enough,
        lift=2.0,
    )

    # Marks on the skin
    spots_x = who["freckle_x"] * 0.62 * wide[:, None]
    spots = _ring(spots_x, 2.0 + 6.5 * who["freckle_y"] - 3.0 * (1.0 - np.abs(who["freckle_x"])), 0.75, 0.75, 6)
    add(spots, _mix(skin, (120.0, 60.0, 30.0), 0.38), when=who["freckles"])
    gone = np.arange(3)[None] >= who["moles"][:, None]
    moles_x = np.where(gone, -400.0, who["mole_x"] * wide[:, None])
    add(
        _ring(moles_x, who["mole_y"], who["mole_size"], who["mole_size"], 8),
        _mix(skin, (50.0, 26.0, 20.0), 0.7),
        when=who["moles"] > 0,
    )

    # Hair in front
    tip = skull - top
    hairline = -47.0 + 0.5 * who["skull_y"]
    edge = [hairline + shape[:, 3 + k] for k in range(5)]
    crown = _points(
        (-wide - 0.6 * side, ends), (-wide - side, -24.0), (-0.95 * wide - side, -44.0), (-0.64 * wide - 0.7 * side, 0.9 * skull - 0.85 * top), (0.0, tip),
        (0.64 * wide + 0.7 * side, 0.9 * skull - 0.85 * top), (0.95 * wide + side, -44.0), (wide + side, -24.0), (wide + 0.6 * side, ends), n=n,
    )  # fmt: skip
    front = _points(
        (wide - 1.5, ends), (0.93 * wide, np.minimum(-28.0, ends)), (0.78 * wide, edge[4]), (0.4 * wide, edge[3]), (0.0, edge[2]), (-0.4 * wide, edge[1]), (-0.78 * wide, edge[0]),
        (-0.93 * wide, np.minimum(-28.0, ends)), (-wide + 1.5, ends), n=n,
    )  # fmt: skip
    crown_curve = _curled(_curve(crown, 5), curl, who["curl_phase"])
    cap = np.concatenate([crown_curve, _curve(front, 3)], axis=1)
    add(cap, hair, "hair", when=has_hair)
    add(cap, (124.0, 124.0, 126.0), when=has_hair, shade=True)
    shine_y = 0.5 * (hairline + tip)
    for sign in (-1.0, 1.0):
        shine = _points(
            (sign * 0.2 * wide, shine_y - 2.0),
            (sign * 0.5 * wide, shine_y + 2.0),
            (sign * 0.72 * wide, shine_y + 10.0),
            n=n,
        )
        glow = 150.0 - 14.0 * sign * np.cos(here["light_angle"])
        add(_stroke(_curve(shine, 3), 2.6 * _TAPER), glow[:, None] * np.ones(3), when=has_hair, shade=True)
    strands = []
    for k in range(4):
        reach_k = np.array([-0.62, -0.25, 0.25, 0.62])[k]
        root = crown_curve[:, 10 + 7 * k]
        end = _points((reach_k * wide * 0.9, edge[min(k + (k > 1), 4)] - 6.0), n=n)[:, 0]
        middle = 0.5 * (root + end) + np.array([1.8 * np.sign(reach_k), -1.0])
        strands.append(_stroke(_curve(np.stack([0.85 * root + 0.15 * end, middle, end], axis=1), 3), 0.55 * _TAPER))
    add(np.stack(strands, axis=1), hair * 0.88, when=has_hair)

    # Glasses
    on = who["glasses"] & here["glasses_on"]
    power = 2.0 / who["glasses_round"]
    turn = np.arange(20) * (2.0 * np.pi / 20)
    cos, sin = np.cos(turn), np.sin(turn)
    rim_x = np.sign(cos) * np.abs(cos) ** power[:, None] * who["glasses_size"][:, None]
    rim_y = np.sign(sin) * np.abs(sin) ** power[:, None] * 0.8 * who["glasses_size"][:, None]
    rims = []
    for sign in (-1.0, 1.0):
        for grow in (1.0, 0.87):
            x = sign * (who["eye_x"] + 0.6)[:, None] + rim_x * grow
            rims.append(np.stack([x, eye_y[:, None] + 0.8 + rim_y * grow], axis=-1))
    bridge_x = who["eye_x"] + 0.6 - who["glasses_size"]
    add(np.stack(rims, axis=1), who["glasses_colour"], "eye_g", when=on, lift=6.0)
    bridge = _curve(_points((-bridge_x - 0.5, eye_y - 1.0), (0.0, eye_y - 2.6), (bridge_x + 0.5, eye_y - 1.0), n=n), 3)
    add(_stroke(bridge, np.full(7, 0.8)), who["glasses_colour"], "eye_g", when=on, lift=6.0)
    arm_x = who["eye_x"] + 0.6 + who["glasses_size"]
    arm = _points((arm_x - 0.5, eye_y - 1.0), (0.5 * (arm_x + wide), eye_y - 1.4), (wide + 1.0, eye_y - 1.0), n=n)
    add(_mirrored(_stroke(arm, np.full(3, 0.7))), who["glasses_colour"], ("eye_g", "eye_g"), when=on)

    # Exact points
    marks = np.empty((n, LANDMARKS, 2))
    marks[:, :17] = pose.project(jaw_line)
    marks[:, 22:27] = pose.project(brow_line, 2.0)
    marks[:, 17:22] = pose.project(brow_line[:, ::-1] * np.array([-1.0, 1.0]), 2.0)
    marks[:, 27:31] = pose.project(
        _points(
            (0.0, -17.0),
            (0.0, -17.0 + (17.0 + nose_tip) / 3),
            (0.0, -17.0 + (17.0 + nose_tip) * 2 / 3),
            (0.0, nose_tip),
            n=n,
        ),
        6.0,
    )
    marks[:, 31:36] = pose.project(_points((-0.86 * wing, nose_tip + 5.4), (-0.35 * wing, nose_tip + 5.6), (0.0, nose_tip + 7.0), (0.35 * wing, nose_tip + 5.6), (0.86 * wing, nose_tip + 5.4), n=n), 4.0)  # fmt: skip
    for first, sign, order in ((36, -1.0, (0, 1, 2, 3, 4, 5)), (42, 1.0, (3, 2, 1, 0, 5, 4))):
        u = np.array(
            [1.0, 0.36, -0.36, -1.0, -0.36, 0.36]
        )  # outer corner, upper lid outwards to inwards, inner corner, lower lid
        rim = _lids(who, eye_width, opening_up, opening_down, u, np.array([True, True, True, True, False, False]))
        rim = rim + np.stack([who["eye_x"], eye_y], axis=-1)[:, None]
        marks[:, first : first + 6] = pose.project(rim[:, list(order)] * np.array([sign, 1.0]), 2.0)
    marks[:, 48:60] = pose.project(outer_lip, 2.0)
    marks[:, 60:68] = pose.project(inner_lip, 2.0)
    centres = pose.project(_points((-who["eye_x"], eye_y), (who["eye_x"], eye_y), n=n), 2.0)
    five = np.concatenate([centres, marks[:, [30, 48, 54]]], axis=1)
    return Outlines(_exact(five), _exact(marks), pose.layers)


def _exact(points: Floats) -> Floats:
    """Round to 1/1024 pixel, so that the last bit of the arithmetic never shows."""
    return np.asarray(np.round(points * 1024.0) / 1024.0)


def _between(a: Floats, b: Floats, share: float) -> Floats:
    return a + (b - a) * share


def _curled(outline_: Floats, curl: Floats, phase: Floats) -> Floats:
    """Waves of `curl` pixels across an outline about the head's centre."""
    count = outline_.shape[1]
    wave = np.sin(np.arange(count)[None] * 1.3 + phase[:, None]) * curl[:, None]
    away = outline_ - np.array([0.0, -20.0])
    away = away / np.maximum(np.hypot(away[..., :1], away[..., 1:]), 1e-9)
    return np.asarray(outline_ + away * wave[..., None])


def _eye_opening(who: dict[str, Any], move: dict[str, Floats]) -> tuple[Floats, Floats, Floats]:
    """Half width, height of the upper and of the lower lid, each (n,)."""
    width = who["eye_w"]
    up = 4.7 * who["eye_h"] * (1.0 + 1.1 * move["upper"]).clip(0.3, 2.0)
    down = 3.3 * who["eye_h"] * (1.0 + 1.2 * move["lower"]).clip(0.25, 2.0)
    return width, up, down


def _lids(
    who: dict[str, Any], width: Floats, up: Floats, down: Floats, u: Floats, upper: npt.NDArray[np.bool_]
) -> Floats:
    """Points of the right eye's lids at u in [-1 inner, 1 outer], about the eye's centre: (n, len(u), 2)."""
    bow = np.maximum(1.0 - u**2, 0.0)
    height = np.where(upper, -(bow**0.72) * up[:, None], bow**0.85 * down[:, None])
    x = u * width[:, None]
    tilt = who["eye_tilt"][:, None]
    return np.stack([x, height - tilt * x], axis=-1)


def _eyes(pose: _Pose, who: dict[str, Any], move: dict[str, Floats], deep: Floats, eye_y: Floats) -> None:
    """White, iris, pupil, glint, lashes and crease of both eyes."""
    add, n = pose.add, pose.n
    width, up, down = _eye_opening(who, move)
    centre = np.stack([who["eye_x"], eye_y], axis=-1)[:, None]
    u = np.concatenate([np.cos(np.linspace(np.pi, 0.0, 11)), np.cos(np.linspace(0.0, np.pi, 11))[1:-1]])
    upper = np.arange(len(u)) < 11
    rim = _lids(who, width, up, down, u, upper) + centre
    add(_mirrored(rim), (246.0, 244.0, 240.0), ("l_eye", "r_eye"), lift=2.0)

    def disc(radius: Floats | float, count: int) -> Floats:
        """A disc of the eye cut off by the lids."""
        circle = _ring(np.zeros((n, 1)), np.zeros((n, 1)), radius, radius, count)[:, 0] + np.array([0.0, -0.4])
        bow = np.maximum(1.0 - (circle[..., 0] / width[:, None]) ** 2, 0.0)
        lean = -who["eye_tilt"][:, None] * circle[..., 0]
        low, high = lean - bow**0.72 * up[:, None], lean + bow**0.85 * down[:, None]
        circle[..., 1] = np.minimum(np.maximum(circle[..., 1], low), high)
        return np.asarray(circle + centre)

    add(_mirrored(disc(4.8, 14)), who["eye"] * 0.62, lift=2.0)
    add(_mirrored(disc(3.9, 14)), _mix(who["eye"], (255.0, 255.0, 255.0), 0.08), lift=2.0)
    add(_mirrored(disc(2.1, 10)), (18.0, 14.0, 14.0), lift=2.0)
    glint = _ring(
        np.stack([-who["eye_x"] - 1.4, who["eye_x"] - 1.4], axis=1), np.stack([eye_y - 1.6] * 2, axis=1), 0.95, 0.95, 6
    )
    add(glint, (255.0, 255.0, 255.0), lift=2.0)
    lid = _lids(who, width, up, down, np.cos(np.linspace(np.pi, 0.0, 9)), np.ones(9, dtype=bool)) + centre
    lash = who["lashes"][:, None] * np.interp(np.linspace(0, 1, 9), [0.0, 0.6, 0.9, 1.0], [0.3, 0.9, 1.0, 0.5])
    add(_mirrored(_stroke(lid, lash)), _mix(deep, (24.0, 14.0, 14.0), 0.8), lift=2.0)
    low = _lids(who, width, up, down, np.cos(np.linspace(np.pi, 0.0, 7)), np.zeros(7, dtype=bool)) + centre
    add(_mirrored(_stroke(low, 0.42 * _TAPER)), _mix(who["skin"], deep, 0.8), lift=2.0)
    crease = lid * np.array([1.0, 1.0]) + np.array([0.0, -2.6])
    add(_mirrored(_stroke(crease, 0.5 * np.sin(np.linspace(0.0, np.pi, 9)))), _mix(who["skin"], deep, 0.6), lift=2.0)


# Paint

BACKGROUNDS = 48
_NOISE_SPARE = 64


@dataclass(frozen=True)
class Canvas:
    """What all faces of a size share: backgrounds, film grain, and the plane the light falls on.

    Attributes:
        size: side in pixels.
        backgrounds: (48, S, S, 3) uint8.
        grain: (S + 64, S + 64, 3) uint8 about 128.
        plane: (2, s, s) x and y from -1 to 1 of the shading map.
    """

    size: int
    backgrounds: ByteArray
    grain: ByteArray
    plane: Floats

    @staticmethod
    @lru_cache(maxsize=8)
    def of(size: int) -> Canvas:
        """Built once per size, from a fixed random state."""
        rng = np.random.default_rng(20240)
        backgrounds = np.stack([_background(rng, size) for _ in range(BACKGROUNDS)])
        grain = rng.normal(128.0, 24.0, (size + _NOISE_SPARE, size + _NOISE_SPARE, 3)).clip(0, 255).astype(np.uint8)
        small = max(4, size // SHADE)
        axis = (np.arange(small) + 0.5) / small * 2.0 - 1.0
        plane = np.stack(np.meshgrid(axis, axis))
        return Canvas(size, backgrounds, grain, plane)


def _background(rng: np.random.Generator, size: int) -> ByteArray:
    """A soft room: a gradient, some out-of-focus lights and bars."""
    base = rng.uniform(80, 215) + rng.normal(0, 16, 3)
    corners = (base + rng.normal(0, 22, (2, 2, 1)) + rng.normal(0, 9, (2, 2, 3))).clip(20, 245).astype(np.float32)
    scene = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR).clip(0, 255).astype(np.uint8)
    kind = rng.integers(0, 4)
    for _ in range(int(rng.integers(3, 9)) if kind else 0):
        shade = (base + rng.normal(0, 34) + rng.normal(0, 14, 3)).clip(10, 250).tolist()
        x, y = (float(v) for v in rng.uniform(0, size, 2))
        if kind == 1:
            cv2.circle(scene, (int(x), int(y)), int(rng.uniform(0.04, 0.16) * size), shade, -1, cv2.LINE_AA)
        elif kind == 2:
            thick = rng.uniform(0.04, 0.14) * size
            cv2.rectangle(scene, (int(x), 0), (int(x + thick), size), shade, -1)
        else:
            cv2.rectangle(scene, (int(x), int(y)), (int(x + rng.uniform(0.1, 0.4) * size), size), shade, -1)
    return np.asarray(cv2.GaussianBlur(scene, (0, 0), float(rng.uniform(0.015, 0.05)) * size), dtype=np.uint8)


def paint(factors: Factors, outlines: Outlines, canvas: Canvas) -> tuple[ByteArray, ByteArray]:
    """The images (n, S, S, 3) uint8 RGB and the masks (n, S, S) uint8."""
    here, size = factors.here, canvas.size
    n = len(factors.expression)
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    masks = np.zeros((n, size, size), dtype=np.uint8)
    across, along = (
        here["light_strength"] * np.cos(here["light_angle"]),
        here["light_strength"] * np.sin(here["light_angle"]),
    )
    slope = 1.0 + across[:, None, None] * canvas.plane[0] + along[:, None, None] * canvas.plane[1]
    gains = here["light_gain"][:, None] * here["light_colour"]
    light = np.round((slope[..., None] * gains[:, None, None, :] * 128.0).clip(0, 255)).astype(np.uint8)
    backgrounds, flips = here["background"].tolist(), here["background_flip"].tolist()
    starts = np.stack([here["noise_x"], here["noise_y"]], axis=1) * _NOISE_SPARE
    corners = starts.astype(np.int64).tolist()
    blurs, noises = (here["blur"] * size / ARCFACE_SIZE).tolist(), here["noise"].tolist()
    shade_side = light.shape[1]
    fill, smooth, plain = cv2.fillPoly, cv2.LINE_AA, cv2.LINE_8
    for i in range(n):
        image, mask = images[i], masks[i]
        scene = canvas.backgrounds[backgrounds[i]]
        image[:] = scene[:, ::-1] if flips[i] else scene
        shade = np.full((shade_side, shade_side, 3), 128, dtype=np.uint8)
        for layer in outlines.layers:
            if layer.when is not None and not layer.when[i]:
                continue
            shape = layer.shape[i]
            if layer.shade:
                fill(shade, shape, layer.colour[i], plain, SHIFT)  # type: ignore[index]
                continue
            if layer.colour is not None:
                fill(image, shape, layer.colour[i], smooth, SHIFT)
            labels = layer.labels
            if not labels:
                continue
            if len(labels) == 1:
                fill(mask, shape, (labels[0],), plain, SHIFT)
            else:
                for part, label in zip(shape, labels, strict=True):
                    fill(mask, part[None], (label,), plain, SHIFT)
        shade = cv2.GaussianBlur(shade, (5, 5), 1.2)
        shade = cv2.multiply(shade, light[i], scale=1.0 / 128.0)
        shade = cv2.resize(shade, (size, size), interpolation=cv2.INTER_LINEAR)
        image = cv2.multiply(image, shade, scale=1.0 / 128.0)
        kernel = 3 if blurs[i] < 0.75 else 2 * int(np.ceil(2.0 * blurs[i])) + 1
        image = cv2.GaussianBlur(image, (kernel, kernel), blurs[i])
        x, y = corners[i]
        grain = canvas.grain[y : y + size, x : x + size]
        images[i] = cv2.addWeighted(image, 1.0, grain, noises[i], -128.0 * noises[i])
    return images, masks
