"""A vision transformer from an ONNX file as an expression model: tiny, drawn at random, of the form and under the name of the published one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from raysweep.anonymizers.base import Teachers
from raysweep.errors import ConfigError, ModelError
from raysweep.models.expression import load_expression
from raysweep.models.inputs import PROBE_FRAME, probe
from raysweep.models.teachers import teacher_entries
from raysweep.models.zoo import open_zoo
from raysweep.preprocess.frame import extract
from raysweep.schema import EXPRESSIONS
from raysweep.training.ganonymization import Objective

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


class TinyViT(nn.Module):
    """Patches, a class token, positions, one block of attention, a head of logits."""

    def __init__(self, side: int, channels_last: bool = False) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(0.5 * torch.randn(1, (side // 16) ** 2 + 1, 8))
        self.norm = nn.LayerNorm(8)
        self.query, self.key, self.value, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.norm(torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position)
        seen = torch.softmax(self.query(x) @ self.key(x).transpose(1, 2) / 8**0.5, dim=-1)
        out: torch.Tensor = self.head((x + seen @ self.value(x))[:, 0])
        return 6 * out


def exported(path: Path, side: int, batch: int = 1, channels_last: bool = False) -> TinyViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TinyViT(side, channels_last).eval()
    shape = (batch, side, side, 3) if channels_last else (batch, 3, side, side)
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        network,
        (torch.zeros(shape),),
        str(path),
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_axes=axes,
        dynamo=False,
    )
    return network


def crops(count: int) -> torch.Tensor:
    """The probe face, mirrored and brightened."""
    face = torch.from_numpy(probe())
    every = [face, face.flip(3), (face.float() * 0.6).to(torch.uint8), 255 - face]
    return torch.cat([every[number % 4] for number in range(count)])


def expected(network: TinyViT, images: torch.Tensor, region: Any, side: int, mean: Any, std: Any, bgr: bool) -> Any:
    x = extract(images, PROBE_FRAME, region, side).float()
    x = x.flip(1) if bgr else x
    x = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        logits = network(x.permute(0, 2, 3, 1) if network.channels_last else x)
    order = [CLASSES.index(name) for name in EXPRESSIONS]
    return torch.softmax(logits, 1)[:, order].numpy()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TinyViT]:
    folder = tmp_path_factory.mktemp("vit")
    return folder, exported(folder / "vit-face-expression.onnx", 224)


def test_the_zoos_entry_loads_it_by_its_name_alone(published: tuple[Path, TinyViT]) -> None:
    folder, network = published
    zoo = open_zoo(folder)
    model = load_expression(zoo.get("fer-vit"))
    images = crops(11)  # more than a chunk
    answer = model.probabilities(images, PROBE_FRAME)
    region = zoo.get("fer-vit").entry.input.region
    reference = expected(network, images, region, 224, [127.5] * 3, [127.5] * 3, bgr=False)
    assert np.abs(answer - reference).max() < 1e-5
    assert np.abs(reference[0] - reference[3]).max() > 0.01
    assert "fer-vit" in [item.name for item in zoo.for_data(False, needs=(), reserve=True).judges("expression")]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("colour", ["rgb", "bgr"])
def test_layout_colour_and_normalisation_are_the_entrys(tmp_path: Path, layout: str, colour: str) -> None:
    network = exported(tmp_path / "own.onnx", 64, channels_last=layout == "nhwc")
    mean, std, region = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], [0.0, 0.0, 112.0, 112.0]
    entry = {
        "name": "own-vit",
        "task": "expression",
        "file": "own.onnx",
        "licence": "mine",
        "format": "onnx",
        "input": {"size": 64, "colour": colour, "mean": mean, "std": std, "region": region, "layout": layout},
        "output": {"logits": True},
        "classes": list(CLASSES),
    }
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"entries": [entry]}))
    images = crops(3)
    answer = load_expression(open_zoo(tmp_path).get("own-vit")).probabilities(images, PROBE_FRAME)
    reference = expected(network, images, region, 64, mean, std, bgr=colour == "bgr")
    assert np.abs(answer - reference).max() < 1e-5
    other = {**entry, "input": {**entry["input"], "layout": "nhwc" if layout == "nchw" else "nchw"}}  # type: ignore[dict-item]
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"entries": [other]}))
    with pytest.raises(ModelError, match="wrong size, layout or colour"):
        load_expression(open_zoo(tmp_path).get("own-vit"))


def test_it_has_no_gradient_so_it_is_no_loss_term_and_the_message_says_what_to_do(
    published: tuple[Path, TinyViT],
) -> None:
    zoo = open_zoo(published[0]).for_data(False, needs=())
    assert teacher_entries(zoo)[1] is None
    assert not zoo.get("fer-vit").entry.differentiable
    with pytest.raises(ConfigError, match=r"raysweep train expression teacher=NAME"):
        Objective(expression=1.0, expression_loss="kd_logit").check(Teachers())
