"""From settings to a folder that `--models` uses, on a few drawn faces."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raysweep.anonymizers.ganonymization.anonymizer import GANonymization
from raysweep.commands.train import _anonymizer, _settings
from raysweep.config import RunSettings
from raysweep.errors import ConfigError, ModelError
from raysweep.models.zoo import open_zoo
from raysweep.schema import ROLES, AlignedFaces
from raysweep.testing.anonymizer import example_batch, example_context, example_faces
from raysweep.tracking.terminal import LiveView
from raysweep.training.job_expression import ExpressionJob, ExpressionSettings, anonymized_pupils
from raysweep.training.job_generators import GanonymizationJob, GanonymizationSettings
from raysweep.training.jobs import Job, parse_settings
from raysweep.training.people import Pupils, prepare_pupils, split
from raysweep.training.run import open_folder, run_job

CPU = torch.device("cpu")
DATA = "synthetic:identities=20,images_per_identity=7"
FEW: dict[str, Any] = {"steps": 3, "batch_size": 4, "checkpoint_every": 2}


class Silent(LiveView):
    """A view that nobody looks at."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, name: str, done: int = 0, total: int | None = None, rate: float | None = None) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("RAYSWEEP_CACHE")
    os.environ["RAYSWEEP_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("RAYSWEEP_CACHE") if before is None else os.environ.update(RAYSWEEP_CACHE=before)


def pupils(people: Any = "G", **roles: float) -> Pupils:
    run = RunSettings.model_validate({"roles": roles} if roles else {})
    return prepare_pupils(run, Silent(), data=DATA, kind=None, zoo=open_zoo(missing_ok=True), people=people)


@pytest.fixture(scope="module")
def half(cache: None) -> Pupils:
    return pupils(G=0.5, T=0.08, S=0.14, E=0.28)


def expression(half: Pupils, **changes: Any) -> ExpressionJob:
    settings = ExpressionSettings(**{**FEW, "architecture": "small", "size": 56, **changes})
    return ExpressionJob(settings, half, open_zoo(missing_ok=True), 0)


def generator(half: Pupils, **changes: Any) -> GanonymizationJob:
    settings = GanonymizationSettings(**{**FEW, "size": 32, "width": 8, "depth": 3, **changes})
    return GanonymizationJob(settings, half, open_zoo(missing_ok=True), 0)


def finished(job: Job, folder: Path) -> dict[str, Any]:
    job.check()
    assert open_folder(folder, job.key, resume=False) is None
    return run_job(job, folder, resume=False, tell=lambda _: None, note=lambda _: None, device=CPU)


# ---------------------------------------------------------------- whom it learns from
def test_only_people_of_role_g_are_learned_from(half: Pupils) -> None:
    from raysweep.engine.references import ReferenceStore

    learned = set(half.load()[0].table.face_id.tolist())
    everybody = ReferenceStore(Path(half.store)).load(
        dataset=half.dataset, seed=half.seed, shares=half.shares, need_privacy=False
    )
    table = everybody.faces.table
    of_role = {role: set(table.face_id[table.rows(role)].tolist()) for role in ROLES}
    assert learned == of_role["G"]
    assert len(of_role["E"]) > 0
    assert (half.about["people"], half.about["faces"], half.warning) == ("G", len(learned), "")


def test_everybody_is_learned_from_only_when_asked_and_with_a_warning(half: Pupils) -> None:
    everybody = pupils("all")
    assert len(everybody.load()[0]) == 140
    assert "a sweep on the same set would judge with what has seen it" in everybody.warning
    with pytest.raises(ConfigError, match="nobody has role G"):
        pupils(G=0.0, T=0.58, S=0.14, E=0.28)


def labelled(count: int = 30) -> AlignedFaces:
    return example_faces(count)


def test_the_division_shares_no_person_and_no_photograph() -> None:
    faces = labelled()
    ids = [str(face) for face in faces.table.face_id]
    learn, held, how = split(faces, ids, [""] * 30, 0.2, seed=0)
    assert how == "by person"
    assert not set(faces.table.identity[learn]) & set(faces.table.identity[held])
    assert sorted([*learn, *held]) == list(range(30))
    assert 6 <= len(held) <= 9
    assert not np.array_equal(split(faces, ids, [""] * 30, 0.2, seed=1)[1], held)
    unknown = dataclasses.replace(faces, table=dataclasses.replace(faces.table, identity=np.full(30, -1)))
    twins = [ids[row // 2 * 2] for row in range(30)]
    learn, held, how = split(unknown, twins, [""] * 30, 0.3, seed=0)
    assert how.startswith("by photograph")
    assert not {row // 2 for row in learn} & {row // 2 for row in held}


def test_a_division_of_the_sets_own_wins() -> None:
    faces = labelled()
    ids = [str(face) for face in faces.table.face_id]
    usage = ["training"] * 20 + ["publictest"] * 5 + ["privatetest"] * 5
    ids[3] = ids[25]  # the same photograph on both sides
    learn, held, how = split(faces, ids, usage, 0.2, seed=0)
    assert how == "the set's own division"
    assert held.tolist() == list(range(20, 30))
    assert learn.tolist() == [row for row in range(20) if row != 3]


# ---------------------------------------------------------------- generators
def test_a_trained_generator_is_used_at_once_and_only_for_drawn_faces(half: Pupils, tmp_path: Path) -> None:
    report = finished(generator(half), tmp_path / "made")
    assert set(report["curve"][-1]) == {"step", "reconstruction", "adversarial", "discriminator"}
    assert report["trained_on"]["people"] == "G"
    zoo = open_zoo(tmp_path / "made")
    assert zoo.unknown == ()
    found = zoo.for_data(True, needs=()).generator("ganonymization")
    assert (found.name, found.sha256) == ("ganonymization-trained", report["weights"]["sha256"])
    with pytest.raises(ModelError, match="no ganonymization weights at hand"):
        zoo.for_data(False, needs=()).generator("ganonymization")
    anonymizer = GANonymization(init="published", width=8, depth=3, size=32, steps=0)
    anonymizer.use_weights({"ganonymization": found})
    context = example_context(CPU, size=48)
    anonymizer.load(anonymizer.fit(context), CPU)
    out = anonymizer.anonymize(example_batch(context.background, CPU, [0, 1]))
    assert out.float().std() > 0
    wrong = GANonymization(init="published", width=16, depth=3, size=32, steps=0)
    with pytest.raises(ConfigError, match="set width=8"):
        wrong.use_weights({"ganonymization": found})


def test_the_same_settings_make_the_same_bytes_and_others_do_not(half: Pupils, tmp_path: Path) -> None:
    made = [
        finished(generator(half, **changes), tmp_path / str(number))["weights"]["sha256"]
        for number, changes in enumerate(({}, {}, {"reconstruction": 10.0}))
    ]
    assert made[0] == made[1]
    assert made[2] != made[0]


def test_fine_tuning_starts_from_the_weights_at_hand(half: Pupils, tmp_path: Path) -> None:
    first = finished(generator(half), tmp_path / "first")
    zoo = open_zoo(tmp_path / "first")
    job = dataclasses.replace(generator(half, init="published", steps=1, learning_rate=1e-6), zoo=zoo)
    assert job.weights_used() == {"ganonymization-trained": first["weights"]["sha256"]}
    trainer, _ = job.build(job.plan.update(CPU))
    scratch, _ = generator(half).build(job.plan.update(CPU))
    start = trainer.modules()["generator"].state_dict()
    assert not torch.equal(start["final.2.weight"], scratch.modules()["generator"].state_dict()["final.2.weight"])
    with pytest.raises(ConfigError, match="set width=8"):
        dataclasses.replace(generator(half, init="published", width=16), zoo=zoo).check()


def test_a_loss_with_a_teacher_names_it_in_the_record(half: Pupils, tmp_path: Path) -> None:
    report = finished(generator(half, expression_loss="kd_logit", steps=1), tmp_path / "made")
    assert "synthetic-fer-teacher" in report["lineage"]
    assert report["curve"][-1]["expression"] >= 0


# ---------------------------------------------------------------- expression
def test_a_trained_classifier_judges_at_once(half: Pupils, tmp_path: Path) -> None:
    report = finished(expression(half), tmp_path / "made")
    scores = report["scores"]
    assert scores["n"] == sum(map(sum, scores["confusion"]))
    assert report["split"]["how"] == "by person"
    zoo = open_zoo(tmp_path / "made").for_data(True)
    assert "expression" in [item.name for item in zoo.judges("expression")]
    model = next(m for m in zoo.expression_models() if m.name == "expression")
    faces = half.load()[0]
    images = torch.from_numpy(np.ascontiguousarray(faces.crop[:5].transpose(0, 3, 1, 2)))
    rows = model.probabilities(images, faces.frame)
    assert rows.shape == (5, 7)
    assert rows.sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    assert "expression" not in open_zoo(tmp_path / "made").for_data(False, needs=()).found
    on_disk = json.loads((tmp_path / "made" / "report.json").read_text())
    assert on_disk["weights"]["sha256"] == report["weights"]["sha256"]
    assert on_disk["settings"]["steps"] == 3


def test_it_can_learn_from_faces_that_an_anonymizer_changed(half: Pupils, tmp_path: Path) -> None:
    blurred = anonymized_pupils(
        half, "blur", {"kernel_size": 31}, open_zoo(missing_ok=True), 0, tmp_path, CPU, lambda *_: None
    )
    clear, changed = half.load()[0], blurred.load()[0]
    assert changed.table.face_id.tolist() == clear.table.face_id.tolist()
    assert (
        np.abs(np.diff(changed.crop.astype(int), axis=2)).mean()
        < 0.5 * np.abs(np.diff(clear.crop.astype(int), axis=2)).mean()
    )
    job = expression(half, anonymizer="blur", anonymizer_setting={"kernel_size": 31})
    report = finished(dataclasses.replace(job, pupils=blurred), tmp_path / "made")
    assert report["name"] == "expression-adapted"
    assert report["settings"]["anonymizer"] == "blur"
    assert report["weights"]["sha256"] != finished(expression(half), tmp_path / "clear")["weights"]["sha256"]
    assert not Path(blurred.crops).exists()
    with pytest.raises(ConfigError, match="publishes groups"):
        anonymized_pupils(half, "k-same", {}, open_zoo(missing_ok=True), 0, tmp_path, CPU, lambda *_: None)


def test_a_teacher_is_in_the_lineage_and_bars_itself_from_judging_beside(half: Pupils, tmp_path: Path) -> None:
    report = finished(expression(half, teacher="synthetic-fer-a"), tmp_path / "made")
    assert report["lineage"] == ["synthetic-fer-a"]
    assert "distil" in report["curve"][-1]
    zoo = open_zoo(tmp_path / "made")
    assert zoo.lineage("expression") == {"expression", "synthetic-fer-a"}
    with pytest.raises(ModelError, match="unknown model 'synthetic-fer-x'"):
        expression(half, teacher="synthetic-fer-x").check()
    with pytest.raises(ConfigError, match="is a model for embedder"):
        expression(half, teacher="synthetic-id-a").check()


def test_imagenet_weights_are_taken_when_they_are_there(half: Pupils, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    published = resnet18(weights=None)
    torch.nn.init.constant_(published.layer1[0].conv1.weight, 0.125)
    torch.save(published.state_dict(), tmp_path / "resnet18-imagenet.pth")
    (tmp_path / "models.yaml").write_text(
        "entries:\n- {name: mine, task: backbone, file: resnet18-imagenet.pth, licence: BSD, format: torch-state-dict, architecture: resnet18}\n"
    )
    found = open_zoo(tmp_path).found["mine"]
    job = expression(half, architecture="resnet18")
    zoo = dataclasses.replace(job.zoo, found={**job.zoo.found, "resnet18-imagenet": found})
    trainer, _ = dataclasses.replace(job, zoo=zoo).build(job.plan.update(CPU))
    network: Any = trainer.modules()["network"]
    assert bool((network.layer1[0].conv1.weight == 0.125).all())
    assert network.fc.weight.shape == (7, 512)
    with pytest.raises(ModelError, match="resnet18-imagenet"):
        expression(half, architecture="resnet18", init="imagenet").check()


# ---------------------------------------------------------------- words and folders
def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(ExpressionSettings, {"step": 3, "size": 5, "rotate": "much"}, "expression")
    assert len(caught.value.problems) == 3
    assert "did you mean 'steps'?" in "\n".join(caught.value.problems)
    with pytest.raises(ConfigError, match="depth = 7 is too deep for size = 64"):
        parse_settings(GanonymizationSettings, {"depth": 7}, "ganonymization")


def test_words_are_divided_between_training_run_and_anonymizer() -> None:
    given, run = _settings(["steps=5", "seed=4", "frame.size=96", "on=blur", "anonymizer.kernel_size=21"])
    assert (run.seed, run.frame.size) == (4, 96)
    assert _anonymizer("expression", given) == ("blur", {"kernel_size": 21})
    assert given == {"steps": 5, "anonymizer": "blur", "anonymizer_setting": {"kernel_size": 21}}
    for kind, words, message in (
        ("expression", ["anonymizer=blurr"], "did you mean 'blur'"),
        ("expression", ["anonymizer.kernel_size=21"], "without anonymizer=NAME"),
        ("ciagan", ["anonymizer=blur"], "a setting of `train expression`"),
    ):
        with pytest.raises(ConfigError, match=message):
            _anonymizer(kind, _settings(words)[0])


def test_a_folder_with_a_training_is_not_overwritten(half: Pupils, tmp_path: Path) -> None:
    job = generator(half, steps=1)
    finished(job, tmp_path / "made")
    with pytest.raises(ConfigError, match="holds a finished training; add --resume"):
        open_folder(tmp_path / "made", job.key, resume=False)
    again = open_folder(tmp_path / "made", job.key, resume=True)
    assert again is not None
    assert again["key"] == job.key
    with pytest.raises(ConfigError, match="of other settings"):
        open_folder(tmp_path / "made", generator(half, steps=2).key, resume=True)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "models.yaml").write_text("entries: []\n")
    with pytest.raises(ConfigError, match=r"its models\.yaml would be overwritten"):
        open_folder(tmp_path / "own", job.key, resume=False)
