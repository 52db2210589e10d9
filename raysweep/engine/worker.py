"""One worker: models loaded once, clear faces resident, and the work items of a trial.

No Ray here: a pool runs this class in actors, tests and the local engine run it in their own process.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext, Teachers
from raysweep.anonymizers.batch import face_batch
from raysweep.anonymizers.registry import get_anonymizer
from raysweep.attackers.base import CLEAR_EXTRA, Attacker
from raysweep.attackers.pixels import Darkroom, Extra, askers
from raysweep.engine.appearance import Appearance
from raysweep.engine.batching import BatchSizes
from raysweep.engine.chunks import best_chunk, chunk_rate
from raysweep.engine.controls import ControlStore
from raysweep.engine.evidence import SHEET
from raysweep.engine.fitted import Fitted, Learned
from raysweep.engine.record import Outcome, TrialTask
from raysweep.engine.references import References, ReferenceStore, take_faces
from raysweep.engine.states import StateStore
from raysweep.errors import StoreError, TrialError
from raysweep.metrics.realism import psnr, ssim
from raysweep.models.embedders import CropEmbedder, TorchEmbedder
from raysweep.models.zoo import Zoo
from raysweep.objective import Protocol, Referee
from raysweep.preprocess.frame import extract
from raysweep.schema import EXPRESSIONS, AlignedFaces, FaceBatch, FaceTable, FloatArray, IntArray, Measurements
from raysweep.search.fidelity import Ladder
from raysweep.search.parameters import Value
from raysweep.training.stages import PAUSED

__all__ = ["Measured", "TrialWorker", "WorkerPlan", "pick_device"]

MODEL = "model:"
"""Before the names of embedders in what is stored of clear faces."""
STAGES = ("anonymize", "embed", "express", "realism")
"""Of measuring, whose seconds are kept apart."""
SHEET_FACES = 7
"""Faces of a contact sheet."""
LOADED_ANONYMIZERS = 4
"""Fitted anonymizers a worker keeps loaded (several trials are in flight at once)."""


@dataclass(frozen=True)
class WorkerPlan:
    """What every worker of a sweep loads.

    Attributes:
        references: folder of the reference store.
        zoo: weights at hand for this kind of faces.
        dataset, seed, shares, need_privacy: how identities are given roles, see `data.roles.face_table`.
        protocol: of the referee.
        batch_size: faces per forward pass at most.
        threads: CPU threads of this worker.
        states: run folder in which to keep what trials learn, see `engine.states`; empty for nowhere.
        ladder: rungs on which a trial may be judged before it is run in full.
        precision: of the recognisers on a GPU; `float16` for those written in torch whose answers it does not change.
    """

    references: str
    zoo: Zoo
    dataset: str
    seed: int
    shares: Mapping[str, float] | None
    need_privacy: bool
    protocol: Protocol
    batch_size: int
    threads: int
    states: str = ""
    ladder: Ladder = field(default_factory=Ladder)
    precision: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True)
class Measured:
    """Measurements of some rows, in the order of `rows`."""

    rows: IntArray
    measurements: Measurements
    seconds: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)


def pick_device() -> torch.device:
    """CUDA when present, else CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TrialWorker:
    """Loads everything once; then answers `fit`, `measure`, `develop` and `judge` any number of times, in any order.

    Args:
        plan: what to load.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        from raysweep.models.perceptual import load_perceptual

        torch.set_num_threads(plan.threads)
        self.plan = plan
        self.device = pick_device()
        self.references: References = ReferenceStore(Path(plan.references)).load(
            dataset=plan.dataset, seed=plan.seed, shares=plan.shares, need_privacy=plan.need_privacy
        )
        faces = self.references.faces
        self._zoo = plan.zoo
        self._embedders = self._zoo.embedders(self.device, threads=plan.threads)
        self._expression = self._zoo.expression_models(self.device, threads=plan.threads)
        perceptual = load_perceptual(self._zoo, self.device)
        self._lpips = perceptual if not isinstance(perceptual, str) else None
        self.rows = scored_rows(faces, plan.protocol)
        table = faces.table.take(self.rows)
        self._appearance = Appearance(self._zoo, self._expression, faces, self.device, plan.threads)
        features, detected = self._appearance.look_at_all(self.rows, self._crops, plan.batch_size)
        clear = replace(take_measurements(self.references.clear, self.rows), features=features, realism=detected)
        self._position = {int(row): index for index, row in enumerate(self.rows)}
        self._teachers: Teachers | None = None
        self._loaded: OrderedDict[tuple[str, float], Anonymizer] = OrderedDict()
        self._sizes = BatchSizes(plan.batch_size)
        self._rungs: dict[int, tuple[IntArray, Referee]] = {}
        self._askers = askers(plan.protocol.make_attackers())
        store = ControlStore(Path(plan.references))
        self._clear = clear
        self._tuned = self._tune(store) if self.device.type == "cuda" else {}
        self.referee = Referee(table, self._with_clear_extras(clear, store), plan.protocol, store.get)

    def ready(self) -> dict[str, Any]:
        """What this worker holds (also: proof that it has started)."""
        return {"device": str(self.device), "rows": len(self.rows)}

    def tuned(self) -> dict[str, str]:
        """How recognisers are run on a GPU, by name; empty without one."""
        return self._tuned

    def clear_summary(self) -> dict[str, Any]:
        """Metrics of the clear faces, to be shown beside the front."""
        return self.referee.clear_summary()

    def common_evidence(self) -> dict[str, Any]:
        """Labels, as codes, that the evidence of all trials shares."""
        return self.referee.common_evidence()

    # ------------------------------------------------------------ work items
    def fit(self, task: TrialTask, rung: int | None = None, earlier: Fitted | None = None) -> Fitted:
        """Let the anonymizer learn what it needs, or as much of it as belongs to a rung.

        Args:
            task: of the trial; with a rung, one that is trained in stages.
            rung: below full fidelity; None: all that is left to learn.
            earlier: of the rung before, to go on from.

        Raises:
            TrialError: with the reason; configuration errors keep their own type.
        """
        started = time.perf_counter()
        curves = {} if earlier is None else {name: list(values) for name, values in earlier.curves.items()}

        def report(numbers: Mapping[str, float]) -> None:
            for name, value in numbers.items():
                curves.setdefault(name, []).append(float(value))

        faces = self.references.faces
        anonymizer = self._make(task)
        learns = type(anonymizer).fit is not Anonymizer.fit  # else nobody looks, and nothing need be copied
        context = FitContext(
            background=take_faces(faces, faces.table.rows("G") if learns else faces.table.rows("G")[:0]),
            releases=_Releases(faces) if anonymizer.releases == "group" else {},
            teachers=self._get_teachers() if anonymizer.trains else Teachers(),
            device=self.device,
            seed=task.seed,
            report=report,
            share=1.0 if rung is None else self.plan.ladder.shares[rung],
            earlier=None if earlier is None else earlier.state.without(),
        )
        state = anonymizer.fit(context)
        for name, values in curves.items():
            if not all(math.isfinite(value) for value in values):
                raise TrialError(
                    f"training diverged: {name} is not finite; a smaller learning_rate or loss weight may help"
                )
        if rung is None and self.plan.states and not task.control and anonymizer.releases == "per_image":
            with suppress(StoreError):  # what is not kept can be learned again; a full disk stops the ledger anyway
                StateStore(Path(self.plan.states)).write(task.key, state)
        return Fitted(
            state=Learned(state),
            curves={name: tuple(values) for name, values in curves.items()},
            seconds={"fit": time.perf_counter() - started + (0.0 if earlier is None else earlier.seconds["fit"])},
            share=context.share,
            steps=context.until(anonymizer.resumable_steps()) if task.staged else None,
        )

    def measure(self, task: TrialTask, fitted: Fitted, rows: IntArray) -> Measured:
        """Anonymize some rows and measure them while the pixels are on the device."""
        anonymizer = self._load(task, fitted)
        seconds = dict.fromkeys(STAGES, 0.0)

        def measured(chosen: IntArray) -> Measurements:
            return self._measure_batch(anonymizer, self._batch(chosen, task.seed), chosen, seconds)

        parts = self._sizes.run(task.anonymizer, rows, measured)
        return Measured(rows, concatenate(parts), seconds, dict(getattr(anonymizer, "guarantee", None) or {}))

    def measure_together(
        self, tasks: Sequence[TrialTask], fitted: Sequence[Fitted], rows: Sequence[IntArray]
    ) -> list[Measured]:
        """The same for a few rows of each of several trials, which share the batches of the measuring networks.

        Raises:
            TrialError: of any of the trials; no word of the others then.
        """
        images, clear, apart = [], [], []
        for task, state, own in zip(tasks, fitted, rows, strict=True):
            seconds = dict.fromkeys(STAGES, 0.0)
            anonymizer = self._load(task, state)
            batch = self._batch(own, task.seed)
            clear.append(batch.image)
            images.append(self._release(anonymizer, batch, seconds))
            apart.append((seconds, dict(getattr(anonymizer, "guarantee", None) or {})))
        shared = dict.fromkeys(STAGES, 0.0)
        together = self._look(torch.cat(images), torch.cat(clear), np.concatenate(rows), shared)
        measured, start, total = [], 0, sum(map(len, rows))
        for own, (seconds, notes) in zip(rows, apart, strict=True):
            places = np.arange(start, start + len(own))
            start += len(own)
            for stage, value in shared.items():
                seconds[stage] += value * len(own) / total
            measured.append(Measured(own, take_measurements(together, places), seconds, notes))
        return measured

    def develop(self, task: TrialTask, fitted: Fitted, name: str) -> Extra:
        """What an attacker needs pixels for: restored probes, or T at random strengths."""
        started = time.perf_counter()
        extra = self._darkroom(task, fitted).develop(self._askers[name], self._load(task, fitted))
        return replace(extra, seconds=time.perf_counter() - started)

    def judge(self, task: TrialTask, fitted: Fitted, parts: list[Measured], extras: Sequence[Extra] = ()) -> Outcome:
        """Attack and score the measurements of all rows of a trial, in whatever order they come."""
        started = time.perf_counter()
        order = np.concatenate([[self._position[int(row)] for row in part.rows] for part in parts]).astype(np.int64)
        if len(order) != len(self.rows) or len(np.unique(order)) != len(order):
            raise TrialError(f"trial {task.number}: {len(order)} rows measured, {len(self.rows)} expected")
        together = concatenate([part.measurements for part in parts])
        measured = self._with_extras(take_measurements(together, np.argsort(order)), extras)
        judgement = self.referee.judge(measured, self._known_to(task))
        seconds = _sum_seconds(fitted, parts)
        for extra in extras:
            seconds["develop"] = seconds.get("develop", 0.0) + extra.seconds
        seconds["judge"] = time.perf_counter() - started
        return Outcome(
            metrics=judgement.metrics,
            attackers=tuple(judgement.attackers),
            curves=fitted.curves,
            seconds=seconds,
            notes=parts[0].notes,
            evidence={**judgement.evidence, **self._sheet(task, fitted)},
        )

    def judge_rung(self, task: TrialTask, fitted: Fitted, parts: list[Measured], rung: int) -> Outcome:
        """The same on the people of one rung below full fidelity, by attackers that need no pixels."""
        started = time.perf_counter()
        rows, referee = self._rung(rung)
        order = np.concatenate([part.rows for part in parts])
        if not np.array_equal(np.sort(order), self.rows[rows]):
            raise TrialError(f"trial {task.number}: {len(order)} rows measured on rung {rung}, {len(rows)} expected")
        together = take_measurements(concatenate([part.measurements for part in parts]), np.argsort(order))
        judgement = referee.judge(self._without_extras(together), self._known_to(task))
        table = referee.ground.table
        people = table.identity[table.rows("E")]
        return Outcome(
            metrics=judgement.metrics,
            attackers=tuple(judgement.attackers),
            curves=fitted.curves,
            seconds={**_sum_seconds(fitted, parts), "judge": time.perf_counter() - started},
            notes=parts[0].notes,
            fidelity={
                "identities": len(np.unique(people[people >= 0])),
                "images": len(order),
                **({} if fitted.steps is None else {"steps": fitted.steps}),
            },
        )

    def _rung(self, rung: int) -> tuple[IntArray, Referee]:
        """Places in `rows` of the people of one rung, and their referee, made when first asked for."""
        if rung not in self._rungs:
            table = self.references.faces.table.take(self.rows)
            rows = self.plan.ladder.rows(table, self.plan.seed)[rung]
            clear = take_measurements(self._clear, rows)
            protocol = self.plan.protocol.on_rung(self.plan.ladder.shares[rung])
            self._rungs[rung] = rows, Referee(table.take(rows), self._without_extras(clear), protocol)
        return self._rungs[rung]

    def _without_extras(self, measured: Measurements) -> Measurements:
        return replace(measured, absent=dict.fromkeys(self._askers, "not tried below full fidelity"))

    # ---------------------------------------------------------------- inside
    def _sheet(self, task: TrialTask, fitted: Fitted) -> dict[str, Any]:
        """A few released faces for the report, when the faces are drawn: no pixel of a photograph ever leaves a worker."""
        faces = self.references.faces
        rows = shown_rows(faces.table)
        if not faces.synthetic or not len(rows):
            return {}
        with torch.inference_mode():
            image = self._load(task, fitted).anonymize(self._batch(rows, task.seed))
        return {SHEET: image.permute(0, 2, 3, 1).cpu().numpy()}

    def _tune(self, store: ControlStore) -> dict[str, str]:
        """Find out how many faces at a time, and at which precision, suit the device: once for all workers, whose answers are then the same."""
        images, frame = self._crops(self.rows[: self.plan.batch_size]), self.references.faces.frame
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        found = {}
        for model in self._embedders:
            if not isinstance(model, CropEmbedder):
                continue
            asked = [self._zoo.found[model.name].sha256, model.provider, device, self.plan.batch_size]
            words = []
            if self.plan.precision == "float16" and isinstance(model, TorchEmbedder):
                cosine = model.use_half(images, frame)
                words.append(f"{model.precision} precision (smallest cosine to single precision {cosine:.5f})")
                asked.append(model.precision)
            crops = extract(images, frame, model.input.region, model.input.size)

            def measure(model: CropEmbedder = model, crops: torch.Tensor = crops) -> dict[str, Any]:
                return {"chunk": np.array([best_chunk(partial(chunk_rate, model, crops), self.plan.batch_size)])}

            digest = hashlib.sha256(json.dumps(["chunk", *asked]).encode()).hexdigest()
            model.chunk = int(store.get(digest[:32], measure)["chunk"][0])
            found[model.name] = ", ".join([f"{model.chunk} faces at a time", *words])
        return found

    def _get_teachers(self) -> Teachers:
        from raysweep.models.teachers import check_lineage, teachers

        if self._teachers is None:
            self._teachers = teachers(self._zoo, self.device, self.references.faces.frame)
            check_lineage(self._teachers, self._expression)
        return self._teachers

    def _make(self, task: TrialTask) -> Anonymizer:
        made = get_anonymizer(task.anonymizer, allow_file=True)(**task.setting)
        made.for_faces(self.references.faces.synthetic)
        families = made.weights_needed()
        if families:
            made.use_weights({family: self._zoo.generator(family) for family in families})
        return made

    def _known_to(self, task: TrialTask) -> frozenset[str]:
        """Embedders that a loss term of the trial, or the training of its published weights, made use of."""
        from raysweep.models.teachers import teacher_entries

        anonymizer = self._make(task)
        seen: frozenset[str] = frozenset()
        if "identity" in anonymizer.teachers_needed():
            teacher, _ = teacher_entries(self._zoo)
            seen |= self._zoo.lineage(teacher.name) if teacher is not None else frozenset()
        for family in anonymizer.weights_needed():
            seen |= self._zoo.lineage(self._zoo.generator(family).name)
        return frozenset(model.name for model in self._embedders if model.lineage & seen)

    def _darkroom(self, task: TrialTask, fitted: Fitted) -> Darkroom:
        def release(anonymizer: Anonymizer, rows: IntArray) -> torch.Tensor:
            # Not in inference mode: restorers train on what comes out.
            with torch.no_grad():
                parts = [anonymizer.anonymize(self._batch(part, task.seed)) for part in self._pieces(rows)]
            return torch.cat([part.clone() for part in parts])

        def remake(setting: Mapping[str, Value]) -> Anonymizer:
            made = self._make(replace(task, setting=setting))
            made.load(fitted.state.without(PAUSED), self.device)
            return made

        return Darkroom(
            table=self.references.faces.table,
            clear=self._crops,
            release=release,
            embed=self._embed,
            remake=remake,
            seed=task.seed,
            embedders=self._embedders,
            frame=self.references.faces.frame,
        )

    def _pieces(self, rows: IntArray) -> list[IntArray]:
        return [rows[start : start + self.plan.batch_size] for start in range(0, len(rows), self.plan.batch_size)]

    def _embed(self, image: torch.Tensor) -> dict[str, FloatArray]:
        frame = self.references.faces.frame
        with torch.inference_mode():
            parts = [
                {model.name: model.embed(part, frame) for model in self._embedders}
                for part in torch.split(image, self.plan.batch_size)
            ]
        return {model.name: np.concatenate([part[model.name] for part in parts]) for model in self._embedders}

    def _with_extras(self, measured: Measurements, extras: Iterable[Extra]) -> Measurements:
        """The same, and what attackers had measured beside it; rows as in the referee's table."""
        found: dict[str, dict[str, FloatArray]] = {}
        absent: dict[str, str] = {}
        for extra in extras:
            if extra.absent:
                absent[extra.name] = extra.absent
                continue
            places = np.array([self._position[int(row)] for row in extra.rows], dtype=np.int64)
            found[extra.name] = {
                model: _spread(rows, places, len(self.rows), 0.0) for model, rows in extra.embeddings.items()
            }
        return replace(measured, extra=found, absent=absent)

    def _with_clear_extras(self, clear: Measurements, store: ControlStore) -> Measurements:
        """Restorers on clear faces: what they can do at best. Learned once for all workers."""
        from raysweep.provenance import code_digest

        extras = []
        for name, asker in self._askers.items():
            if name in CLEAR_EXTRA:
                continue
            task = TrialTask("clear", -1, "identity", {}, self.plan.seed, "identity")
            content = [code_digest(), Path(self.plan.references).name, dict(self.plan.shares or {}), repr(asker)]
            digest = hashlib.sha256(json.dumps([*content, self.plan.seed, self.plan.need_privacy]).encode()).hexdigest()

            def make(name: str = name, task: TrialTask = task) -> dict[str, Any]:
                extra = self.develop(task, Fitted.nothing(), name)
                # An absent reason may be longer than any name: it travels as text of its own.
                return {"rows": extra.rows, "absent": np.array([extra.absent]), **_prefixed(extra.embeddings)}

            stored = store.get(digest[:32], make)
            models = {item.removeprefix(MODEL): rows for item, rows in stored.items() if item.startswith(MODEL)}
            extras.append(Extra(name, stored["rows"].astype(np.int64), models, str(stored["absent"][0])))
        return self._with_extras(clear, extras)

    def _load(self, task: TrialTask, fitted: Fitted) -> Anonymizer:
        key = (task.key, fitted.share)  # the generator of an earlier rung draws other faces
        loaded = self._loaded.pop(key, None)
        if loaded is None:
            loaded = self._make(task)
            loaded.load(fitted.state.without(PAUSED), self.device)
        self._loaded[key] = loaded
        while len(self._loaded) > LOADED_ANONYMIZERS:
            self._loaded.popitem(last=False)
        return loaded

    def _batch(self, rows: IntArray, seed: int) -> FaceBatch:
        per_person = self.plan.protocol.assignment == "per_identity"
        return face_batch(self.references.faces.take(rows), seed, self.device, per_person)

    def _crops(self, rows: IntArray) -> torch.Tensor:
        """(n, 3, S, S) uint8 clear crops on the device."""
        crops = np.ascontiguousarray(self.references.faces.crop[rows].transpose(0, 3, 1, 2))
        return torch.from_numpy(crops).to(self.device)

    def _measure_batch(
        self, anonymizer: Anonymizer, batch: FaceBatch, rows: IntArray, seconds: dict[str, float]
    ) -> Measurements:
        """Anonymize a batch and measure it."""
        return self._look(self._release(anonymizer, batch, seconds), batch.image, rows, seconds)

    def _release(self, anonymizer: Anonymizer, batch: FaceBatch, seconds: dict[str, float]) -> torch.Tensor:
        """(n, 3, S, S) uint8 anonymized crops."""
        mark = time.perf_counter()
        with torch.inference_mode():
            image = anonymizer.anonymize(batch)
            if image.shape != batch.image.shape or image.dtype != torch.uint8:
                raise TrialError(
                    f"{anonymizer.name}: returned {tuple(image.shape)} {image.dtype}, "
                    f"must be {tuple(batch.image.shape)} torch.uint8"
                )
        _lap(seconds, "anonymize", mark, self.device)
        return image

    def _look(
        self, image: torch.Tensor, clear_image: torch.Tensor, rows: IntArray, seconds: dict[str, float]
    ) -> Measurements:
        """Measure anonymized crops beside the clear ones.

        Faces of T only teach attackers, and realism is reported on E: what nobody reads is not computed.
        """
        role, frame = self.references.faces.table.role[rows], self.references.faces.frame
        mark = time.perf_counter()
        with torch.inference_mode():
            embeddings = {model.name: model.embed(image, frame) for model in self._embedders}
            mark = _lap(seconds, "embed", mark, self.device)
            express, realist = np.flatnonzero(role != "T"), np.flatnonzero(role == "E")
            probabilities = {
                model.name: _spread(model.probabilities(image[express], frame), express, len(rows), 0.0)
                for model in self._expression
                if len(express)
            } or {model.name: np.zeros((len(rows), len(EXPRESSIONS)), np.float32) for model in self._expression}
            mark = _lap(seconds, "express", mark, self.device)
            clear, changed = clear_image[realist], image[realist]
            measured: dict[str, FloatArray] = {
                name: np.zeros(0, np.float32) for name in ("psnr", "ssim", *(["lpips"] if self._lpips else []))
            }
            if len(realist):
                measured |= {"psnr": psnr(clear, changed).cpu().numpy(), "ssim": ssim(clear, changed).cpu().numpy()}
                if self._lpips is not None:
                    measured["lpips"] = self._lpips(clear, changed)
            realism = {name: _spread(values, realist, len(rows), np.nan) for name, values in measured.items()}
            features, detected = self._appearance.look(image, rows)
            _lap(seconds, "realism", mark, self.device)
        return Measurements(embeddings, probabilities, realism | detected, features)


