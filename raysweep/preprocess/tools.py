"""Which models of a zoo preprocessing uses, and those models loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from raysweep.preprocess.detect import open_detector
from raysweep.preprocess.landmarks import MEDIAPIPE, LandmarkModel, open_landmarks
from raysweep.preprocess.parse import open_parser
from raysweep.preprocess.rows import Tools

if TYPE_CHECKING:
    from raysweep.models.zoo import Zoo

__all__ = ["landmark_source", "open_tools", "providers_for", "tool_names"]

LANDMARK_FAMILIES = ("insightface106", "pfld68")


def landmark_source(zoo: Zoo) -> str | None:
    """The dense landmark model: MediaPipe when its extra is installed (GANonymization was trained on it), else the zoo's first
    ONNX file that is known here; a path, `mediapipe`, or None.
    """
    if find_spec("mediapipe") is not None:
        return MEDIAPIPE
    usable = (item for item in zoo.of("landmarks") if item.entry.family in LANDMARK_FAMILIES)
    return next((str(item.path) for item in usable), None)


def tool_names(zoo: Zoo) -> dict[str, str]:
    """Role -> name of the model preprocessing uses for it; nothing for drawn faces, which bring points, landmarks and mask."""
    if zoo.synthetic:
        return {}
    names: dict[str, str] = {}
    for role, found in (("detector", zoo.detector()), ("parsing", zoo.parsing())):
        if found is not None:
            names[role] = found.name
    source = landmark_source(zoo)
    if source == MEDIAPIPE:
        names["landmarks"] = MEDIAPIPE
    elif source is not None:
        names["landmarks"] = next(item.name for item in zoo.of("landmarks") if str(item.path) == source)
    return names


def open_tools(zoo: Zoo, device: str = "cpu", threads: int = 1) -> Tools:
    """Load them.

    Raises:
        ModelError: a file at hand is not what its entry says.
    """
    names = tool_names(zoo)
    providers = providers_for(device)
    return Tools(
        detector=open_detector(zoo.get(names["detector"]).path, providers, threads) if "detector" in names else None,
        landmarks=_landmarks(zoo, names, providers, threads),
        parser=open_parser(zoo.get(names["parsing"]).path, device, providers, threads) if "parsing" in names else None,
    )


def providers_for(device: str) -> tuple[str, ...]:
    """onnxruntime's providers for a torch device."""
    cpu = "CPUExecutionProvider"
    return ("CUDAExecutionProvider", cpu) if device.startswith("cuda") else (cpu,)


def _landmarks(zoo: Zoo, names: dict[str, str], providers: tuple[str, ...], threads: int) -> LandmarkModel | None:
    name = names.get("landmarks")
    if name is None:
        return None
    return open_landmarks(MEDIAPIPE if name == MEDIAPIPE else Path(zoo.get(name).path), providers, threads)
