"""Tables in each of their forms: as wide in every row, with nothing taken for a command."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from analysis.render import Rows, Strong, flat_rows, html_table, latex_table, latex_text, markdown_table, terminal_table

ROWS: Rows = [
    ["method", "error %", "NLL - ERM's", "n"],
    ["Erm", "8.05 ± 0.13", "–", "5"],
    [r"A_b & C|d <e>", Strong("-0.01 [-0.02, +0.00]"), "#1 $2 ~3 ^4 \\5 {6}", "3/5"],
]
GROUPS = [("", 1), ("Mnist_5k", 2), ("", 1)]


class Cells(HTMLParser):
    """The texts of a table's rows, ``*`` before those in bold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            if ("class", "words") in attrs:
                self.words.append(tag)
        elif tag == "strong":
            self.rows[-1][-1] += "*"

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data


def body(table: str) -> list[str]:
    return table.split("\\toprule")[1].split("\\bottomrule")[0].strip().splitlines()


def columns(line: str) -> int:
    """How many columns a LaTeX row fills."""
    spans = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d+)\}", line))
    return len(re.findall(r"(?<!\\)&", line)) + 1 + spans


def test_latex_has_the_rules_of_booktabs_and_rows_of_one_width() -> None:
    table = latex_table(ROWS, "50% of $x_1$", "tab:a", GROUPS)
    lines = [line for line in body(table) if line.endswith(r"\\")]
    assert [columns(line) for line in lines] == [4, 4, 4, 4]
    assert table.count("\\midrule") == table.count("\\toprule") == table.count("\\bottomrule") == 1
    assert "\\cmidrule(lr){2-3}" in table
    assert table.count("\\cmidrule") == 1
    assert "\\begin{tabular}{lrrr}" in table
    assert r"\caption{50\% of \$x\_1\$}" in table
    assert "booktabs" in table.splitlines()[0]
    assert "\\cmidrule" not in latex_table(ROWS, "", "tab:a")


def test_latex_takes_nothing_for_a_command() -> None:
    line = body(latex_table(ROWS, "", "tab:a"))[-1]
    assert line.startswith(r"A\_b \& C\textbar{}d $<$e$>$ & \textbf{$-$0.01 [$-$0.02, +0.00]}")
    assert r"\#1 \$2 \textasciitilde{}3 \textasciicircum{}4 \textbackslash{}5 \{6\}" in line
    assert latex_text("ε = 0.5 ± 1, 2024-11-24, well-known, –") == (
        r"$\varepsilon$ = 0.5 $\pm$ 1, 2024-11-24, well-known, --"
    )


@given(st.text(max_size=30))
def test_latex_braces_and_dollars_stay_balanced(text: str) -> None:
    bare = re.sub(r"\\[&%$#_{}]", "", latex_text(text))
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not set(re.sub(r"\$[^$]*\$", "", bare)) & set("&%#_^~<>|")


def test_markdown_has_a_row_a_line_and_bold() -> None:
    lines = markdown_table(ROWS).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: |"
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [5, 5, 5, 5]
    assert r"| A_b & C\|d <e> | **-0.01 [-0.02, +0.00]** |" in lines[3]


def test_html_shows_just_the_texts() -> None:
    cells = Cells(html_table(ROWS))
    assert cells.rows[:2] == ROWS[:2]
    assert cells.rows[2] == [ROWS[2][0], f"*{ROWS[2][1]}", *ROWS[2][2:]]
    assert cells.words == ["th", "td", "td"]


def test_terminal_takes_brackets_for_letters_and_bold_from_strong() -> None:
    console = Console(width=200, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(terminal_table([["method", "x"], ["[bold]a[/]", Strong("1")], ["b", "2"]], "[title]"))
    printed = captured.get()
    assert "[bold]a[/]" in printed
    lines = printed.splitlines()
    assert "\x1b[1m1" in lines[-2]
    assert "\x1b" not in lines[-1]


def test_groups_go_before_the_names_where_there_is_one_header() -> None:
    assert flat_rows(ROWS, GROUPS)[0] == ["method", "Mnist_5k error %", "Mnist_5k NLL - ERM's", "n"]
    assert flat_rows(ROWS, GROUPS)[1:] == ROWS[1:]
