"""DeepPrivacy2 as an anonymizer: cut the face out, let a generator paint another one into its surroundings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from raysweep.anonymizers.base import Anonymizer, FitContext, State
from raysweep.anonymizers.deepprivacy2.conditioning import (
    Places,
    compose,
    condition,
    face_boxes,
    latent_index,
    latents,
    place,
)
from raysweep.anonymizers.deepprivacy2.weights import PUBLISHED, SMALL, Painter, open_painter, shipped
from raysweep.errors import ConfigError, ModelError
from raysweep.search.parameters import Categorical, Float, Parameter, Value

if TYPE_CHECKING:
    from raysweep.models.zoo import Found
    from raysweep.schema import FaceBatch, IntArray

__all__ = ["DeepPrivacy2"]

FAMILIES = (SMALL, PUBLISHED)
"""Which weights; the place here is what the state stores."""

PIXELS_ON_CUDA = 32 * 256 * 256
PIXELS_ON_CPU = 16 * 64 * 64


class DeepPrivacy2(Anonymizer):
    """The face box is removed and painted anew from what surrounds it and from a style (arXiv 2211.09454); the generator never sees the face.

    Nothing is trained here: the published generator paints photographs, a small one of the same architecture, trained by this project, paints drawn
    faces. The box follows from the five points, see `conditioning`. Outside of the box the photograph stays as it is: hair, ears, neck
    and background can still tell who it is, and `box_scale` decides how much of them is left.

    `precision=float16` computes the generator in half precision on CUDA; the style, the conditioning and the compositing stay float32. With operands and
    results of all convolutions rounded to half precision, the output for the golden inputs (standard deviation 0.34) changes by 0.001 on average
    and 0.007 at most, less than one grey level (`tests/golden`).

    Attributes:
        guarantee: after `load`, for the record: which weights (`init`, name, sha256) and in which precision.
    """

    name = "deepprivacy2"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "init": Categorical(
            ("auto", "published", "small"),
            "auto",
            why="published: the weights of the family deepprivacy2 in --models; small: the generator trained by this project on drawn "
            "faces; auto: small for drawn faces, published for photographs",
        ),
        "truncation": Float(
            0.0,
            1.0,
            0.0,
            why="0, the published default, gives every face the same style; 1 a style of its own",
        ),
        "truncate_to": Categorical(
            ("mean", "modes"),
            "mean",
            why="what truncation draws styles to: the mean style, or one of a few centres, by the latent (multi-modal truncation)",
        ),
        "latent": Categorical(
            ("per_image", "fixed"),
            "per_image",
            why="where the style comes from: drawn anew for each image, or one for all",
        ),
        "box_scale": Float(
            0.5,
            1.5,
            1.0,
            unit="of the detector's box",
            why="how much of the face is removed; the rest of the photograph stays",
        ),
        "precision": Categorical(
            ("float32", "float16"),
            "float32",
            why="of the generator on CUDA; the CPU always computes in float32",
        ),
    }
    licence = "Apache-2.0 (code of the authors); the weights under the terms of FDF256"
    reference = "Hukkelas & Lindseth, DeepPrivacy2, WACV 2023, arXiv 2211.09454"

    _synthetic: bool | None = None

    def for_faces(self, synthetic: bool) -> None:
        """Refuse the small generator for photographs.

        Raises:
            ConfigError: `init = small` and photographs.
        """
        if self.setting["init"] == "small" and not synthetic:
            raise ConfigError(
                "deepprivacy2: init = 'small': the small generator was trained by this project on drawn faces and is not for photographs; "
                "use init=published or auto"
            )
        self._synthetic = synthetic

    def weights_needed(self) -> frozenset[str]:
        """The family that the setting comes to; none for `auto` before `for_faces`."""
        if self.setting["init"] == "auto" and self._synthetic is None:
            return frozenset()
        return frozenset({self._family(bool(self._synthetic))})

    def fit(self, context: FitContext) -> State:
        """Learn nothing; find out which weights, and open them once so that what is wrong with them is said here.

        Returns:
            `weights` (2,) int64: place in `FAMILIES`, and the latent that `fixed` gives everybody.

        Raises:
            ConfigError: `small` for photographs.
            ModelError: the weights are not at hand or cannot be used, or have no centres for `truncate_to = modes`.
        """
        self.for_faces(context.background.synthetic)
        family = self._family(context.background.synthetic)
        self._open(family, context.device)
        index = latent_index(np.array([context.seed], dtype=np.int64))
        return {"weights": torch.tensor([FAMILIES.index(family), int(index[0])])}

    def load(self, state: State, device: torch.device) -> None:
        """Open the weights.

        Raises:
            ModelError: as `fit`.
        """
        family, self._everybody = FAMILIES[int(state["weights"][0])], int(state["weights"][1])
        found, self._painter = self._open(family, device)
        self._device = device
        self.guarantee: dict[str, Value] = {
            "init": "small" if family == SMALL else "published",
            "weights": found.name,
            "sha256": found.sha256,
            "precision": str(self.setting["precision"]) if device.type == "cuda" else "float32",
        }

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """Paint a face for each, (n, 3, S, S) uint8: other pixels than before only within the box.

        Raises:
            TrialError: the five points of a face give no box within its crop.
        """
        if not len(faces):
            return torch.empty_like(faces.image)
        points = faces.points.cpu().numpy()
        boxes = face_boxes(points, float(self.setting["box_scale"]))
        places = place(boxes, faces.frame.size, self._painter.window)
        index = latent_index(faces.seed)
        if self.setting["latent"] == "fixed":
            index = np.full_like(index, self._everybody)
        # Always the same batch shape, filled up with the last face: libraries choose other algorithms for other shapes, and then
        # the last bit of a face would depend on its neighbours.
        chunk = self._chunk()
        painted = []
        for start in range(0, len(faces), chunk):
            rows = np.minimum(np.arange(start, start + chunk), len(faces) - 1)
            part = faces.image[torch.from_numpy(rows).to(faces.image.device)]
            some = Places(places.box[rows], places.window[rows])
            painted.append(self._paint(part, some, index[rows])[: len(faces) - start])
        return torch.cat(painted)

    def _paint(self, images: torch.Tensor, places: Places, index: IntArray) -> torch.Tensor:
        generator = self._painter.generator
        with torch.no_grad():
            given, mask = condition(images, places, generator.architecture.side)
            w = self._styles(index)
            if self._device.type == "cuda":
                given = given.contiguous(memory_format=torch.channels_last)
            half = self.setting["precision"] == "float16" and self._device.type == "cuda"
            with torch.autocast(self._device.type, torch.float16, enabled=half):
                face = generator(given, mask, w)
            return compose(images, face, places)

    def _styles(self, index: IntArray) -> torch.Tensor:
        """(n, latent) styles of latents by number."""
        painter = self._painter
        z = latents(index, painter.generator.architecture.latent).to(self._device)
        centre = None
        if self.setting["truncate_to"] == "modes" and painter.centres is not None:
            centre = painter.centres[torch.from_numpy(index % len(painter.centres)).to(self._device)]
        return painter.generator.style(z, float(self.setting["truncation"]), centre)

    def _chunk(self) -> int:
        side = self._painter.generator.architecture.side
        return max(1, (PIXELS_ON_CUDA if self._device.type == "cuda" else PIXELS_ON_CPU) // side**2)

    def _family(self, synthetic: bool) -> str:
        init = self.setting["init"]
        return SMALL if init == "small" or (init == "auto" and synthetic) else PUBLISHED

    def _open(self, family: str, device: torch.device) -> tuple[Found, Painter]:
        # The small one is shipped: for callers without a zoo.
        known: Mapping[str, Found] = getattr(self, "weights", {})
        found = self.weights_of(family) if family == PUBLISHED or family in known else shipped()
        painter = open_painter(found, device)
        if self.setting["truncate_to"] == "modes" and painter.centres is None:
            raise ModelError(
                f"deepprivacy2: truncate_to = 'modes': {found.path.name} has no centres (w_centers); use truncate_to=mean"
            )
        return found, painter
