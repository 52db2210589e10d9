"""Landmarks say who somebody is as well as what the face expresses; this takes the first out and leaves the second.

An addition to the published method, off by default. The face's shape is split into the few directions in which shapes differ by
expression (learned from role G, persons compared with themselves only) and the rest: bone structure, pose. `mix` moves the rest towards the
background's mean face: 0 leaves the landmarks alone, 1 gives everybody the same face with their own expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raysweep.schema import EXPRESSIONS, FloatArray, IntArray

__all__ = ["ShapeSpace", "jitter"]

MIN_FACES_PER_EXPRESSION = 3

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ShapeSpace:
    """What `mix` needs to know about faces.

    Attributes:
        mean: (2K,) float64, the mean shape, each person counted once.
        basis: (r, 2K) float64 orthonormal directions of expression, r at most 6; 0 when expressions are not known.
    """

    mean: torch.Tensor
    basis: torch.Tensor

    @classmethod
    def learn(cls, landmarks: FloatArray, identity: IntArray, expression: IntArray) -> ShapeSpace:
        """From (N, K, 2) landmarks as shares of the picture and (N,) labels, -1 for unknown."""
        shapes = landmarks.reshape(len(landmarks), -1).astype(np.float64)
        everyone = np.where(identity >= 0, identity, identity.max(initial=0) + 1 + np.arange(len(identity)))
        _, person = np.unique(everyone, return_inverse=True)
        own = np.zeros((int(person.max()) + 1, shapes.shape[1]))
        np.add.at(own, person, shapes)
        own /= np.bincount(person)[:, None]
        # A face compared with the same person's mean shows expression and pose; without repeats, with the mean of all.
        known = identity >= 0
        deviation = shapes - np.where(known[:, None], own[person], own.mean(axis=0))
        return cls(torch.from_numpy(own.mean(axis=0)), torch.from_numpy(_expression_directions(deviation, expression)))

    def mix(self, landmarks: torch.Tensor, share: float) -> torch.Tensor:
        """(n, K, 2) shares of the picture -> the same with everything but expression moved towards the mean by `share`."""
        if share == 0.0:
            return landmarks
        mean, basis = self.mean.to(landmarks.device), self.basis.to(landmarks.device)
        deviation = landmarks.double().flatten(1) - mean
        coefficients = (deviation[:, None, :] * basis[None]).sum(-1)
        expressed = (coefficients[:, :, None] * basis[None]).sum(1)
        mixed = mean + expressed + (1.0 - share) * (deviation - expressed)
        # Sums may differ in the last bit with the batch; after this rounding they do not, so a dot cannot jump by a pixel.
        return (mixed.reshape(landmarks.shape) * 2**20).round().div(2**20).to(landmarks.dtype)


def _expression_directions(deviation: Floats, expression: IntArray) -> Floats:
    """(r, D) orthonormal span of the expressions' mean deviations."""
    means = [
        deviation[expression == label].mean(axis=0)
        for label in range(len(EXPRESSIONS))
        if (expression == label).sum() >= MIN_FACES_PER_EXPRESSION
    ]
    if len(means) < 2:
        return np.zeros((0, deviation.shape[1]))
    centred = np.stack(means) - np.mean(means, axis=0)
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    return np.ascontiguousarray(directions[size > 1e-3 * size[0]]) if size[0] > 0 else np.zeros((0, deviation.shape[1]))


def jitter(landmarks: torch.Tensor, seed: IntArray, deviation: float) -> torch.Tensor:
    """Move every point at random, differently in each image but the same each time for the same image.

    Args:
        landmarks: (n, K, 2) shares of the picture.
        seed: (n,) per face.
        deviation: standard deviation as a share of the picture; 0 changes nothing.
    """
    if deviation == 0.0:
        return landmarks
    points = landmarks.shape[1]
    noise = np.stack([np.random.default_rng(int(number)).standard_normal((points, 2)) for number in seed])
    return landmarks + torch.from_numpy(noise).to(device=landmarks.device, dtype=landmarks.dtype) * deviation
