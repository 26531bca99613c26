"""Tables as people read them, in four forms: for a terminal, in Markdown, in LaTeX and in HTML."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

Rows = list[list[str]]
"""A table as people read it, header first. No row is shorter than another."""
Groups = Sequence[tuple[str, int]]
"""A line above the header: titles, and over how many columns each stands, of which the widths sum to a row's."""
WORDS = {
    *(
        "method",
        "setting",
        "tuned setting",
        "parameter",
        "cell",
        "block",
        "data set",
        "network",
        "augmentation",
        "quantity",
    ),
    *("source", "verdict", "differs in", "seeds are", "outcome", "trial", "run", "commit", "data digest"),
}
"""Columns that are aligned to the left."""
_LATEX: Mapping[str, str] = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "·": r"$\cdot$",
    "ε": r"$\varepsilon$",
    "ζ": r"$\zeta$",
    "η": r"$\eta$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    "§": r"\S{}",
}


class Strong(str):
    """A cell that stands out: bold in each form of the table."""

    __slots__ = ()


def terminal_table(rows: Rows, title: str = "") -> Table:
    """``rows`` for a terminal."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold")
    shown.title, shown.title_justify = title or None, "left"
    for name in rows[0]:
        shown.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows[1:]:
        shown.add_row(*(Text(text, style="bold" if isinstance(text, Strong) else "") for text in row))
    return shown


def markdown_table(rows: Rows) -> str:
    """``rows`` in Markdown."""
    rule = ["---" if name in WORDS else "---:" for name in rows[0]]
    header, *body = [[_markdown(text) for text in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *body))


def _markdown(text: str) -> str:
    escaped = text.replace("|", r"\|")
    return f"**{escaped}**" if isinstance(text, Strong) else escaped


def flat_rows(rows: Rows, groups: Groups) -> Rows:
    """``rows`` without a line above the header, for forms that have none: its titles go before the columns' names."""
    titles = [title for title, width in groups for _ in range(width)]
    return [[f"{title} {name}".strip() for title, name in zip(titles, rows[0], strict=True)], *rows[1:]]


def latex_table(rows: Rows, caption: str, label: str, groups: Groups = ()) -> str:
    """``rows`` as a LaTeX table, for which the preamble must load the package booktabs."""
    columns = "".join("l" if name in WORDS else "r" for name in rows[0])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(caption)}}}", rf"\label{{{label}}}"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *_latex_groups(groups), _latex_row(rows[0]), r"\midrule"]
    lines += [*map(_latex_row, rows[1:]), r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(lines) + "\n"


def _latex_groups(groups: Groups) -> list[str]:
    """The line of titles, and the rules below those that have one."""
    if not any(title for title, _ in groups):
        return []
    titles = [rf"\multicolumn{{{width}}}{{c}}{{{latex_text(title)}}}" for title, width in groups]
    ends = itertools.accumulate(width for _, width in groups)
    spans = zip(groups, ends, strict=True)
    rules = [rf"\cmidrule(lr){{{end - width + 1}-{end}}}" for (title, width), end in spans if title]
    return [" & ".join(titles) + r" \\", " ".join(rules)]


def _latex_row(row: Sequence[str]) -> str:
    cells = [rf"\textbf{{{latex_text(text)}}}" if isinstance(text, Strong) else latex_text(text) for text in row]
    return " & ".join(cells) + r" \\"


def latex_text(text: str) -> str:
    """``text`` with what LaTeX would take for commands escaped, and minus signs as such."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def html_table(rows: Rows) -> str:
    """``rows`` as an HTML table. Cells whose class is ``words`` belong to columns that are aligned to the left."""
    lines = [
        "<tr>" + "".join(_html(text, name, tag) for text, name in zip(row, rows[0], strict=True)) + "</tr>"
        for tag, row in zip(itertools.chain(["th"], itertools.repeat("td")), rows, strict=False)
    ]
    head, body = lines[0], "\n".join(lines[1:])
    return f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _html(text: str, column: str, tag: str) -> str:
    escaped = html.escape(text)
    shown = f"<strong>{escaped}</strong>" if isinstance(text, Strong) else escaped
    words = ' class="words"' if column in WORDS else ""
    return f"<{tag}{words}>{shown}</{tag}>"
