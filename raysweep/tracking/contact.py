"""Contact sheets: what released faces look like.

Drawn faces are kept with each trial's evidence, the clear ones in the control `identity`. Of photographs nothing is kept: on request a few
are released again, from the prepared faces on this machine, and only the anonymized side is ever shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from raysweep.engine.evidence import SHEET
from raysweep.engine.record import TrialRecord
from raysweep.errors import ConfigError, RaysweepError, StoreError
from raysweep.tracking.analysis import Analysis
from raysweep.tracking.parts import Block, Sheet, SheetRow, Text
from raysweep.tracking.standing import setting_words
from raysweep.tracking.stored import StoredRun
from raysweep.tracking.text import plain

if TYPE_CHECKING:
    from raysweep.anonymizers.base import FitContext
    from raysweep.schema import AlignedFaces

__all__ = ["drawn_sheet", "identity_names", "photograph_sheet"]

MAX_ROWS = 14
MAX_SIDE = 128
MAX_WORDS = 48
WARNING = (
    "These are anonymized photographs of real people. Someone who knows a person may still recognise them: look at the numbers above before "
    "this page is passed on."
)

Images = npt.NDArray[np.uint8]


def drawn_sheet(found: Analysis) -> list[Block]:
    """Rows of drawn faces, clear ones first; nothing when the faces are photographs or none were kept."""
    if not found.run.info.synthetic:
        return []
    first = [record for record in found.state.controls if record.control == "identity"]
    rows = [
        _row(found, record, images)
        for record in [*first, *_shown(found), *(item for item in found.state.controls if item.control != "identity")]
        if (images := _images(record)) is not None
    ]
    return [Sheet(rows), Text("The same drawn people, one expression each.", "small")] if rows else []


def photograph_sheet(found: Analysis, models: str | None) -> list[Block]:
    """Release a few photographs again with the settings of the front, and show the released side alone.

    Args:
        found: the analysis; its run names the prepared faces.
        models: folder of weights, for anonymizers that compute with some or are trained.

    Raises:
        StoreError: the prepared faces are not on this machine any more.
        ConfigError: the faces are not those of the run.
    """
    from raysweep.engine.worker import shown_rows

    faces = _prepared(found.run)
    rows = shown_rows(faces.table)
    made: list[SheetRow] = []
    failures: list[Block] = []
    for record in _shown(found):
        if record.control == "identity":
            continue
        try:
            made.append(_row(found, record, _released(found.run, record, faces, rows, models)))
        except RaysweepError as error:
            failures.append(Text(f"#{record.number} is not shown: {plain(error, 300)}", "small"))
    return [Text(WARNING, "flag"), *([Sheet(made)] if made else []), *failures]


def identity_names(run: StoredRun) -> dict[int, str]:
    """Names of the people of role E by the code that evidence uses.

    Raises:
        StoreError: the prepared faces are not on this machine any more.
        ConfigError: the faces are not those of the run.
    """
    table = _prepared(run).table
    enrolled = table.rows("E", "enrol")
    people = np.unique(table.identity[enrolled][table.identity[enrolled] >= 0])
    return {code: table.identity_names[int(person)] for code, person in enumerate(people)}


# ------------------------------------------------------------------ inside
def _shown(found: Analysis) -> Sequence[TrialRecord]:
    records = found.shown or [record for record in found.state.trials if record.state == "complete"]
    return list(records)[:MAX_ROWS]


def _images(record: TrialRecord) -> Images | None:
    images = record.evidence.get(SHEET)
    if images is None or images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        return None
    return images if 0 < images.shape[0] <= 64 and 0 < images.shape[1] <= 2048 and 0 < images.shape[2] <= 2048 else None


def _row(found: Analysis, record: TrialRecord, images: Images) -> SheetRow:
    if record.control == "identity":
        name = "as drawn"
    elif record.control:
        name = f"control {plain(record.control, 40)}"
    else:
        scores = ", ".join(
            f"{letter} {record.metrics[key].value:.2f}"
            for letter, key in (("P", "privacy"), ("U", "utility"))
            if key in record.metrics and record.metrics[key].ok
        )
        words = setting_words(record, found.run.info, 300)
        # A long setting stands in the table of the front; beside a face it would only be cut off.
        name = "; ".join(filter(None, [f"#{record.number}", scores, words if len(words) <= MAX_WORDS else ""]))
    return SheetRow(name, f"{len(images)} released faces, {name}", _address(images))


def _address(images: Images) -> Markup:
    """One picture of faces side by side, as a data address: marked as safe, so that it is neither escaped nor shortened."""
    from PIL import Image

    strip = Image.fromarray(np.ascontiguousarray(np.concatenate(list(images), axis=1)))
    if strip.height > MAX_SIDE:
        strip = strip.resize((max(1, strip.width * MAX_SIDE // strip.height), MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=85)
    return Markup("data:image/jpeg;base64,") + base64.b64encode(buffer.getvalue()).decode("ascii")


def _prepared(run: StoredRun) -> AlignedFaces:
    """The clear faces of a run, from the store on this machine."""
    from raysweep.engine.references import ReferenceStore, cache_root

    key = str(run.basis.get("references") or "")
    folder = cache_root() / "references" / key
    if not key or not key.isalnum() or not folder.is_dir():
        raise StoreError(
            "the prepared faces of this run are not on this machine: run the same command again, it prepares them"
        )
    shares: Mapping[str, float] | None = run.basis.get("roles")
    faces = (
        ReferenceStore(folder)
        .load(dataset=run.info.dataset, seed=int(run.basis.get("seed") or 0), shares=shares, need_privacy=False)
        .faces
    )
    people = run.info.identities
    found = {
        role: len(np.unique(faces.table.identity[rows][faces.table.identity[rows] >= 0]))
        for role in people
        if len(rows := faces.table.rows(role))
    }
    if any(found.get(role) != count for role, count in people.items()):
        raise ConfigError("the prepared faces do not have the people of this run: they were prepared anew since")
    return faces


def _released(
    run: StoredRun, record: TrialRecord, faces: AlignedFaces, rows: npt.NDArray[np.int64], models: str | None
) -> Images:
    """What the setting of a record makes of some faces, (n, S, S, 3)."""
    import torch

    from raysweep.anonymizers.batch import face_batch
    from raysweep.anonymizers.registry import get_anonymizer
    from raysweep.engine.worker import pick_device
    from raysweep.models.zoo import open_zoo

    device, seed = pick_device(), record.seed
    per_person = (run.basis.get("protocol") or {}).get("assignment") == "per_identity"
    made = get_anonymizer(record.anonymizer, allow_file=True)(**record.setting)
    made.for_faces(faces.synthetic)
    zoo = None
    families = made.weights_needed()
    if families or made.trains:
        zoo = open_zoo(models).for_data(synthetic=faces.synthetic)
        made.use_weights({family: zoo.generator(family) for family in families})
    state = made.fit(_context(faces, made, zoo, device, seed))
    made.load(state, device)
    with torch.inference_mode():
        image = made.anonymize(face_batch(faces.take(rows), seed, device, per_person))
    return np.asarray(image.permute(0, 2, 3, 1).cpu().numpy(), dtype=np.uint8)


def _context(faces: AlignedFaces, made: Any, zoo: Any, device: Any, seed: int) -> FitContext:
    from raysweep.anonymizers.base import FitContext, Teachers
    from raysweep.models.teachers import teachers

    release = faces.table.release
    releases = {}
    if made.releases == "group":
        releases = {name: faces.take(np.flatnonzero(release == name)) for name in sorted(set(release.tolist()) - {"G"})}
    return FitContext(
        background=faces.take(faces.table.rows("G")),
        releases=releases,
        teachers=teachers(zoo, device, faces.frame) if made.trains and zoo is not None else Teachers(),
        device=device,
        seed=seed,
        report=lambda _: None,
    )
