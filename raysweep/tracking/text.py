"""Names and numbers as a person reads them, safe for a terminal, a table cell, a page and MLflow.

Names come from folders, files and plug-ins of other people: they may hold newlines, markup, terminal escapes or a novel.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from raysweep.engine.record import TrialRecord
from raysweep.metrics.value import MetricValue

__all__ = [
    "attacker_name",
    "csv_cell",
    "duration",
    "entity_key",
    "markdown",
    "number",
    "page",
    "plain",
    "redact",
    "setting_text",
    "stopped_text",
    "tag_value",
    "with_interval",
    "worst_attacker",
]

MAX_KEY = 240
MAX_VALUE = 5000
"""MLflow allows 250 for a key (endings such as `_lo` are added to it), 6,000 for a parameter and 8,000 for a tag (5,000 on older servers)."""


def plain(text: object, limit: int = 200) -> str:
    """One line of printable text, at most `limit` characters: no control, format or unpaired surrogate characters.

    >>> plain("a\\nb\\x1b[31m" + "c" * 5, limit=10)
    'a b [31mc…'
    """
    kept = "".join(
        " " if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else char for char in str(text)
    )
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def tag_value(text: object) -> str:
    """Text for an MLflow tag or parameter: printable, one line, within the limits of every server."""
    return plain(text, MAX_VALUE)


def entity_key(name: object) -> str:
    """A key that MLflow accepts for metrics, parameters and tags: word characters, `_ - . / :` and blanks, a normal path.

    >>> entity_key("../clear//rank1/<b>")
    'clear/rank1/_b_'
    """
    clean = re.sub(r"[^/\w.\- ]", "_", plain(name, MAX_KEY * 4))
    parts = [part.strip() for part in clean.split("/")]
    parts = [part for part in parts if part not in ("", ".", "..")]
    return "/".join(parts)[:MAX_KEY].rstrip("/ .") or "_"


def page(text: object, limit: int = 200) -> str:
    """Text for HTML (plotly titles and hover boxes read a part of HTML)."""
    return html.escape(plain(text, limit), quote=True)


def markdown(text: object, limit: int = 200) -> str:
    """Text for a Markdown table cell: nothing in it is read as markup."""
    # A link or image needs its bracket, a heading or list its place at the start: the rest may stay readable.
    escaped = re.sub(r"^[#+\-=]|[\\`*_\[\]|~$]", r"\\\g<0>", plain(text, limit))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet reads as a formula; numbers stay numbers, a missing one is empty."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return "" if isinstance(value, float) and not math.isfinite(value) else value
    text = plain(value, 1000)
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


def number(value: object, digits: int = 3) -> str:
    """A setting's value or a plain number, short.

    >>> number(0.0300000001), number(31), number(True)
    ('0.03', '31', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return plain(value, 80)


def setting_text(setting: Mapping[str, Any], limit: int = 200) -> str:
    """`kernel_size=31, sigma=0.3`; `defaults` when there is nothing to set."""
    return plain(", ".join(f"{plain(key, 60)}={number(value)}" for key, value in setting.items()), limit) or "defaults"


def with_interval(value: MetricValue | None, digits: int = 2) -> str:
    """`0.83 [0.76, 0.89]`, `0.83`, `undefined`, or `-` when it was not measured."""
    if value is None:
        return "-"
    if not value.ok:
        return value.status
    text = _fixed(value.value, digits)
    if math.isfinite(value.lo) and math.isfinite(value.hi):
        text += f" [{_fixed(value.lo, digits)}, {_fixed(value.hi, digits)}]"
    return text


def _fixed(value: float, digits: int) -> str:
    """A rounded number; what rounds to nothing has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def attacker_name(row: Mapping[str, Any]) -> str:
    """`A3 adaptive_head on buffalo_l`."""
    name, embedder = plain(row.get("attacker", "?"), 60), plain(row.get("embedder") or "", 60)
    if row.get("name"):
        name += f" {plain(row['name'], 60)}"
    return f"{name} on {embedder}" if embedder else name


def worst_attacker(attackers: tuple[Mapping[str, Any], ...]) -> str:
    """Name of the attacker that decides privacy: the row marked `selected`, else the largest advantage on S among valid ones.

    An empty string when no attacker is valid.
    """
    for row in attackers:
        if row.get("selected"):
            return attacker_name(row)

    def advantage(row: Mapping[str, Any]) -> float:
        value = row.get("advantage_S")
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else -math.inf

    valid = [
        row
        for row in attackers
        if row.get("status", "ok") == "ok" and not row.get("control") and advantage(row) > -math.inf
    ]
    return attacker_name(max(valid, key=advantage)) if valid else ""


def redact(uri: str) -> str:
    """A URI without the password and the query, fit for a screen or a log.

    >>> redact("postgresql://me:secret@db/x?token=1")
    'postgresql://me:***@db/x'
    """
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri.partition("?")[0]
    user, at, host = parts.netloc.rpartition("@")
    if at:
        user = user.partition(":")[0] + (":***" if ":" in user else "")
    return urlunsplit((parts.scheme, f"{user}{at}{host}", parts.path, "", ""))


def stopped_text(record: TrialRecord) -> str:
    """Where a trial was stopped, and what was found there.

    >>> from raysweep.engine.record import TrialRecord
    >>> stopped_text(TrialRecord("k", 0, "blur", {}, {}, "stopped", rungs=({"identities": 11.0, "privacy": 0.5, "utility": 0.2},)))
    'stopped at 11 people: P at most 0.50, U 0.20'
    >>> stopped_text(TrialRecord("k", 0, "ganonymization", {}, {}, "stopped", rungs=({"identities": 11.0, "steps": 40.0},)))
    'stopped at 11 people and 40 steps: no value'
    """
    found = record.rungs[-1] if record.rungs else {}
    values = [
        f"{words} {found[name]:.2f}" for name, words in (("privacy", "P at most"), ("utility", "U")) if name in found
    ]
    people = f" at {found['identities']:.0f} people" if "identities" in found else ""
    steps = f" and {found['steps']:.0f} steps" if people and "steps" in found else ""
    return f"stopped{people}{steps}: {', '.join(values) or 'no value'}"
