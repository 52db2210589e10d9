"""`raysweep train expression|ganonymization|ciagan|inpainting [key=value ...]`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from raysweep.commands.common import add_faces_arguments, runs_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from raysweep.config import RunSettings
    from raysweep.tracking.terminal import LiveView
    from raysweep.training.jobs import Job

KINDS = {
    "expression": "a seven-class expression classifier; anonymizer=NAME adapts it to anonymized faces",
    "ganonymization": "the conditional generator of GANonymization",
    "ciagan": "the generator of CIAGAN with its critic and siamese network",
    "inpainting": "a small DeepPrivacy2 generator",
}

EXAMPLES = (
    "python -m raysweep train expression architecture=small steps=40 batch_size=16 size=64 "
    "--data synthetic:identities=40,images_per_identity=7 roles.G=0.5 roles.T=0.08",
    "python -m raysweep train expression anonymizer=blur anonymizer.kernel_size=31 architecture=small steps=20 batch_size=16 size=64 "
    "--data synthetic:identities=40,images_per_identity=7 roles.G=0.5 roles.T=0.08",
    "python -m raysweep train ganonymization steps=20 batch_size=4 width=8 --data synthetic:identities=40,images_per_identity=7",
    "python -m raysweep train ciagan steps=4 batch_size=4 --data synthetic:identities=40,images_per_identity=7",
    "python -m raysweep train inpainting steps=4 batch_size=4 --data synthetic:identities=40,images_per_identity=7",
)

RUN_KEYS = ("seed", "frame", "roles", "conflicts")
"""Run settings that a training takes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "what", choices=tuple(KINDS), help="; ".join(f"{kind}: {words}" for kind, words in KINDS.items())
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="its settings (steps, batch_size, learning_rate, ...; a wrong one lists them all), seed, frame.size, roles.G",
    )
    add_faces_arguments(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where weights, models.yaml and report.json go (default: a folder of its own in --runs)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in that folder")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that share each batch, through Ray Train (default 1)",
    )
    parser.add_argument(
        "--address", metavar="RAY", help="a running Ray cluster for --workers (its nodes must share --out)"
    )
    parser.add_argument("--runs", metavar="DIR", help="where runs are kept (default: RAYSWEEP_RUNS or ./runs)")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, prepare the faces, train, print the report."""
    from raysweep.errors import ConfigError

    given, run_settings = _settings(arguments.settings)
    adapt = _anonymizer(arguments.what, given)
    if arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: at least 1")
    _model(arguments.what, given)

    from rich.console import Console

    from raysweep.engine.worker import pick_device
    from raysweep.models.zoo import open_zoo
    from raysweep.tracking.info import SweepInfo
    from raysweep.tracking.terminal import live_view

    zoo = open_zoo(arguments.models)
    info = SweepInfo(
        f"train {arguments.what}",
        "",
        arguments.data or "drawn faces",
        arguments.data is None or arguments.data.startswith("synthetic"),
        adapt[0] if adapt else "",
        runs_folder(arguments),
    )
    with live_view(info) as view:
        job = _job(arguments, given, run_settings, zoo, view)
        folder, done = _folder(arguments, job)
        if done is None:
            if adapt:
                job = _adapted(job, adapt, folder, view)
            if job.pupils.warning:
                view.note(job.pupils.warning)
            done = _train(arguments, job, folder, view, pick_device())
    Console(highlight=False).print(_tables(done, folder))
    return 0


def _settings(words: list[str]) -> tuple[dict[str, Any], RunSettings]:
    """Settings of the kind, as given; and the run settings among them."""
    from raysweep.config import parse_assignments, resolve_run

    parsed = parse_assignments(words)
    of_run = [word for word in words if word.partition("=")[0].split(".")[0] in RUN_KEYS]
    heads = {key for key in parsed if key.split(".")[0] in RUN_KEYS}
    return {key: value for key, value in parsed.items() if key not in heads}, resolve_run(of_run, {})


def _anonymizer(kind: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Take `anonymizer=NAME` (or `on=NAME`) and `anonymizer.key=value` out of the settings and check them."""
    from raysweep.errors import ConfigError

    if "on" in given:
        given.setdefault("anonymizer", given.pop("on"))
    setting = {key.removeprefix("anonymizer."): given.pop(key) for key in list(given) if key.startswith("anonymizer.")}
    name = given.get("anonymizer")
    if name is None:
        if setting:
            raise ConfigError(f"anonymizer.{next(iter(setting))} is given without anonymizer=NAME")
        return None
    if kind != "expression":
        raise ConfigError(f"train {kind}: anonymizer is a setting of `train expression`")
    from raysweep.anonymizers.registry import get_anonymizer

    made = get_anonymizer(str(name), allow_file=True)(**setting)
    given["anonymizer_setting"] = dict(made.setting)
    return str(name), dict(made.setting)


