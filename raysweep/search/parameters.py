"""The kinds of searched parameters. An anonymizer declares them with its bounds; a search space narrows or fixes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Bool", "Categorical", "Float", "Int", "Parameter", "Value"]

Value = bool | int | float | str
"""A setting's value."""


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], searched on a logarithmic scale when `log`."""

    low: float
    high: float
    default: float
    log: bool = False
    unit: str = ""
    why: str = ""

    def problem(self, value: object) -> str | None:
        """Why `value` is not allowed, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{value!r} is not a number; allowed: {self.low} to {self.high}"
        if not self.low <= value <= self.high:
            return f"{value!r} is out of range; allowed: {self.low} to {self.high}"
        return None


@dataclass(frozen=True)
class Int:
    """A whole number low, low + step, ..., high."""

    low: int
    high: int
    default: int
    step: int = 1
    log: bool = False
    unit: str = ""
    why: str = ""

    def problem(self, value: object) -> str | None:
        """Why `value` is not allowed, or None."""
        allowed = f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{value!r} is not a whole number; allowed: {allowed}"
        if not self.low <= value <= self.high or (value - self.low) % self.step:
            return f"{value!r} is out of range; allowed: {allowed}"
        return None


@dataclass(frozen=True)
class Categorical:
    """One of a few names or numbers."""

    choices: Sequence[str | int | float]
    default: str | int | float
    unit: str = ""
    why: str = ""

    def problem(self, value: object) -> str | None:
        """Why `value` is not allowed, or None."""
        if isinstance(value, bool) or value not in self.choices:
            return f"{value!r} is not allowed; allowed: {', '.join(map(str, self.choices))}"
        return None


@dataclass(frozen=True)
class Bool:
    """true or false."""

    default: bool
    unit: str = ""
    why: str = ""

    def problem(self, value: object) -> str | None:
        """Why `value` is not allowed, or None."""
        return None if isinstance(value, bool) else f"{value!r} is not true or false"


Parameter = Float | Int | Categorical | Bool
