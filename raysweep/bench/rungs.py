"""R9: a trial that climbs all rungs against one that is run in full at once: what was measured on a lower rung counts on the next."""

from __future__ import annotations

import statistics

from raysweep.bench.drawn import drawn_faces, own_cache, worker_plan
from raysweep.bench.finding import Finding, How
from raysweep.engine.pools import LocalPool
from raysweep.engine.record import TrialTask, Work
from raysweep.engine.trial import run_trial

__all__ = ["rungs"]

RUNGS = 2
IDENTITIES = 120
"""A third of the evaluated people must still be ten."""


def rungs(how: How) -> list[Finding]:
    """The same settings of blur both ways, with the networks and attackers of drawn faces; nothing is discarded."""
    values, whole_s, judged_s = [], [], []
    with own_cache(how.folder):
        faces = drawn_faces(IDENTITIES, 7 if how.quick else 14)
        plan, (*lower, rest) = worker_plan(faces, rungs=RUNGS)
        _, (everything,) = worker_plan(faces)
        pool = LocalPool(plan)
        for turn in range(how.repeats + 1):
            how.tell(f"R9: {len(faces.references.faces)} faces, whole and by {RUNGS} rungs, round {turn + 1}")
            task = TrialTask(f"trial-{turn}", turn, "blur", {"kernel_size": 11 + 10 * turn}, 0)
            whole = run_trial(task, pool, Work(everything))
            climbed = run_trial(task, pool, Work(rest, lower), climbs=lambda record: True)
            if {name: value.value for name, value in whole.metrics.items() if value.ok} != {
                name: value.value for name, value in climbed.metrics.items() if value.ok
            }:
                raise RuntimeError(f"{task.setting}: the two ways do not agree")
            if turn:  # the first one makes the referees
                values.append(climbed.seconds["wall"] / whole.seconds["wall"])
                whole_s.append(whole.seconds["wall"])
                judged_s.append(whole.seconds["judge"])
    share = statistics.median(judged_s) / statistics.median(whole_s)
    note = f"{RUNGS} rungs, {sum(map(len, everything))} faces; a whole trial of blur takes {statistics.median(whole_s):.1f} s, {100 * share:.0f} % of it for attackers, who start again on each rung"
    return [Finding("R9", tuple(values), note, facts={"whole_s": whole_s, "judge_s": judged_s})]
