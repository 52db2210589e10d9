"""Plausible records without a sweep: a front with a trade-off, failed, undefined and control rows, and hostile names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.tracking.info import ModelInfo, SweepInfo

HOSTILE = "a\nb\r\x1b[31mred\x00 <script>alert(1)</script> [bold]x[/bold] $\\alpha$ | =1+1 \u202eevil " + "y" * 9000


def value(number: float, spread: float = 0.05, **more: object) -> MetricValue:
    return MetricValue(number, max(0.0, number - spread), min(1.0, number + spread), n=480, n_ids=30, **more)  # type: ignore[arg-type]


def record(number: int, privacy: float | None, utility: float | None, **more: object) -> TrialRecord:
    """A complete trial; None makes the objective undefined."""
    fields: dict[str, object] = {
        "key": f"{number:08x}",
        "number": number,
        "anonymizer": "ganonymization",
        "setting": {"width": 16 + 8 * (number % 3), "identity_weight": 0.1 * (number + 1), "expression_loss": ("none", "logit")[number % 2]},
        "fidelity": {"identities": 30},
        "state": "complete",
        "metrics": {
            "privacy": MetricValue.undefined("identities without repeats") if privacy is None else value(privacy),
            "utility": MetricValue.undefined("one expression only") if utility is None else value(utility, 0.04),
            "privacy/naive": value(0.97, 0.01),
            "utility/match": value(0.8 if utility is None else utility),
            "realism/ssim": MetricValue(0.41, n=480),
            "realism/lpips": MetricValue.undefined("no weights for the alexnet backbone"),
        },
        "attackers": (
            {"attacker": "ignorant", "embedder": "small_a", "rank1_E": 0.06, "advantage_S": 0.02, "status": "ok", "reason": ""},
            {"attacker": "adaptive_head", "embedder": "small_a", "rank1_E": 0.31, "advantage_S": 0.28, "status": "ok", "reason": ""},
            {"attacker": "lazy", "embedder": "small_b", "rank1_E": 0.5, "advantage_S": 0.9, "status": "vacuous", "reason": "control at chance"},
        ),
        "curves": {"loss_g": (2.0, 1.5, 1.1), "loss_d": (0.7, float("nan"), 0.6)},
        "seconds": {"fit": 4.2, "anonymize": 0.7, "wall": 6.5},
        "ended_at": 1_760_000_000.0 + 7 * number,
    }  # fmt: skip
    fields.update(more)
    return TrialRecord(**fields)  # type: ignore[arg-type]


def failed(number: int, reason: str = "the generator diverged at step 12") -> TrialRecord:
    return record(number, None, None, state="failed", reason=reason, metrics={}, attackers=(), curves={})


def control(name: str, privacy: float, utility: float) -> TrialRecord:
    return record(1000 + len(name), privacy, utility, control=name, setting={}, key=f"control-{name}", curves={})


def sweep(count: int = 18, seed: int = 3) -> list[TrialRecord]:
    """Trials along a trade-off with noise, one failed, one undefined, and the controls."""
    rng = np.random.default_rng(seed)
    records = []
    for number in range(count):
        along = rng.uniform(0.05, 0.98)
        short = rng.uniform(0.0, 0.25)
        privacy = float(np.clip(along - short * 0.5, 0.0, 1.0))
        utility = float(np.clip((1 - along**2.2) - short, 0.0, 1.0))
        records.append(record(number, privacy, utility))
    records.append(failed(count))
    records.append(record(count + 1, None, 0.5))
    records += [control("identity", 0.0, 1.0), control("blackout", 1.0, 0.0), control("untrained", 0.93, 0.04)]
    return records


def sweep_info(folder: Path, **more: object) -> SweepInfo:
    fields: dict[str, object] = {
        "name": "ganonymization",
        "key": "3f2a91c07b1d",
        "dataset": "synthetic",
        "synthetic": True,
        "anonymizer": "ganonymization",
        "run_folder": folder / "ganonymization-3f2a91c0",
        "space": {"anonymizer": "ganonymization", "parameters": {"width": {"choices": [16, 24, 32]}, "identity_weight": {"low": 0.1, "high": 2.0}}},
        "parameters": ("width", "identity_weight", "expression_loss"),
        "sampler": "tpe",
        "seed": 7,
        "trials": 20,
        "fidelity": {"identities": 30},
        "command": "python -m raysweep tune ganonymization",
        "faces": 1200,
        "identities": {"G": 10, "T": 50, "S": 15, "E": 30},
        "quarantined": {"no face found": 3},
        "models": (
            ModelInfo("synthetic_embedder_a", "embedder", "MIT", "ab" * 32),
            ModelInfo("synthetic_expression", "expression", "MIT", "cd" * 32),
        ),
        "clear": {"clear/rank1/small_a": value(0.97, 0.02), "clear/accuracy/expression": value(0.91, 0.03)},
        "versions": {"raysweep": "0.1.0", "ray": "2.60.0", "torch": "2.15.0"},
    }  # fmt: skip
    fields.update(more)
    return SweepInfo(**fields)  # type: ignore[arg-type]
