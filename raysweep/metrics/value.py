"""The value of a metric: a number with its interval, or the reason why there is none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["MetricValue", "Status"]

Status = Literal["ok", "undefined", "vacuous"]


@dataclass(frozen=True)
class MetricValue:
    """A number that says how sure it is.

    Attributes:
        value: NaN unless `status` is `ok` (or `vacuous`, where it is kept for inspection).
        lo, hi: 95 % interval, NaN when there is none.
        n: how many images or pairs.
        n_ids: how many identities.
        status: `undefined` when it cannot be computed, `vacuous` when it could but means nothing.
        reason: why not `ok`; for `ok`, why there is no interval, or empty.
    """

    value: float
    lo: float = math.nan
    hi: float = math.nan
    n: int = 0
    n_ids: int = 0
    status: Status = "ok"
    reason: str = ""

    @classmethod
    def undefined(cls, reason: str, n: int = 0, n_ids: int = 0) -> MetricValue:
        """No number, and why: never 0, which would read as perfect privacy for a leak."""
        return cls(math.nan, n=n, n_ids=n_ids, status="undefined", reason=reason)

    @property
    def ok(self) -> bool:
        """Whether the value may be used and ranked."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, float | int | str | None]:
        """JSON-safe: NaN becomes null."""
        return {
            key: None if isinstance(item, float) and math.isnan(item) else item for key, item in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, record: dict[str, float | int | str | None]) -> MetricValue:
        """The inverse of `to_dict`."""
        numbers = {key: math.nan if record[key] is None else float(record[key]) for key in ("value", "lo", "hi")}  # type: ignore[arg-type]
        return cls(
            **numbers,
            n=int(record["n"] or 0),
            n_ids=int(record["n_ids"] or 0),
            status=record["status"],  # type: ignore[arg-type]
            reason=str(record["reason"]),
        )
