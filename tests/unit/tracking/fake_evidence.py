"""A run whose trials were judged by the real referee on drawn embeddings, so that its evidence is real too: no faces, no sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fake_sweep import sweep_info

from raysweep.engine.evidence import COMMON, DIGEST_NOTE, EvidenceStore
from raysweep.engine.record import TrialRecord
from raysweep.objective import Protocol, Referee
from raysweep.schema import FaceTable, Measurements
from raysweep.tracking.stored import StoredRun

PEOPLE = {"G": 2, "T": 8, "S": 10, "E": 14}
IMAGES = 6
MODELS = ("near", "vendor/far net")
JUDGES = ("first", "second")


def table() -> FaceTable:
    total = sum(PEOPLE.values())
    role = np.repeat(list(PEOPLE), [count * IMAGES for count in PEOPLE.values()])
    half = np.tile(np.where(np.arange(IMAGES) % 2 == 0, "enrol", "probe"), total)
    return FaceTable(
        face_id=np.array([f"Zoltan Example/{i}.jpg" for i in range(len(role))]),
        identity=np.arange(total).repeat(IMAGES).astype(np.int64),
        expression=np.random.default_rng(0).integers(0, 7, len(role)).astype(np.int64),
        role=role,
        side=np.where(np.isin(role, ["S", "E"]), half, ""),
        identity_names=tuple(f"Zoltan Example {i}" for i in range(total)),
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def _probabilities(faces: FaceTable, skill: float, seed: int) -> np.ndarray:
    logits = skill * np.eye(7)[faces.expression] + np.random.default_rng(seed).standard_normal((len(faces), 7))
    shares = np.exp(logits)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)


def _measured(faces: FaceTable, noise: float, blur: float, seed: int) -> Measurements:
    """Faces whose identity drowns in noise; `blur` takes the expression away."""
    rng = np.random.default_rng(seed)
    embeddings = {}
    for index, name in enumerate(MODELS):
        centre = np.random.default_rng(100 + index).standard_normal((len(faces.identity_names), 32))
        embeddings[name] = _unit(centre[faces.identity] + (0.4 + noise) * rng.standard_normal((len(faces), 32)))
    probabilities = {name: _probabilities(faces, 6.0 * (1 - blur), 7 + index) for index, name in enumerate(JUDGES)}
    return Measurements(embeddings, probabilities, {})


def judged_run(attackers: tuple[str, ...] = ("A0", "A1", "A2", "A3"), count: int = 3) -> StoredRun:
    """Trials along a trade-off and the controls `identity` and `blackout`, as a sweep would keep them."""
    faces = table()
    clear = _measured(faces, 0.0, 0.0, 1)
    referee = Referee(faces, clear, Protocol(attackers=attackers, bootstrap=200))
    nothing = Measurements(
        {name: np.zeros_like(rows) for name, rows in clear.embeddings.items()},
        {name: np.zeros_like(rows) for name, rows in clear.probabilities.items()},
        {},
    )
    releases = [("identity", -1, clear), ("blackout", -1, nothing)]
    releases += [
        ("", number, _measured(faces, 0.5 + 0.7 * number, 0.35 * number, 50 + number)) for number in range(count)
    ]
    records = []
    for control, number, measured in releases:
        judgement = referee.judge(measured)
        records.append(
            TrialRecord(
                key=f"control-{control}" if control else f"{number:08x}",
                number=number,
                anonymizer=control or "noise",
                setting={} if control else {"strength": number},
                fidelity={"identities": 14},
                state="complete",
                metrics=judgement.metrics,
                attackers=tuple(judgement.attackers),
                seconds={"anonymize": 1.0, "judge": 0.5, "wall": 1.6},
                control=control,
                ended_at=1_760_000_000.0 + number,
                evidence=judgement.evidence,
            )
        )
    info = replace(
        sweep_info(Path("runs")), anonymizer="noise", fidelity={}, parameters=("strength",), identities=dict(PEOPLE)
    )
    run = {"attackers": list(attackers), "bootstrap": 200, "seed": 0}
    return StoredRun(info, tuple(records), run, {"code": "0" * 16}, referee.common_evidence(), source="noise-3f2a91c0")


def store(run: StoredRun, folder: Path) -> Path:
    """Write it as a sweep does; returns the run folder."""
    import json

    from raysweep.engine.ledger import Ledger

    folder.mkdir(parents=True)
    evidence = EvidenceStore(folder)
    digest = evidence.write(COMMON, run.common)
    content = {"info": run.info.to_dict(), "run": dict(run.run), "basis": dict(run.basis), "common_evidence": digest}
    (folder / "sweep.json").write_text(json.dumps(content), encoding="utf-8")
    with Ledger(folder / "ledger.jsonl") as ledger:
        for record in run.records:
            note = evidence.write(record.key, record.evidence) if record.evidence else ""
            ledger.append(replace(record, notes={**record.notes, **({DIGEST_NOTE: note} if note else {})}))
    return folder
