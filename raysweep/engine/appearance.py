"""What is looked at beside the judging models: features for KID and FID, and whether a detector still finds the face.

Both are costly and steady, so they are taken on a sample of the faces of role E that the names of the faces decide: the same
for all trials and workers, whatever the batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raysweep.errors import ModelError
from raysweep.models.base import ExpressionModel
from raysweep.models.expression import TorchExpression
from raysweep.preprocess.detect import open_detector
from raysweep.preprocess.tools import providers_for
from raysweep.schema import AlignedFaces, FloatArray, Frame, IntArray, StringArray

if TYPE_CHECKING:
    import torch

    from raysweep.models.zoo import Found, Zoo

__all__ = ["DETECTED", "Appearance", "sample"]

DETECTED = "detected"
"""Name among `Measurements.realism`: 1 where the detector finds a face, 0 where not, NaN where nobody looked."""
FEATURE_FACES = 2048
"""As many as FID needs; KID takes subsets of a thousand."""
DETECTOR_FACES = 64
"""A detector costs as much as several embedders: at 200 faces it took more than half of a trial on photographs."""
INCEPTION_SIDE = 299
INCEPTION_CHUNK = 32

Network = Callable[["torch.Tensor"], FloatArray]


def sample(face_id: StringArray, rows: IntArray, count: int) -> IntArray:
    """At most `count` of some rows, ascending, chosen by a hash of the face's name."""
    order = sorted(rows.tolist(), key=lambda row: hashlib.blake2b(str(face_id[row]).encode(), digest_size=8).digest())
    return np.array(sorted(order[:count]), dtype=np.int64)


class Appearance:
    """Networks and detector at hand, loaded once.

    Args:
        zoo: weights at hand for this kind of faces.
        judges: expression models that judge; the first one written in torch lends its features.
        faces: all clear faces.
        device: where the networks compute.
        threads: CPU threads of the detector.
    """

    def __init__(
        self, zoo: Zoo, judges: Sequence[ExpressionModel], faces: AlignedFaces, device: torch.device, threads: int
    ) -> None:
        import torch

        self.device = device
        evaluated = faces.table.rows("E")
        names = faces.table.face_id
        self._featured = sample(names, evaluated, FEATURE_FACES)
        self._searched = sample(names, evaluated, DETECTOR_FACES)
        self._networks: dict[str, Network] = {}
        torch_judge = next((model for model in judges if isinstance(model, TorchExpression)), None)
        if torch_judge is not None:
            self._networks["expression"] = _expression(torch_judge, faces.frame)
        inception = zoo.perceptual("inception")
        if inception is not None:
            self._networks["inception"] = _inception(inception, device)
        grey = torch.zeros((1, 3, faces.frame.size, faces.frame.size), dtype=torch.uint8, device=device)
        self._width = {name: network(grey).shape[1] for name, network in self._networks.items()}
        # A detector of photographs says nothing about drawn faces.
        found = None if faces.synthetic else zoo.detector()
        self._detector = None if found is None else open_detector(found.path, providers_for(str(device)), threads)

    def look(self, images: torch.Tensor, rows: IntArray) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """Look at one batch.

        Args:
            images: (n, 3, S, S) uint8 RGB crops.
            rows: (n,) their row numbers among all faces.

        Returns:
            Features (n, F) per network and, where there is a detector, `detected` (n,); NaN for faces that are not in the sample.
        """
        features = {}
        featured = np.flatnonzero(np.isin(rows, self._featured))
        for name, network in self._networks.items():
            features[name] = np.full((len(rows), self._width[name]), np.nan, dtype=np.float32)
            if len(featured):
                features[name][featured] = network(images[featured])
        if self._detector is None:
            return features, {}
        detected = np.full(len(rows), np.nan, dtype=np.float32)
        for place in np.flatnonzero(np.isin(rows, self._searched)).tolist():
            picture = np.ascontiguousarray(images[place].permute(1, 2, 0).cpu().numpy())
            detected[place] = float(len(self._detector.detect(picture)) > 0)
        return features, {DETECTED: detected}

    def look_at_all(
        self, rows: IntArray, load: Callable[[IntArray], torch.Tensor], batch_size: int
    ) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """The same for many rows, their images fetched batch by batch by `load`; faces outside the sample are not even fetched."""
        seen = np.flatnonzero(np.isin(rows, np.union1d(self._featured, self._searched)))
        features: dict[str, FloatArray] = {}
        detected: dict[str, FloatArray] = {}
        for start in range(0, len(seen), batch_size):
            places = seen[start : start + batch_size]
            parts = self.look(load(rows[places]), rows[places])
            for whole, part in zip((features, detected), parts, strict=True):
                for name, values in part.items():
                    if name not in whole:
                        whole[name] = np.full((len(rows), *values.shape[1:]), np.nan, dtype=np.float32)
                    whole[name][places] = values
        return features, detected


def _expression(model: TorchExpression, frame: Frame) -> Network:
    import torch

    call = model.differentiable(frame)

    def features(images: torch.Tensor) -> FloatArray:
        with torch.inference_mode():
            found: FloatArray = call(images.to(model.device).float() / 255)[1].float().cpu().numpy()
        return found

    return features


def _inception(found: Found, device: torch.device) -> Network:
    """Inception v3 of torchvision up to its last pooling, 2,048 features; crops resized to 299 with antialiasing.

    Raises:
        ModelError: the file holds other weights.
    """
    import torch
    from torchvision.models import inception_v3

    from raysweep.models.loading import read_state

    network = inception_v3(weights=None, aux_logits=True, init_weights=False, transform_input=False)
    try:
        network.load_state_dict(read_state(found.path)[0])
    except RuntimeError as error:
        raise ModelError(f"{found.path}: not torchvision's inception_v3 ({str(error)[:200]})") from error
    network.fc = torch.nn.Identity()
    network = network.to(device).eval().requires_grad_(False)

    def features(images: torch.Tensor) -> FloatArray:
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), INCEPTION_CHUNK):
                batch = images[start : start + INCEPTION_CHUNK].to(device).float()
                batch = torch.nn.functional.interpolate(
                    batch, size=(INCEPTION_SIDE,) * 2, mode="bilinear", align_corners=False, antialias=True
                )
                parts.append(network(batch / 127.5 - 1).float().cpu().numpy())
        return np.concatenate(parts)

    return features
