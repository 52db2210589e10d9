"""Published checkpoints of generators: find the tensors in whatever they were saved in, and check each name and shape before use."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raysweep.errors import ModelError
from raysweep.models.loading import read_container, tensors_of

if TYPE_CHECKING:
    import torch

__all__ = ["CheckpointFacts", "checkpoint_facts", "load_generator_state", "shapes_of"]

LIGHTNING = "pytorch-lightning_version"


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint says of itself beside its tensors.

    Attributes:
        container: `safetensors`, `lightning` (a dictionary with `state_dict` and `hyper_parameters`), `dictionary` (any other nesting) or
            `state dict` (tensors alone).
        entries: names at the top, sorted; empty for a state dict.
        epoch, step: of the training, None where not said.
        image_size: side of the pictures in training, pixels (`hyper_parameters.img_size`), None where not said.
        metadata: of a safetensors header.
    """

    container: Literal["safetensors", "lightning", "dictionary", "state dict"]
    entries: tuple[str, ...] = ()
    epoch: int | None = None
    step: int | None = None
    image_size: int | None = None
    metadata: Mapping[str, str] | None = None

    def size_warning(self, asked: int) -> str | None:
        """A sentence when the pictures of training had another side than `asked` pixels; None when they agree or nothing is said."""
        if self.image_size is None or self.image_size == asked:
            return None
        return (
            f"the checkpoint was trained at {self.image_size} pixels and is used at {asked}: "
            f"expect other faces than its authors', or set size={self.image_size}"
        )


def checkpoint_facts(path: Path) -> CheckpointFacts:
    """What a checkpoint says of itself; no tensor is copied.

    Raises:
        ModelError: see `raysweep.models.loading.read_container`.
    """
    loaded, metadata = read_container(path)
    if path.suffix == ".safetensors":
        return CheckpointFacts("safetensors", metadata=metadata)
    if not isinstance(loaded, Mapping) or _is_state(loaded):
        return CheckpointFacts("state dict")
    settings = loaded.get("hyper_parameters")
    settings = settings if isinstance(settings, Mapping) else {}
    return CheckpointFacts(
        "lightning" if "state_dict" in loaded and (LIGHTNING in loaded or settings) else "dictionary",
        entries=tuple(sorted(map(str, loaded))),
        epoch=_whole(loaded.get("epoch")),
        step=_whole(loaded.get("global_step")),
        image_size=_whole(settings.get("img_size")),
    )


def load_generator_state(
    path: Path,
    *,
    key: str | Sequence[str] | None,
    prefix: str = "",
    wanted: Mapping[str, tuple[int, ...]],
    optional: Container[str] = (),
) -> dict[str, torch.Tensor]:
    """The tensors of one network out of a published checkpoint, checked by name and shape; no code of the file runs.

    Args:
        path: .pt, .pth, .ckpt (Lightning dictionaries, dictionaries with several networks, plain state dicts) or .safetensors.
        key: entry that holds the state dict; several: the first that is there (`("EMA_generator", "running_average_generator")`);
            None: the file is the state dict. A file of tensors alone is taken for the state dict whatever the key.
        prefix: take only names that start so, and strip it. A state dict saved without the rest of its model may lack it.
        wanted: shape of every tensor of the network by name (`shapes_of`).
        optional: of the wanted, what may be missing; and names beyond them that may be there and are left out.

    Returns:
        Exactly the wanted names that are there: copies on the CPU, floating point as float32.

    Raises:
        ModelError: refused by `read_container`; no such entry; or names the first tensor that is missing, unexpected, of another shape or
            not finite, and how many there are.
    """
    import torch

    loaded, _ = read_container(path)
    content = _entry(loaded, key, path)
    bare = isinstance(content, Mapping) and not any(str(name).startswith(prefix) for name in content)
    found = tensors_of(content, path, "" if bare and _overlaps(content, wanted) else prefix)
    missing = [name for name in wanted if name not in found and name not in optional]
    surplus = [name for name in found if name not in wanted and name not in optional]
    shapes = [
        f"{name} is {tuple(found[name].shape)}, the network has {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    for what, names in (("missing", missing), ("of another shape", shapes), ("unexpected", surplus)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ModelError(
                f"{path}: weights of another architecture: {what}: {names[0]}{more}; "
                f"{len(wanted)} tensors are wanted, the file has {len(found)}"
            )
    state = {}
    for name in wanted:
        if name in found:
            tensor = found[name].detach()
            state[name] = tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ModelError(f"{path}: damaged: {broken[0]}{more} holds NaN or infinity; get the file again")
    return state


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape, as `load_generator_state` wants it; give it a network's `state_dict()`."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _entry(loaded: Any, key: str | Sequence[str] | None, path: Path) -> Any:
    keys = () if key is None else (key,) if isinstance(key, str) else tuple(key)
    if not keys or _is_state(loaded):
        return loaded
    for name in keys:
        if isinstance(loaded, Mapping) and name in loaded:
            return loaded[name]
    has = ", ".join(sorted(map(str, loaded))[:8]) if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
    raise ModelError(f"{path}: the checkpoint has no entry {' or '.join(map(repr, keys))}; it has {has or 'nothing'}")


def _is_state(loaded: Any) -> bool:
    """Whether a mapping holds tensors and nothing else."""
    import torch

    return (
        isinstance(loaded, Mapping) and bool(loaded) and all(isinstance(item, torch.Tensor) for item in loaded.values())
    )


def _overlaps(content: Mapping[Any, Any], wanted: Mapping[str, tuple[int, ...]]) -> bool:
    return any(name in wanted for name in content)


def _whole(value: object) -> int | None:
    """A whole number, also one saved as a tensor; None for anything else."""
    import torch

    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_floating_point():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
