"""Tables for a paper: `tabular` with rules of booktabs, every word escaped."""

from __future__ import annotations

from raysweep.tracking.parts import Tabular

__all__ = ["latex", "latex_text"]

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
}


def latex_text(text: str) -> str:
    """Text in which nothing is a command.

    >>> latex_text("50 % of #3_a")
    '50 \\\\% of \\\\#3\\\\_a'
    """
    return "".join(SPECIAL.get(char, char) for char in text)


def latex(table: Tabular, caption: str = "") -> str:
    """The table as a file to `\\input`; numbers are set to the right. Needs the package booktabs.

    A row starts with `{}`, so that a cell that opens with a bracket is not read as an option of the line before.
    """
    align = "".join("r" if column.css == "n" else "l" for column in table.columns)
    head = " & ".join(latex_text(column.name) for column in table.columns)
    rows = [r"{}" + " & ".join(latex_text(cell.text) for cell in row.cells) + r" \\" for row in table.rows]
    lines = [
        f"% {' '.join((caption or table.caption).split())}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        rf"{head} \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
