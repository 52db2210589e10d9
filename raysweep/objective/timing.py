"""How long the referee takes, part by part: `python -m raysweep.objective.timing --faces 10000`.

The faces are random points around random people: what they cost to judge does not depend on what they show.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from raysweep.objective.protocol import Protocol
from raysweep.objective.referee import Referee
from raysweep.schema import EXPRESSIONS, FaceTable, FloatArray, Measurements

__all__ = ["EMBEDDING_ATTACKERS", "made_up", "referee_seconds"]

EMBEDDING_ATTACKERS = ("A0", "A1", "A2", "A2c", "A2m", "A3", "A4", "A5", "A6", "A7")
"""The whole ladder; what A2m and A4 need pixels for is made up too."""
SHARES = {"G": 0.10, "T": 0.48, "S": 0.14, "E": 0.28}


def made_up(
    faces: int, images: int = 20, dims: tuple[int, ...] = (512, 128), seed: int = 0
) -> tuple[FaceTable, Measurements, Measurements]:
    """Labels, clear and anonymized measurements of so many faces, `images` of each person."""
    random = np.random.default_rng(seed)
    people = max(8, faces // images)
    bounds = np.round(np.cumsum(list(SHARES.values())) * people).astype(int)
    role_of = np.array(list(SHARES))[np.searchsorted(bounds, np.arange(people), side="right").clip(max=3)]
    identity = np.arange(people).repeat(images).astype(np.int64)
    role = role_of[identity]
    half = np.tile(np.where(np.arange(images) % 2 == 0, "enrol", "probe"), people)
    table = FaceTable(
        face_id=np.array([f"face {number}" for number in range(len(identity))]),
        identity=identity,
        expression=random.integers(0, len(EXPRESSIONS), len(identity)).astype(np.int64),
        role=role,
        side=np.where(np.isin(role, ["S", "E"]), half, ""),
        identity_names=tuple(f"person {number}" for number in range(people)),
    )

    def embeddings(noise: float) -> dict[str, FloatArray]:
        found = {}
        for number, dim in enumerate(dims):
            centre = np.random.default_rng([seed, number]).standard_normal((people, dim), dtype=np.float32)
            rows = centre[identity] + noise * random.standard_normal((len(identity), dim), dtype=np.float32)
            found[f"embedder {number}"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return found

    def answers(skill: float) -> dict[str, FloatArray]:
        logits = skill * np.eye(len(EXPRESSIONS))[table.expression] + random.standard_normal((len(identity), 7))
        shares = np.exp(logits)
        return {
            f"judge {number}": np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)
            for number in range(2)
        }

    clear = Measurements(embeddings(0.6), answers(3.0), {})
    realism = {name: random.random(len(identity), dtype=np.float32) for name in ("psnr", "ssim")}
    extra = {"mixed": embeddings(1.6), "restored:ridge": embeddings(1.2)}
    return table, clear, Measurements(embeddings(1.5), answers(1.5), realism, extra=extra)


def referee_seconds(faces: int, attackers: tuple[str, ...] = EMBEDDING_ATTACKERS, images: int = 20) -> dict[str, float]:
    """Seconds of one whole pass over so many faces: making the referee (once per sweep), then judging (once per trial), by part.

    Returns:
        `clear side`, `judge`, and of that each attacker (`A2`, its name through all embedders and both roles; learning included in the one
        that learns first), `verification`, `utility`, `leaks`.
    """
    table, clear, anonymized = made_up(faces, images)
    protocol = Protocol(attackers=attackers, assignment="per_identity")
    spent: dict[str, float] = {}
    started = time.perf_counter()
    referee = Referee(table, clear, protocol)
    spent["clear side"] = time.perf_counter() - started
    with _timed(referee, spent):
        started = time.perf_counter()
        referee.judge(anonymized)
        spent["judge"] = time.perf_counter() - started
    return spent


@contextmanager
def _timed(referee: Referee, spent: dict[str, float]) -> Iterator[None]:
    """Count the seconds of each part while the block runs."""
    parts: list[tuple[Any, str, Callable[..., str]]] = [
        (referee.privacy.attacks, "run", lambda attack, *_: str(attack.key[0])),
        *(
            (getattr(referee, name), "judge", lambda *_, name=name, **__: name)
            for name in ("verification", "utility", "leaks")
        ),
    ]
    for owner, method, label in parts:
        plain = getattr(owner, method)

        def run(*given: Any, plain: Callable[..., Any] = plain, label: Callable[..., str] = label, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return plain(*given, **named)
            finally:
                name = label(*given)
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

        setattr(owner, method, run)
    try:
        yield
    finally:
        for owner, method, _ in parts:
            delattr(owner, method)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Seconds that judging takes, by part.")
    parser.add_argument("--faces", type=int, default=10_000, help="how many faces (default 10000)")
    parser.add_argument("--images", type=int, default=20, help="images per person (default 20)")
    parser.add_argument("--attackers", default=",".join(EMBEDDING_ATTACKERS), help="which rungs, by comma")
    given = parser.parse_args()
    spent = referee_seconds(given.faces, tuple(given.attackers.split(",")), given.images)
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "seconds", title=f"referee, {given.faces} faces")
    for name, seconds in spent.items():
        table.add_row(name, f"{seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
