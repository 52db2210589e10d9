"""The report as one HTML page: no script, no network, nothing but what is in the file.

The page's own rule (Content-Security-Policy) forbids scripts and everything remote, and names the hash of its only style sheet; every word
from outside goes through an escaping template, so that a name can be shown but never do anything.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from raysweep import __version__
from raysweep.tracking.analysis import Analysis
from raysweep.tracking.parts import Block
from raysweep.tracking.recompute import Difference
from raysweep.tracking.sections import sections
from raysweep.tracking.text import plain
from raysweep.tracking.verdict import caveats, key_figures, verdict

__all__ = ["build_page"]


def build_page(
    found: Analysis,
    *,
    names: Mapping[int, str] | None = None,
    sheet: Sequence[Block] = (),
    checked: Sequence[Difference] | None = None,
    flags: Sequence[str] = (),
) -> str:
    """The whole page.

    Args:
        found: what to tell.
        names: of people by code, None for codes.
        sheet: blocks of the contact sheet.
        checked: differences of a recomputation, None when there was none.
        flags: further lines to stand at the top.
    """
    info = found.run.info
    style = _text("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    synthetic = (
        ["Synthetic faces: drawn, not photographed. The numbers say nothing about real people."]
        if info.synthetic
        else []
    )
    disagree = (
        [f"{len(checked)} recorded numbers are not what their evidence gives: see the section “To repeat it”."]
        if checked
        else []
    )
    ended = max((record.ended_at for record in found.run.records), default=0.0)
    day = time.strftime("%d %B %Y", time.gmtime(ended)).lstrip("0") if ended > 0 else "no trial has ended"
    return str(
        _template().render(
            title=plain(f"{info.name} on {info.dataset}", 160),
            subtitle=f"{len(found.state.trials)} trials, last one ended {day}; sweep {plain(info.key, 40)}",
            style=Markup(style),  # noqa: S704 - our own file
            style_hash=f"sha256-{digest}",
            flags=[*synthetic, *disagree, *flags],
            verdict=verdict(found),
            cards=key_figures(found),
            caveats=caveats(found),
            sections=sections(found, names=names, sheet=sheet, checked=checked),
            footer=f"raysweep {__version__}, from {plain(found.run.source, 120) or 'memory'}. Privacy P is 1 minus the share of its advantage over guessing that the strongest "
            "attacker keeps; utility U is the share of expressions that stay readable, chance removed. Brackets are 95 % intervals over people.",
        )
    )


def _text(name: str) -> str:
    return files("raysweep.tracking").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_visible)
    return environment.from_string(_text("report.html"))


def _visible(value: Any) -> Any:
    """Every value on its way into the page: printable characters and line ends only, whoever made it."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return "\n".join(plain(line, 4000) for line in value.split("\n"))
