"""Deterministic weights and inputs for parity checks without published weights.

The idea: a `<name>.manifest.json` lists every tensor of a generator's state dict
(name, shape, dtype) and, per tensor, a *fill rule*.  From the manifest and one
integer seed anybody can build the very same state dict, run a model, and compare
with the outputs stored in `<name>.golden.npz`, which were made by loading the
same tensors into the original implementation.

Only numpy is needed; `to_torch` converts the result.

    manifest = load_manifest("ciagan.manifest.json")
    state = to_torch(golden_state_dict(manifest, seed=20240601))
    model.load_state_dict(state, strict=True); model.eval()
    inputs = golden_input("ciagan", seed=20240601)

Randomness.  A tensor or an input array called `tag` draws from
`numpy.random.Generator(PCG64(s))` with
`s = little_endian_int(sha256(tag)[:8]) XOR seed`; values are drawn in float64,
in C order, and then cast.  `weights_digest` / `inputs_digest` let a test tell "my
recipe differs" from "my network differs": the expected digests lie in the npz.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "golden_input",
    "golden_state_dict",
    "inputs_digest",
    "load_manifest",
    "rng_for",
    "tap",
    "to_torch",
    "weights_digest",
]

_EPS = 1e-12


def rng_for(tag: str, seed: int) -> np.random.Generator:
    """The generator that belongs to `tag` under `seed`."""
    head = hashlib.sha256(tag.encode("utf-8")).digest()[:8]
    return np.random.Generator(np.random.PCG64(int.from_bytes(head, "little") ^ int(seed)))


def load_manifest(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(path).read_text(encoding="utf-8"))


# --------------------------------------------------------------------- weights
def golden_state_dict(manifest: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
    """All tensors of the manifest, in its order, as numpy arrays.

    Fill rules (`entry["fill"]["dist"]`):

    normal    mean + std * standard_normal(shape)
    constant  the listed values, reshaped
    unit      a standard normal vector divided by its L2 norm (spectral norm's u)
    left      normalise(W^T u), W = the named weight flattened to (out, rest) and
              u the named vector: with it u . (W v) = ||W^T u||, so the effective
              weight is well scaled AND differs clearly from W / (true spectral norm)
    """
    entries = {e["name"]: e for e in manifest["entries"]}
    out: dict[str, np.ndarray] = {}

    def make(name: str) -> np.ndarray:
        if name in out:
            return out[name]
        entry = entries[name]
        shape, fill = tuple(entry["shape"]), entry["fill"]
        kind = fill["dist"]
        if kind == "normal":
            value = fill["mean"] + fill["std"] * rng_for(name, seed).standard_normal(shape)
        elif kind == "constant":
            value = np.asarray(fill["values"], dtype=np.float64).reshape(shape)
        elif kind == "unit":
            value = rng_for(name, seed).standard_normal(shape)
            value = value / max(float(np.linalg.norm(value)), _EPS)
        elif kind == "left":
            weight = make(fill["weight"]).astype(np.float64)
            u = make(fill["u"]).astype(np.float64)
            value = weight.reshape(weight.shape[0], -1).T @ u
            value = value / max(float(np.linalg.norm(value)), _EPS)
        else:
            raise ValueError(f"unknown fill rule {kind!r} for {name}")
        out[name] = np.ascontiguousarray(value, dtype=entry["dtype"])
        return out[name]

    return {name: make(name) for name in entries}


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {k: torch.from_numpy(np.array(v, copy=True)) for k, v in arrays.items()}


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    h = hashlib.sha256()
    for name, value in arrays.items():
        h.update(name.encode("utf-8"))
        h.update(np.ascontiguousarray(value).tobytes())
    return h.hexdigest()


def weights_digest(manifest: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> str:
    """sha256 over the tensors whose value needs no matrix product."""
    exact = [e["name"] for e in manifest["entries"] if e["fill"]["dist"] in ("normal", "constant")]
    return _digest({n: state[n] for n in exact})


def inputs_digest(inputs: Mapping[str, np.ndarray]) -> str:
    return _digest(inputs)


def tap(values: np.ndarray) -> np.ndarray:
    """Fingerprint of an activation: mean, std (n-1) and 32 evenly spaced values."""
    flat = np.asarray(values, dtype=np.float64).ravel()
    index = (np.arange(32, dtype=np.int64) * (flat.size - 1)) // 31
    head = [flat.mean(), flat.std(ddof=1)]
    return np.concatenate([head, flat[index]]).astype(np.float32)


# ---------------------------------------------------------------------- inputs
def _uniform(tag: str, seed: int, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    return rng_for(tag, seed).uniform(low, high, size=shape).astype(np.float32)


def _dots(tag: str, seed: int, size: int, count: int = 478) -> np.ndarray:
    """A mesh-like picture: -1 background, `count` plus-shaped light dots."""
    rng = rng_for(tag, seed)
    image = np.full((3, size, size), -1.0, dtype=np.float32)
    xy = rng.integers(1, size - 1, size=(count, 2))
    for x, y in xy:
        image[:, y, x - 1 : x + 2] = 224 / 127.5 - 1
        image[:, y - 1 : y + 2, x] = 224 / 127.5 - 1
    return image


def _box_mask(size: int, box: tuple[int, int, int, int], inside: float) -> np.ndarray:
    x0, y0, x1, y1 = box
    mask = np.full((1, size, size), 1.0 - inside, dtype=np.float32)
    mask[:, y0:y1, x0:x1] = inside
    return mask


def golden_input(name: str, seed: int) -> dict[str, np.ndarray]:
    """Inputs (float32, batch of two) for one of the three generators."""
    if name == "ganonymization":

        def batch(size: int) -> np.ndarray:
            noise = _uniform(f"input/ganonymization/noise{size}", seed, (3, size, size), -1.0, 1.0)
            return np.stack([noise, _dots(f"input/ganonymization/dots{size}", seed, size)])

        return {"x256": batch(256), "x512": batch(512)}

    if name == "ciagan":
        landmarks = _uniform("input/ciagan/landmarks", seed, (2, 3, 128, 128), 0.0, 1.0)
        face = _uniform("input/ciagan/face", seed, (2, 3, 128, 128), 0.0, 1.0)
        mask = np.stack([_box_mask(128, (30, 40, 99, 120), 1.0), _box_mask(128, (20, 33, 90, 101), 1.0)])
        onehot = np.zeros((2, 1200), dtype=np.float32)
        classes = rng_for("input/ciagan/class", seed).integers(0, 1200, size=2)
        onehot[np.arange(2), classes] = 1.0
        return {
            "x": np.concatenate([landmarks, face * (1.0 - mask)], axis=1).astype(np.float32),
            "onehot": onehot,
            "face": face,
            "mask": mask.astype(np.float32),
        }

    if name == "deepprivacy2":
        image = _uniform("input/deepprivacy2/image", seed, (2, 3, 256, 256), -1.0, 1.0)
        # mask: 1 = known pixel, 0 = to be synthesised
        mask = np.stack([_box_mask(256, (40, 36, 215, 220), 0.0), _box_mask(256, (5, 60, 150, 256), 0.0)])
        z = rng_for("input/deepprivacy2/z", seed).standard_normal((2, 512)).astype(np.float32)
        return {
            "condition": (image * mask).astype(np.float32),
            "mask": mask.astype(np.float32),
            "z": z,
        }

    raise ValueError(f"no golden input for {name!r}")
