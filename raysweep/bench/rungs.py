"""R9: a trial that climbs all rungs against one that is run in full at once: what was measured on a lower rung counts on the next.

Beside it, in the facts and the note, the same of a generator that goes on training from rung to rung: there no step is done twice, but every
rung's faces are drawn and measured anew, so that it cannot reach R9's goal. What it saves is the training of trials that do not climb.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.bench.finding import Finding, How
from raysweep.engine.pools import LocalPool
from raysweep.engine.record import TrialRecord, TrialTask, Work
from raysweep.engine.trial import run_trial

__all__ = ["rungs"]

RUNGS = 2
IDENTITIES = 120
"""A third of the evaluated people must still be ten."""
STEPS, QUICK_STEPS = 120, 12
"""Of the generator: as `tune ganonymization` trains it, and for a quick look."""


def rungs(how: How) -> list[Finding]:
    """The same settings of blur both ways, with the networks and attackers of drawn faces; nothing is discarded."""
    values, whole_s, judged_s, trained = [], [], [], []
    with own_cache(how.folder):
        faces = drawn_faces(IDENTITIES, 7 if how.quick else 14)
        plan, (*lower, rest) = worker_plan(faces, rungs=RUNGS)
        _, (everything,) = worker_plan(faces)
        pool = LocalPool(plan)
        for turn in range(how.repeats + 1):
            how.tell(f"R9: {len(faces.references.faces)} faces, whole and by {RUNGS} rungs, round {turn + 1}")
            task = TrialTask(f"trial-{turn}", turn, "blur", {"kernel_size": 11 + 10 * turn}, 0)
            whole, climbed = _both_ways(task, pool, Work(everything), Work(rest, lower))
            steps = QUICK_STEPS if how.quick else STEPS
            generator = TrialTask(f"generator-{turn}", turn, "ganonymization", {"steps": steps}, turn, staged=True)
            at_once, in_stages = _both_ways(generator, pool, Work(everything), Work(rest, lower))
            if turn:  # the first one makes the referees
                values.append(climbed.seconds["wall"] / whole.seconds["wall"])
                whole_s.append(whole.seconds["wall"])
                judged_s.append(whole.seconds["judge"])
                trained.append(in_stages.seconds["wall"] / at_once.seconds["wall"])
    share = statistics.median(judged_s) / statistics.median(whole_s)
    note = (
        f"{RUNGS} rungs, {sum(map(len, everything))} faces; a whole trial of blur takes {statistics.median(whole_s):.1f} s, "
        f"{100 * share:.0f} % of it for attackers, who start again on each rung; a generator of {steps} steps that goes on training "
        f"from rung to rung, and is measured anew on each: {statistics.median(trained):.2f}"
    )
    return [Finding("R9", tuple(values), note, facts={"whole_s": whole_s, "judge_s": judged_s, "trained": trained})]


def _both_ways(task: TrialTask, pool: LocalPool, at_once: Work, by_rungs: Work) -> tuple[TrialRecord, TrialRecord]:
    """In full at once, and up all rungs.

    Raises:
        RuntimeError: what they find differs.
    """
    # Under keys of their own: a worker keeps what it has loaded of a trial.
    whole = run_trial(replace(task, key=f"{task.key}-whole", staged=False), pool, at_once)
    climbed = run_trial(task, pool, by_rungs, climbs=lambda record: True)
    if {name: value.value for name, value in whole.metrics.items() if value.ok} != {
        name: value.value for name, value in climbed.metrics.items() if value.ok
    }:
        raise RuntimeError(f"{task.setting}: the two ways do not agree")
    return whole, climbed
