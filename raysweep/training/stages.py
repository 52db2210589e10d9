"""A training that stops and goes on in another process, to the last bit: what its next step depends on beside the data, as one tensor."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from raysweep.errors import ModelError

if TYPE_CHECKING:
    from raysweep.anonymizers.base import State
    from raysweep.training.trainer import Trainer

__all__ = ["PAUSED", "go_on", "pause"]

PAUSED = "training.paused"
"""Name of that tensor in the state of an anonymizer whose training is not over."""


def pause(trainer: Trainer, order: torch.Generator, drawing: torch.device | None = None) -> torch.Tensor:
    """Networks, optimizers, scaler, and the random numbers to come.

    Args:
        trainer: between two steps.
        order: of the examples.
        drawing: device whose global random numbers the steps draw from (dropout); None where they draw none.

    Returns:
        (bytes,) uint8 on the CPU; some four times as many as the networks have.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "trainer": trainer.state_dict(),
            "order": order.get_state(),
            "random": None if drawing is None else torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(drawing) if drawing is not None and drawing.type == "cuda" else None,
        },
        buffer,
    )
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def go_on(state: State | None, trainer: Trainer, order: torch.Generator, drawing: torch.device | None = None) -> None:
    """Take what `pause` gave, if there is any; where the steps draw from torch's global random numbers, in a `fork_rng` of the caller.

    Args:
        state: of an anonymizer, with `PAUSED`; None at the start of a training.
        trainer, order, drawing: as of `pause`.

    Raises:
        ModelError: the state is of a training that was over, or of another one.
    """
    if state is None:
        return
    if PAUSED not in state:
        raise ModelError("a training that is over cannot go on: its state holds no optimizers")
    try:
        saved: Mapping[str, Any] = torch.load(
            io.BytesIO(state[PAUSED].numpy().tobytes()), map_location="cpu", weights_only=True
        )
        trainer.load_state_dict(saved["trainer"])
        order.set_state(saved["order"])
        if drawing is not None:
            torch.set_rng_state(saved["random"])
            if drawing.type == "cuda" and saved["cuda"] is not None:
                torch.cuda.set_rng_state(saved["cuda"], drawing)
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"a training cannot go on from this state: {str(error).splitlines()[0][:200]}") from error
