"""Controls that tell a weak attack from strong privacy: clear, null and random, and the gate that uses them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raysweep.attackers.base import AttackView, Embeddings

__all__ = ["clear_control", "null_control", "random_control", "vacuity"]


def clear_control(view: AttackView) -> AttackView:
    """Clear faces on both sides: what this attacker can do at best."""
    return view.with_anonymized(view.clear)


def null_control(view: AttackView) -> AttackView:
    """Identity labels permuted within enrolment: must give chance."""
    generator = np.random.default_rng([view.seed, 1])
    identity = view.identity.copy()
    identity[view.enrol] = generator.permutation(identity[view.enrol])
    return replace(view, identity=identity, company={})


def random_control(view: AttackView) -> AttackView:
    """Gaussian embeddings in place of all faces: must give chance."""
    generator = np.random.default_rng([view.seed, 2])
    n, dim = len(view.clear), view.clear.row.shape[1]
    noise = [Embeddings.of(generator.standard_normal((n, dim)).astype(np.float32)) for _ in range(2)]
    return replace(view, clear=noise[0], anonymized=noise[1], extra={}, company={}, learned={})


def vacuity(clear: float, clear_lo: float, chance: float, backbone: float) -> str:
    """Why an attacker says nothing about privacy, or empty.

    Args:
        clear: its rank-1 on clear faces, with `clear_lo` the lower end of the 95 % interval.
        chance: 1 / gallery.
        backbone: rank-1 on clear faces of the frozen embedder below it.
    """
    if not clear_lo > chance:
        return f"not above chance on clear faces ({clear:.3f}, lower end {clear_lo:.3f}, chance {chance:.3f})"
    if clear < 0.5 * backbone:
        return f"below half of its own embedder on clear faces ({clear:.3f} against {backbone:.3f})"
    return ""
