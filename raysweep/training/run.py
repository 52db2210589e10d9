"""From a job to its report: one process or several through Ray Train, resumable, with the losses on screen while it trains."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raysweep.errors import ConfigError, StoreError, TrialError
from raysweep.training.jobs import Job, write_product
from raysweep.training.loop import CHECKPOINTS, train
from raysweep.training.saves import last_checkpoint

__all__ = ["REPORT", "open_folder", "run_job"]

REPORT = "report.json"
PROGRESS = "progress.jsonl"
LOOK_EVERY_S = 1.0

Tell = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class _Share:
    """What each process of a shared training is sent."""

    job: Job
    folder: str
    resume: bool
    cuda: bool
    threads: int


def run_job(
    job: Job,
    folder: Path,
    *,
    resume: bool,
    tell: Tell,
    note: Callable[[str], None],
    device: torch.device,
) -> dict[str, Any]:
    """Train, write the result and its report.

    Args:
        job: checked.
        folder: exists; of this training.
        resume: go on from its last checkpoint.
        tell: gets `step` and the terms of the loss.
        note: gets remarks.
        device: of a single process, and of the last scores; several processes take one GPU each where `device` is CUDA.

    Returns:
        The content of report.json.

    Raises:
        ConfigError, DataError, ModelError, StoreError, TrialError: see the parts.
    """
    started = time.perf_counter()
    plan = job.plan
    if job.workers == 1:
        trainer, examples = job.build(plan.update(device))
        curve = train(trainer, examples, plan, folder, report=tell, resume=resume, note=note)
    else:
        _train_shared(job, folder, resume, device, tell, note)
        trainer, _ = job.build(plan.update(device))
        found = last_checkpoint(folder / CHECKPOINTS)
        if found is None or found[0] != plan.steps:
            raise TrialError(f"{folder}: the workers ended without the checkpoint of step {plan.steps}")
        trainer.load_state_dict(found[1]["trainer"])
        curve = [dict(row) for row in found[1]["watch"]["curve"]]
    for module in trainer.modules().values():
        module.eval()
    product = job.finish(trainer, device)
    seconds = {"this_run": round(time.perf_counter() - started, 2)}
    report = write_product(job, product, folder, curve, {"seconds": seconds, "device": str(device)})
    (folder / PROGRESS).unlink(missing_ok=True)
    if job.pupils.crops:
        Path(job.pupils.crops).unlink(missing_ok=True)
    return {**report, "lines": list(product.lines)}


def _train_shared(
    job: Job, folder: Path, resume: bool, device: torch.device, tell: Tell, note: Callable[[str], None]
) -> None:
    """Several processes through Ray Train; rank 0 writes the losses to a file that is read here while they train.

    Raises:
        TrialError: a worker failed; with its reason.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cuda = device.type == "cuda"
    progress = folder / PROGRESS
    progress.unlink(missing_ok=True)
    state = folder.absolute() / "ray"
    threads = max(1, (os.cpu_count() or 1) // job.workers)
    share = _Share(job, str(folder), resume, cuda, threads)
    trainer = TorchTrainer(
        _train_my_share,
        train_loop_config={"share": share},
        scaling_config=ScalingConfig(num_workers=job.workers, use_gpu=cuda),
        run_config=RunConfig(name="ray", storage_path=str(state)),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo"),
    )
    ended = threading.Event()
    reader = threading.Thread(target=_follow, args=(progress, ended, tell, note), daemon=True)
    reader.start()
    try:
        trainer.fit()
        shutil.rmtree(state)  # Ray Train's own notes of a run that has ended
    except Exception as error:  # Ray Train wraps what a worker raised in classes of its own
        from raysweep.engine.session import our_error

        ours = our_error(error)
        raise TrialError(f"a worker failed: {ours}") from error
    finally:
        ended.set()
        reader.join()


def _train_my_share(config: Mapping[str, Any]) -> None:
    """One process of a shared training."""
    from ray.train import get_context
    from ray.train.torch import get_device

    share: _Share = config["share"]
    rank = get_context().get_world_rank()
    torch.set_num_threads(share.threads)
    device = get_device() if share.cuda else torch.device("cpu")
    if isinstance(device, list):
        device = device[0]
    trainer, examples = share.job.build(share.job.plan.update(device))
    folder = Path(share.folder)

    def append(row: Mapping[str, Any]) -> None:
        if rank == 0:
            with (folder / PROGRESS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    train(
        trainer,
        examples,
        share.job.plan,
        folder,
        report=append,
        resume=share.resume,
        note=lambda text: append({"note": text}),
        rank=rank,
    )


def _follow(progress: Path, ended: threading.Event, tell: Tell, note: Callable[[str], None]) -> None:
    """Pass on what rank 0 appends, until told that it has ended."""
    read = 0
    while True:
        last = ended.wait(LOOK_EVERY_S)
        text = progress.read_text(encoding="utf-8") if progress.is_file() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()
        for line in lines[read:]:
            row = json.loads(line)
            if "note" in row:
                note(row["note"])
            else:
                tell(row)
        read = len(lines)
        if last:
            return


def open_folder(folder: Path, key: str, resume: bool) -> dict[str, Any] | None:
    """Make the folder of a training, or look what is in it.

    Returns:
        The report when this very training has ended there already and `resume` asks for it; else None.

    Raises:
        ConfigError: something else is there; or a training, and `resume` was not given.
        StoreError: cannot be made or read.
    """
    path = folder / REPORT
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: {error}") from error
    begun = (folder / CHECKPOINTS).is_dir() and any((folder / CHECKPOINTS).glob("step-*.save"))
    if (report is not None or begun) and not resume:
        what = "a finished" if report is not None else "an unfinished"
        raise ConfigError(f"{folder} holds {what} training; add --resume to go on with it, or give another --out")
    if report is None and not begun and (folder / "models.yaml").exists():
        raise ConfigError(f"{folder}: its models.yaml would be overwritten; give another --out")
    if report is not None and report.get("key") == key:
        return dict(report)
    if report is not None:
        raise ConfigError(
            f"{folder} holds a finished training of other settings, faces or code; give another --out to train anew"
        )
    return None
