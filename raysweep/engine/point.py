"""A point to apply: a trial of a finished sweep (`RUN#12`, `RUN#knee`), or an anonymizer with its setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.config import RunSettings, check_run, resolve_evaluation
from raysweep.errors import ConfigError

if TYPE_CHECKING:
    from raysweep.engine.record import TrialRecord
    from raysweep.search.parameters import Value
    from raysweep.tracking.stored import StoredRun

__all__ = ["Point", "find_point"]

KNEE = "knee"


@dataclass(frozen=True)
class Point:
    """What is to be applied.

    Attributes:
        anonymizer, setting, seed: of the trial, or as given.
        run: settings of the sweep, or as given: frame, assignment, roles.
        typed: the anonymizer was named on the command line.
        folder, stored, record: of the sweep and the trial; None for a setting that was given.
    """

    anonymizer: str
    setting: Mapping[str, Value]
    seed: int
    run: RunSettings
    typed: bool
    folder: Path | None = None
    stored: StoredRun | None = None
    record: TrialRecord | None = None

    @property
    def words(self) -> str:
        """For the screen."""
        if self.record is None or self.stored is None:
            return self.anonymizer
        return f"trial {self.record.number} of {self.stored.source}"


def find_point(name: str, assignments: list[str], runs: Path) -> Point:
    """What the command line means.

    Args:
        name: `RUN#NUMBER` or `RUN#knee`, RUN a run folder, the start of its name or key, or nothing for the newest; or an anonymizer.
        assignments: `key=value` words of an anonymizer.
        runs: folder of runs.

    Raises:
        ConfigError: no such run or trial, or a wrong setting; says which there are.
    """
    if "#" not in name or name.startswith("file:"):
        config = resolve_evaluation(name, assignments, flags={})
        arm = config.space.arms[0]
        return Point(arm.anonymizer, arm.settings[0], config.run.seed, config.run, typed=True)
    return _from_run(name, assignments, runs)


def _from_run(name: str, assignments: list[str], runs: Path) -> Point:
    from raysweep.tracking.standing import standing
    from raysweep.tracking.stored import find_run, load_run

    run_name, _, which = name.rpartition("#")
    if assignments:
        raise ConfigError(
            f"{name} is a trial with its own setting; leave out {' '.join(assignments)}, or name an anonymizer in place of the trial"
        )
    if which != KNEE and not (which.isascii() and which.isdecimal()):
        raise ConfigError(f"{name}: after # comes the number of a trial, or {KNEE}")
    folder = find_run(run_name or None, runs)
    stored = load_run(folder)
    state = standing(stored.records, stored.info)
    front = ", ".join(str(record.number) for record in state.front) or "none"
    if which == KNEE:
        record = state.knee
        if record is None:
            raise ConfigError(f"{folder.name} has no front, so no knee; name a trial by its number")
    else:
        record = next((item for item in state.trials if item.number == int(which)), None)
        if record is None:
            raise ConfigError(
                f"{folder.name} has no trial {which}: it has {len(state.trials)}, on the front are {front}"
            )
        if record.state != "complete":
            raise ConfigError(f"trial {which} of {folder.name} failed ({record.reason}); on the front are {front}")
    settings, problems = check_run(stored.run, f"{folder.name}: ")
    if settings is None:
        raise ConfigError([f"{folder.name} was made by another raysweep, its settings cannot be read:", *problems])
    return Point(
        record.anonymizer,
        dict(record.setting),
        record.seed,
        settings,
        False,
        folder=folder,
        stored=stored,
        record=record,
    )
