"""Ray-distributed sweeps of face anonymizers against a privacy-utility objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysweep.api import evaluate, register_anonymizer, tune

__version__ = "0.1.0"
__all__ = ["__version__", "evaluate", "register_anonymizer", "tune"]


def __getattr__(name: str) -> Any:
    """The Python door (`raysweep.tune` and so on), imported when first used: `import raysweep` alone stays light."""
    if name in {"evaluate", "register_anonymizer", "tune"}:
        from raysweep import api

        return getattr(api, name)
    raise AttributeError(f"module 'raysweep' has no attribute {name!r}")
