"""No anonymization: the control that must come out with privacy 0 and utility 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from raysweep.anonymizers.base import Anonymizer

if TYPE_CHECKING:
    import torch

    from raysweep.schema import FaceBatch

__all__ = ["Identity"]


class Identity(Anonymizer):
    """Publish the clear face."""

    name: ClassVar[str] = "identity"

    def anonymize(self, faces: FaceBatch) -> torch.Tensor:
        """The crops as they are, (n, 3, S, S) uint8."""
        return faces.image.clone()
