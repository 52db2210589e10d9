from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score
from torch import nn

from raysweep.errors import ConfigError
from raysweep.preprocess.frame import extract
from raysweep.schema import EXPRESSIONS, Frame
from raysweep.testing.anonymizer import example_faces
from raysweep.training.expression import (
    Augmentation,
    ExpressionExamples,
    ExpressionTrainer,
    augment,
    input_spec,
    predict,
    scores,
)

CPU = torch.device("cpu")
STILL = Augmentation(flip=False, rotate=0.0, crop=0.0, brightness=0.0)
FRAME = Frame(112)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 2) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(example_faces(3 * count).crop[:count].transpose(0, 3, 1, 2)))


class TestAugmentation:
    def test_switched_off_it_is_the_plain_cut(self) -> None:
        images, spec = pictures(), input_spec(80, synthetic=False)
        plain = extract(images.float(), FRAME, spec.region, spec.size)
        assert (augment(images, FRAME, spec, STILL, random()) - plain).abs().max() < 3.0

    @pytest.mark.parametrize("change", [{"flip": True}, {"rotate": 20.0}, {"crop": 0.2}, {"brightness": 0.4}])
    def test_each_changes_the_picture_and_the_seed_decides_how(self, change: dict[str, Any]) -> None:
        images, spec = pictures(8), input_spec(48, synthetic=False)
        how = dataclasses.replace(STILL, **change)
        plain, changed = augment(images, FRAME, spec, STILL, random()), augment(images, FRAME, spec, how, random())
        assert (changed - plain).abs().mean() > 1.0
        assert torch.equal(augment(images, FRAME, spec, how, random()), changed)
        assert not torch.equal(augment(images, FRAME, spec, how, random(1)), changed)
        assert changed.min() >= 0
        assert changed.max() <= 255

    def test_a_flip_is_a_mirror(self) -> None:
        images, spec = pictures(16), input_spec(48, synthetic=False)
        plain = augment(images, FRAME, spec, STILL, random())
        flipped = augment(images, FRAME, spec, dataclasses.replace(STILL, flip=True), random())
        same = (flipped - plain).abs().amax((1, 2, 3)) < 0.1
        mirrored = (flipped.flip(3) - plain).abs().amax((1, 2, 3)) < 0.1
        assert bool((same ^ mirrored).all())
        assert 2 <= int(mirrored.sum()) <= 14


def examples(label: list[int], **changes: Any) -> ExpressionExamples:
    faces = example_faces(3 * len(label))
    how: dict[str, Any] = {
        "crop": faces.crop,
        "rows": np.arange(len(label)),
        "label": np.array(label),
        "frame": faces.frame,
        "spec": input_spec(32, synthetic=True),
        "augmentation": STILL,
        "balanced": True,
        "device": CPU,
    }
    return ExpressionExamples(**{**how, **changes})


class TestExamples:
    def test_classes_come_equally_often(self) -> None:
        weights = examples([0, 0, 0, 3, 5, 5]).weights
        assert weights[:3].sum() == pytest.approx(1.0)
        assert weights[3] == pytest.approx(1.0)
        assert weights[4:].sum() == pytest.approx(1.0)
        assert examples([0, 0, 3], balanced=False).weights.tolist() == [1, 1, 1]

    def test_without_labels_the_teacher_says_the_class(self) -> None:
        soft = np.eye(7, dtype=np.float32)[[2, 2, 4]]
        made = examples([-1, -1, 4], soft=soft)
        assert made.weights.tolist() == [0.5, 0.5, 1.0]
        batch = made.batch(torch.tensor([2, 0]), random())
        assert batch["label"].tolist() == [4, -1]
        assert torch.equal(batch["soft"], torch.from_numpy(soft[[2, 0]]))
        assert batch["input"].shape == (2, 3, 32, 32)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16, 7)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        return out


