"""The built-in synthetic faces as a source among the others."""

from __future__ import annotations

from typing import ClassVar

from raysweep.data.synthetic import SyntheticFaces

__all__ = ["SyntheticSource"]


class SyntheticSource(SyntheticFaces):
    """`SyntheticFaces` with the terms that every source states."""

    kind: ClassVar[str] = "synthetic"
    licence: ClassVar[str] = "MIT, as raysweep"
    synthetic: ClassVar[bool] = True
