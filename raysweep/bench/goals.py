"""The ratios that the engine is held to, and which function measures each. Imports nothing heavy.

Every ratio compares two things measured in one run on one machine, in turn: what it says holds on a slow machine and on a fast one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysweep.errors import ConfigError, nearest

__all__ = ["BENCHES", "GOALS", "Bench", "Goal", "choose"]


@dataclass(frozen=True)
class Goal:
    """One ratio and what it should be.

    Attributes:
        what: the ratio in words.
        best: the goal.
        worst: what it must not pass; between the two it falls short.
        at_least: larger is better.
        around: of a ratio that should be 1, the lower ends of goal and bound; above 1 they are `best` and `worst`.
    """

    what: str
    best: float
    worst: float
    at_least: bool = False
    around: tuple[float, float] | None = None

    @property
    def text(self) -> str:
        """`<= 1.05`, or `0.85 to 1.15`."""
        if self.around is not None:
            return f"{self.around[0]:g} to {self.best:g}"
        return f"{'>=' if self.at_least else '<='} {self.best:g}"

    def verdict(self, value: float) -> str:
        """`pass`, `falls short` or `fails`.

        >>> Goal("", 1.05, 1.2).verdict(1.1)
        'falls short'
        """
        if self.around is not None and value < 1:
            best, worst = self.around
            return "pass" if value >= best else "falls short" if value >= worst else "fails"
        sign = -1.0 if self.at_least else 1.0
        if sign * value <= sign * self.best:
            return "pass"
        return "falls short" if sign * value <= sign * self.worst else "fails"


@dataclass(frozen=True)
class Bench:
    """One measurement.

    Attributes:
        place: `module:function` under `raysweep.bench`.
        goals: keys of `GOALS` that it yields.
        takes: about how long on two cores, for the help.
        gpu: only where a GPU is.
        asked: only when it is named, for it takes long.
    """

    place: str
    goals: tuple[str, ...]
    takes: str
    gpu: bool = False
    asked: bool = False


GOALS: dict[str, Goal] = {
    "R1 models": Goal("steady rate of the pool / bare loop of the same networks", 0.95, 0.85, at_least=True),
    "R1 sleeps": Goal("the same with kernels that leave the processor free, as a GPU does", 0.95, 0.85, at_least=True),
    "R2": Goal("rate of the pool over ten minutes, its start included / bare loop", 0.90, 0.80, at_least=True),
    "R3": Goal(
        "share of the time in which the least busy GPU runs kernels while the pool measures", 0.95, 0.85, at_least=True
    ),
    "R4 pool": Goal("a trial more on the standing pool / its kernels per worker", 1.05, 1.20),
    "R4 Tune": Goal("a trial more through Ray Tune / its kernels per worker", 1.10, 1.20),
    "R5": Goal("what a trial more costs beside its kernels / the same of a plain Tune trial with reuse", 0.25, 0.25),
    "R6 2": Goal("rate of 2 workers / twice that of one", 0.97, 0.90, at_least=True),
    "R6 4": Goal("the same of 4", 0.95, 0.85, at_least=True),
    "R6 8": Goal("the same of 8", 0.92, 0.80, at_least=True),
    "R6 16": Goal("the same of 16", 0.90, 0.75, at_least=True),
    "R6 32": Goal("the same of 32", 0.90, 0.75, at_least=True),
    "R6 64": Goal("the same of 64", 0.90, 0.75, at_least=True),
    "R7": Goal("a second trial on the same faces / the first one, over what was foretold of it", 1.10, 1.25),
    "R8": Goal("a finished sweep again / its first run", 0.02, 0.05),
    "R9": Goal("a trial that climbs all rungs / one run in full at once", 1.03, 1.10),
    "R10": Goal("work of a sweep killed once a minute / left alone", 1.05, 1.15),
    "R11": Goal(
        "trials whose records are dropped / the same with ledger, checksums and evidence", 0.98, 0.95, at_least=True
    ),
    "R12 up": Goal("trials with MLflow on SQLite / without a tracker", 1.02, 1.05),
    "R12 down": Goal("the same with a tracker that is down", 1.02, 1.05),
    "R12 slow": Goal("the same with a tracker that takes 5 s to refuse", 1.02, 1.05),
    "R13": Goal("ask and tell at trial 1,000 / a trial", 0.01, 0.05),
    "R14 GPU": Goal(
        "rate of decoding on a GPU, detecting and aligning / rate of the embedder", 1.0, 0.7, at_least=True
    ),
    "R14 CPU": Goal("the same with all cores for everything, for comparison", 1.0, 0.0, at_least=True),
    "R15": Goal(
        "FLOP/s of the embedder / of torchvision's ResNet-50, both half and compiled", 0.80, 0.60, at_least=True
    ),
    "R16": Goal("embedder at half precision, compiled / as it is", 3.0, 2.0, at_least=True),
    "R17 blur": Goal("rate of blur / rate of the embedder, on a GPU", 5.0, 2.0, at_least=True),
    "R17 pixelate": Goal("rate of pixelate / rate of the embedder, on a GPU", 5.0, 2.0, at_least=True),
    "R18": Goal("scores of all pairs, counted / the bare matrix product", 1.3, 2.0),
    "R19 anonymize": Goal("memory of `anonymize` at 10 times the data / at once", 1.10, 1.25),
    "R19 prepare": Goal("memory of `prepare` at 10 times the data / at once", 1.10, 1.25),
    "R20": Goal("time that a dry run foretells / time that the sweep takes", 1.15, 1.4, around=(0.85, 0.7)),
    "R23 sleeps": Goal(
        "eight small trials that share batches / one after the other, kernels as of a GPU that is far from full",
        2.0,
        1.2,
        at_least=True,
    ),
    "R23 models": Goal("the same with networks on a GPU", 2.0, 1.2, at_least=True),
    "sweep": Goal("a whole sweep / a plain script in one process that scores the same settings", 1.0, 1.2),
    "many time": Goal("a trial late in a long sweep / an early one", 1.20, 1.50),
    "many memory": Goal("MB that each trial leaves behind", 0.05, 0.2),
    "many real time": Goal("the same of real trials of some tenths of a second", 1.20, 1.50),
    "many real memory": Goal("MB that each real trial leaves behind", 0.05, 0.2),
    "R24 workers": Goal(
        "share of records equal in every bit on 1, 2 and 7 workers (threads=1)", 1.0, 1.0, at_least=True
    ),
    "R24 kills": Goal("share of records equal in every bit after 20 kills", 1.0, 1.0, at_least=True),
    "R25": Goal("`raysweep --help` / bare interpreter", 6.0, 12.0),
    "R26": Goal("all workers loaded / one worker loaded alone", 1.3, 2.0),
}

BENCHES: dict[str, Bench] = {
    "R1": Bench("steady:steady", ("R1 models", "R1 sleeps"), "1 min"),
    "R2": Bench("whole_run:whole_run", ("R2",), "11 min", asked=True),
    "R3": Bench("busy:busy", ("R3",), "2 min, needs a GPU", gpu=True),
    "R4": Bench("overhead:overhead", ("R4 pool", "R4 Tune", "R5"), "2 min"),
    "R6": Bench("scale:scale", tuple(f"R6 {size}" for size in (2, 4, 8, 16, 32, 64)), "9 min"),
    "R7": Bench("foretold:again", ("R7",), "4 min"),
    "R8": Bench("rerun:rerun", ("R8",), "1 min"),
    "R9": Bench("rungs:rungs", ("R9",), "2 min"),
    "R10": Bench("kills:kills", ("R10",), "3 min"),
    "R11": Bench("costs:record_cost", ("R11",), "3 min"),
    "R12": Bench("costs:tracker_cost", ("R12 up", "R12 down", "R12 slow"), "6 min"),
    "R13": Bench("asking:asking", ("R13",), "20 s"),
    "R14": Bench("preprocessing:preprocessing", ("R14 GPU", "R14 CPU"), "1 min, needs a GPU", gpu=True),
    "R16": Bench("precision:precision", ("R16", "R15"), "2 min, needs a GPU", gpu=True),
    "R17": Bench("classical:classical", ("R17 blur", "R17 pixelate"), "30 s, needs a GPU", gpu=True),
    "R18": Bench("pairs:all_pairs", ("R18",), "20 s"),
    "R19": Bench("memory:memory", ("R19 anonymize", "R19 prepare"), "4 min; --faces 5000: 40 min"),
    "R20": Bench("foretold:foretold", ("R20",), "6 min"),
    "R23": Bench("sharing:sharing", ("R23 sleeps", "R23 models"), "1 min"),
    "R24": Bench("digests:digests", ("R24 workers", "R24 kills"), "4 min"),
    "R25": Bench("startup:startup", ("R25",), "5 s"),
    "R26": Bench("startup:pool_start", ("R26",), "2 min"),
    "sweep": Bench("against:against", ("sweep",), "15 min", asked=True),
    "many": Bench("many:many", ("many time", "many memory", "many real time", "many real memory"), "6 min"),
}

ALSO = {"R5": "R4", "R15": "R16"}
"""Ratios that another bench yields on its way."""


def choose(names: Sequence[str]) -> list[str]:
    """Names of `BENCHES`, in their order; all that are not for request only when none is given.

    Raises:
        ConfigError: every name that is not known.
    """
    if not names:
        return [name for name, bench in BENCHES.items() if not bench.asked]
    known = [*BENCHES, *ALSO]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise ConfigError(
            [f"--only {name}: no such measurement{nearest(name, known)}; known: {', '.join(known)}" for name in wrong]
        )
    asked = {ALSO.get(name, name) for name in names}
    return [name for name in BENCHES if name in asked]