def _prefixed(models: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    return {MODEL + name: rows for name, rows in models.items()}


def _sum_seconds(fitted: Fitted, parts: Sequence[Measured]) -> dict[str, float]:
    seconds = dict(fitted.seconds)
    for part in parts:
        for stage, value in part.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + value
    return seconds


def _spread(values: FloatArray, places: IntArray, count: int, empty: float) -> FloatArray:
    """Values of some rows of a batch, in an array of all its rows."""
    whole = np.full((count, *values.shape[1:]), empty, dtype=np.float32)
    whole[places] = values
    return whole


class _Releases(dict[str, AlignedFaces]):
    """Faces per release, copied out of the store only when asked for."""

    def __init__(self, faces: AlignedFaces) -> None:
        super().__init__()
        self._faces = faces
        self._release = faces.table.release
        self._names = tuple(sorted(set(self._release.tolist()) - {"G"}))

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> Any:
        return self._names

    def items(self) -> Any:
        return [(name, self[name]) for name in self._names]

    def values(self) -> Any:
        return [self[name] for name in self._names]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __missing__(self, name: str) -> AlignedFaces:
        if name not in self._names:
            raise KeyError(name)
        return take_faces(self._faces, np.flatnonzero(self._release == name).astype(np.int64))


def _lap(seconds: dict[str, float], stage: str, since: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    now = time.perf_counter()
    seconds[stage] += now - since
    return now


def shown_rows(table: FaceTable) -> IntArray:
    """One face of each of the first people of role E, each with another expression where there is one: always the same faces."""
    rows = table.rows("E")
    people = np.unique(table.identity[rows])[:SHEET_FACES]
    chosen = []
    for number, person in enumerate(people.tolist()):
        own = rows[table.identity[rows] == person]
        wanted = own[table.expression[own] == number % len(EXPRESSIONS)]
        chosen.append(int((wanted if len(wanted) else own)[0]))
    return np.array(chosen, dtype=np.int64)


def scored_rows(faces: AlignedFaces, protocol: Protocol) -> IntArray:
    """Rows that a trial anonymizes: S and E, and T when an attacker of the protocol trains on it."""
    trains = any("train" in each.needs | _needed_by_members(each) for each in protocol.make_attackers())
    roles = ["S", "E", *(["T"] if trains else [])]
    return np.sort(np.concatenate([faces.table.rows(role) for role in roles]))


def _needed_by_members(each: Attacker) -> frozenset[str]:
    """Of an attacker that asks others (`members` of a fused one, `attacker` of a transferred one)."""
    others = (*getattr(each, "members", ()), *([each.attacker] if hasattr(each, "attacker") else []))
    return frozenset[str]().union(*(other.needs for other in others))


def take_measurements(measurements: Measurements, rows: IntArray) -> Measurements:
    """The same measurements for some rows."""
    return Measurements(
        {name: values[rows] for name, values in measurements.embeddings.items()},
        {name: values[rows] for name, values in measurements.probabilities.items()},
        {name: values[rows] for name, values in measurements.realism.items()},
        {name: values[rows] for name, values in measurements.features.items()},
    )


def concatenate(parts: list[Measurements]) -> Measurements:
    """Measurements of several batches, in their order."""

    def join(pick: str) -> dict[str, Any]:
        return {name: np.concatenate([getattr(part, pick)[name] for part in parts]) for name in getattr(parts[0], pick)}

    return Measurements(join("embeddings"), join("probabilities"), join("realism"), join("features"))
