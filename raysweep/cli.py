"""The command line: finds the verb, turns errors into one message and an exit code. Imports nothing heavy."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from raysweep import __version__
from raysweep.errors import ConfigError, RaysweepError, nearest

__all__ = ["VERBS", "main", "verb_parser"]

VERBS: dict[str, str] = {
    "tune": "search an anonymizer's settings for the privacy-utility front",
    "evaluate": "score one setting of one anonymizer",
    "report": "write the report of a sweep as one page; tables; a score bundle",
    "anonymize": "apply a point of a sweep to a whole data set",
    "prepare": "read, detect, align and measure a data set once",
    "train": "train an expression classifier or an anonymizer's generator",
    "cache": "list, add up, verify or remove what is kept of data sets",
    "ls": "list spaces, anonymizers, attackers, metrics, models, data, runs",
    "show": "print a search space with all settings resolved, and its hash",
    "models": "fetch or verify weights",
    "bench": "measure on this machine what the engine costs beside its kernels",
    "ui": "open the MLflow UI on this machine",
    "doctor": "check this machine and this installation",
}

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `raysweep VERB ...`.

    Returns:
        0 done; 1 failed while running; 2 wrong input, nothing started; 130 interrupted by Ctrl-C, 143 by SIGTERM (the same command goes on).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"raysweep {__version__}")
        return 0
    verb = words[0]
    try:
        if verb not in VERBS:
            raise ConfigError(f"unknown verb {verb!r}{nearest(verb, list(VERBS))}; known: {', '.join(VERBS)}")
        arguments = verb_parser(verb).parse_intermixed_args(words[1:])
        _quiet_libraries()
        return int(importlib.import_module(f"raysweep.commands.{verb}").run(arguments))
    except RaysweepError as error:
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"raysweep {verb}: {lines[0]}", file=sys.stderr)
        for line in lines[1:]:
            print(f"  {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"\nraysweep {verb}: interrupted; what is finished is kept, the same command goes on", file=sys.stderr)
        return int(getattr(stop, "exit_code", EXIT_INTERRUPTED))
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): not an error, but nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The parser of one verb, with its examples."""
    command = importlib.import_module(f"raysweep.commands.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"raysweep {verb}",
        description=VERBS[verb][0].upper() + VERBS[verb][1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in command.EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    return parser


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        f"raysweep {__version__}: which face anonymizer, at which setting, hides who a person is and still shows what the face expresses\n\n"
        f"usage: raysweep VERB ...\n\n{verbs}\n\n"
        "examples:\n  python -m raysweep tune ganonymization\n  python -m raysweep ui\n\n"
        "`raysweep VERB --help` explains a verb."
    )


def _quiet_libraries() -> None:
    """Telemetry off and logs down, before any of them is imported."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ.setdefault("ORT_LOGGING_LEVEL", "3")
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