def _model(kind: str, given: Mapping[str, Any]) -> Any:
    """The checked settings."""
    from raysweep.training.job_expression import ExpressionSettings
    from raysweep.training.job_generators import CiaganSettings, GanonymizationSettings, InpaintingSettings
    from raysweep.training.jobs import Settings, parse_settings

    models: dict[str, type[Settings]] = {
        "expression": ExpressionSettings,
        "ganonymization": GanonymizationSettings,
        "ciagan": CiaganSettings,
        "inpainting": InpaintingSettings,
    }
    return parse_settings(models[kind], given, kind)


def _job(
    arguments: argparse.Namespace, given: Mapping[str, Any], run_settings: RunSettings, zoo: Any, view: LiveView
) -> Job:
    from raysweep.training.job_expression import ExpressionJob
    from raysweep.training.job_generators import CiaganJob, GanonymizationJob, InpaintingJob
    from raysweep.training.people import prepare_pupils

    kinds: dict[str, type[Any]] = {
        "expression": ExpressionJob,
        "ganonymization": GanonymizationJob,
        "ciagan": CiaganJob,
        "inpainting": InpaintingJob,
    }
    settings = _model(arguments.what, given)
    pupils = prepare_pupils(
        run_settings, view, data=arguments.data, kind=arguments.kind, zoo=zoo, people=settings.people
    )
    job: Job = kinds[arguments.what](settings, pupils, zoo, run_settings.seed, arguments.workers)
    job.check()
    return job


def _folder(arguments: argparse.Namespace, job: Job) -> tuple[Path, dict[str, Any] | None]:
    """Where it goes; and the report of the same training, when it has ended there before."""
    from pathlib import Path

    from raysweep.training.run import open_folder

    folder = (
        Path(arguments.out).expanduser()
        if arguments.out
        else runs_folder(arguments) / f"train-{job.kind}-{job.key[:8]}"
    )
    return folder, open_folder(folder, job.key, arguments.resume)


def _adapted(job: Job, adapt: tuple[str, dict[str, Any]], folder: Path, view: LiveView) -> Job:
    """The same job on anonymized faces; its key stays that of the settings, which name the anonymizer."""
    from dataclasses import replace

    from raysweep.engine.worker import pick_device
    from raysweep.training.job_expression import anonymized_pupils

    pupils = anonymized_pupils(
        job.pupils,
        *adapt,
        job.zoo,
        job.seed,
        folder,
        pick_device(),
        lambda done, total: view.stage("anonymizing", done, total),
    )
    return replace(job, pupils=pupils)


def _train(arguments: argparse.Namespace, job: Job, folder: Path, view: LiveView, device: Any) -> dict[str, Any]:
    import os
    import time
    from contextlib import nullcontext

    from raysweep.engine.session import start_ray
    from raysweep.training.run import run_job

    started = time.perf_counter()
    first: list[float] = []
    said = [started]

    def tell(row: Mapping[str, float]) -> None:
        step = int(row["step"])
        if not first:
            first.append(step)
        now = time.perf_counter()
        rate = job.settings.batch_size * (step - first[0]) / (now - started) if step > first[0] else None
        view.stage("training", step, job.settings.steps, rate)
        if now - said[0] >= 5.0 or step == job.settings.steps:
            said[0] = now
            terms = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
            view.note(f"step {step}: {terms}")

    view.stage("training", 0, job.settings.steps)
    shared = job.workers > 1
    with (
        start_ray(cpus=max(job.workers + 1, os.cpu_count() or 1), address=arguments.address)
        if shared
        else nullcontext()
    ):
        return run_job(job, folder, resume=arguments.resume, tell=tell, note=view.note, device=device)


def _tables(report: Mapping[str, Any], folder: Path) -> Any:
    """The short table at the end, and for a classifier its confusion matrix."""
    from rich.console import Group
    from rich.text import Text

    from raysweep.commands.tables import plain_table
    from raysweep.tracking.text import plain

    on = report["trained_on"]
    last = report["curve"][-1] if report["curve"] else {}
    rows = [
        (
            "learned from",
            f"{on['faces']} faces, {on['identities'] or 'unknown'} people ({on['people']}) of {plain(on['dataset'], 80)}",
        ),
        ("steps", str(report["settings"]["steps"])),
        ("last losses", ", ".join(f"{name} {value:.4g}" for name, value in last.items() if name != "step")),
    ]
    rows += [(str(what), str(value)) for what, value in report.get("lines", ())]
    rows += [
        ("weights", f"{report['weights']['file']}, {report['weights']['bytes'] / 2**20:.1f} MiB"),
        ("use", f"--models {folder}"),
        ("report", str(folder / "report.json")),
    ]
    parts: list[Any] = [plain_table(f"{report['kind']}: {report['name']}", ("", ""), rows)]
    scores = report.get("scores")
    if scores:
        columns = ("shown as", *scores["classes"])
        confusion = [(name, *map(str, row)) for name, row in zip(scores["classes"], scores["confusion"], strict=True)]
        parts += [Text(), plain_table("confusion: truth by answer", columns, confusion)]
    return Group(*parts)