class TestTrainer:
    def test_it_learns_labels_and_goes_on_from_its_state(self) -> None:
        data = examples([0, 1, 2, 3, 4, 5, 6])
        batch = data.batch(torch.arange(7), random())
        first = ExpressionTrainer(Tiny(), steps=60, learning_rate=0.05)
        start = first.step(batch)
        for _ in range(29):
            first.step(batch)
        second = ExpressionTrainer(Tiny(), steps=60, learning_rate=0.05)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        ends = [[trainer.step(batch) for _ in range(30)][-1] for trainer in (first, second)]
        assert ends[0] == ends[1]
        assert ends[0]["accuracy"] == 1.0
        assert ends[0]["loss"] < 0.6 * start["loss"]

    def test_the_rate_rises_and_falls_to_zero(self) -> None:
        trainer = ExpressionTrainer(Tiny(), steps=100, learning_rate=1.0)
        rates = []
        for step in range(100):
            trainer.done = step
            rates.append(trainer.rate)
        assert rates[0] == pytest.approx(0.2)
        assert max(rates) == 1.0
        assert rates[-1] < 0.01
        assert np.argmax(rates) in (4, 5)

    def test_rows_without_a_label_learn_from_the_teacher_alone(self) -> None:
        soft = np.full((2, 7), 0.01, np.float32)
        soft[:, 5] = 0.94
        batch = examples([-1, -1], soft=soft).batch(torch.arange(2), random())
        trainer = ExpressionTrainer(Tiny(), steps=80, learning_rate=0.05, distil=0.5)
        numbers = [trainer.step(batch) for _ in range(80)][-1]
        assert set(numbers) == {"loss", "distil"}
        assert torch.softmax(trainer.network(batch["input"]), 1).argmax(1).tolist() == [5, 5]

    def test_labels_and_teacher_are_mixed_by_weight(self) -> None:
        soft = np.eye(7, dtype=np.float32)[[1]]
        batch = examples([0], soft=soft).batch(torch.arange(1), random())
        likes = {}
        for weight in (0.0, 1.0):
            trainer = ExpressionTrainer(Tiny(), steps=60, learning_rate=0.05, distil=weight, smoothing=0.0)
            for _ in range(60):
                trainer.step(batch)
            likes[weight] = int(trainer.network(batch["input"]).argmax())
        assert likes == {0.0: 0, 1.0: 1}


class TestScores:
    def test_numbers_are_those_of_scikit_learn_and_lie_in_their_intervals(self) -> None:
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 6, 300)  # neutral does not occur
        answer = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 7, 300))
        found = scores(truth, answer, np.arange(300) // 10, seed=1)
        assert found["accuracy"]["value"] == pytest.approx(accuracy_score(truth, answer))
        present = sorted(set(truth.tolist()))
        assert found["uar"]["value"] == pytest.approx(
            balanced_accuracy_score(truth[np.isin(truth, present)], answer[np.isin(truth, present)])
        )
        assert found["macro_f1"]["value"] == pytest.approx(f1_score(truth, answer, labels=present, average="macro"))
        assert found["confusion"] == confusion_matrix(truth, answer, labels=range(7)).tolist()
        assert found["missing"] == ["neutral"]
        assert (found["n"], found["clusters"]) == (300, 30)
        for name in ("accuracy", "uar", "macro_f1"):
            assert found[name]["lo"] < found[name]["value"] < found[name]["hi"]

    def test_people_are_resampled_not_pictures(self) -> None:
        right = np.repeat([1, 0] * 5, 20)
        truth, answer = np.zeros(200, np.int64), np.where(right, 0, 1)
        of_people = scores(truth, answer, np.arange(200) // 20, seed=0)["accuracy"]
        of_pictures = scores(truth, answer, np.arange(200), seed=0)["accuracy"]
        assert of_people["hi"] - of_people["lo"] > 2 * (of_pictures["hi"] - of_pictures["lo"])

    def test_all_right_still_has_a_lower_end(self) -> None:
        truth = np.tile(np.arange(7), 5)
        found = scores(truth, truth, np.arange(35) // 7, seed=0)
        assert found["accuracy"]["value"] == found["macro_f1"]["value"] == 1.0
        assert 0.4 < found["accuracy"]["lo"] < 0.8

    def test_one_person_has_no_interval_and_nobody_is_an_error(self) -> None:
        found = scores(np.zeros(3, np.int64), np.array([0, 1, 0]), np.zeros(3, np.int64), seed=0)
        assert found["accuracy"] == {"value": pytest.approx(2 / 3), "lo": None, "hi": None}
        with pytest.raises(ConfigError, match="no held-out row has a label"):
            scores(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64), seed=0)


def test_predict_reads_the_picture_as_a_judge_does() -> None:
    faces = example_faces(9)
    spec, network = input_spec(32, synthetic=True), Tiny()
    nn.init.normal_(network.head.weight, generator=random())
    rows = np.array([4, 0, 8])
    together = predict(network, faces, rows, spec, CPU)
    assert [int(predict(network, faces, rows[i : i + 1], spec, CPU)[0]) for i in range(3)] == together.tolist()
    assert len(EXPRESSIONS) == 7
    assert len(predict(network, faces, np.empty(0, np.int64), spec, CPU)) == 0
