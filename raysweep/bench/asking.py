"""R13: how long the searcher takes to propose and to learn, late in a long search."""

from __future__ import annotations

import statistics
import time

import numpy as np

from raysweep.bench.finding import Finding, How
from raysweep.bench.overhead import make_proposer
from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue
from raysweep.search.sampler import Proposal

__all__ = ["asking", "seconds_a_trial"]

KNOWN = 1000
TRIAL_S = 1.0
"""Kernel time of the shortest trial that the goals speak of."""
RUNNING = 3


def asking(how: How) -> list[Finding]:
    """Ask and tell of the default sampler with 1,000 trials behind it, against a trial of one second."""
    rounds = 5 if how.quick else 15
    spent: dict[str, float] = {}
    for sampler in ("tpe", "nsga2", "random"):
        how.tell(f"R13: {sampler} at trial {KNOWN}")
        each = seconds_a_trial(sampler, KNOWN, rounds)
        spent[sampler] = statistics.median(each)
        if sampler == "tpe":
            values = tuple(seconds / TRIAL_S for seconds in each)
    shown = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in spent.items())
    return [Finding("R13", values, f"two objectives, trials of {TRIAL_S:g} s; {shown}", facts={"ask_tell_s": spent})]


def seconds_a_trial(sampler: str, known: int, rounds: int) -> list[float]:
    """Processor seconds (nothing waits here; on a busy machine the clock would show anything) of one ask and one tell, with some trials always under way, `known` already told."""
    random = np.random.default_rng(0)
    proposer = make_proposer(known, "random")
    history = []
    for _ in range(known):
        proposal = proposer.ask()
        if proposal is not None:
            history.append(_record(proposal, random))
    proposer = make_proposer(2 * known, sampler, tuple(history))
    running = [proposal for _ in range(RUNNING) if (proposal := proposer.ask()) is not None]
    seconds = []
    for _ in range(rounds):
        started = time.thread_time()
        proposal = proposer.ask()
        asked = time.thread_time() - started
        if proposal is None:
            break
        running.append(proposal)
        record = _record(running.pop(0), random)
        started = time.thread_time()
        proposer.tell(record)
        seconds.append(asked + time.thread_time() - started)
    return seconds


def _record(proposal: Proposal, random: np.random.Generator) -> TrialRecord:
    privacy, utility = random.random(2)
    return TrialRecord(
        key=f"known-{proposal.number}",
        number=proposal.number,
        anonymizer=proposal.anonymizer,
        setting=proposal.setting,
        fidelity={},
        state="complete",
        metrics={"privacy": MetricValue(privacy), "utility": MetricValue(utility * (1 - privacy))},
        ended_at=float(proposal.number),
    )
