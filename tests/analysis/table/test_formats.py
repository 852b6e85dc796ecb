"""Tables as LaTeX, set by a real TeX, and as HTML, read by a parser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from analysis.rendering import Strong, TableSection
from analysis.table.html import to_html
from analysis.table.latex import LONGEST, in_latex, to_latex

NASTY = r"""50 % & $_{x}^2 #1 ~ \end{table} <b> "q" | −1 ± 2 × α ω λ Δ § † ‡ → ≤ ≥ · ⚠ – é"""
ROWS = [
    {"task": NASTY, "mpc (published elsewhere)": Strong("−1.5 ± 0.3 †"), "b_c": "+2.0 ± 0.1"},
    {"task": "[1, 2] second", "mpc (published elsewhere)": "–", "b_c": Strong("3.0")},
    {"task": "average", "mpc (published elsewhere)": "1.0", "b_c": "2.5"},
]
SECTIONS = [
    TableSection("Comparison", [ROWS], ["gain shown: 100 %"], caption="Bold: the best & more.", ruled={2}),
    TableSection("Grid (of mpc)", [[{"H": str(i), "gain": f"+{i}.0"} for i in range(LONGEST + 30)]], ruled={1}),
]


def test_latex_has_booktabs_lines_bold_a_caption_and_a_label():
    text = to_latex("my_sweep", SECTIONS, ["one\ntwo"])
    lines = text.splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs,graphicx,longtable}"
    first = lines[: lines.index(r"\end{table}")]
    assert [line for line in first if line.endswith("rule")] == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert first.index(r"\midrule", first.index(r"\midrule") + 1) + 1 == first.index(r"average & 1.0 & 2.5 \\")
    assert r"& \bfseries $-$1.5 $\pm$ 0.3 \dag{} & +2.0 $\pm$ 0.1 \\" in text
    assert r"\caption{Comparison. Bold: the best \& more. gain shown: 100 \%.}" in first
    assert r"\label{tab:my_sweep-comparison}" in first
    assert r"\label{tab:my_sweep-grid}" in text
    assert text.endswith("% note: one\n% note: two\n")


def test_every_character_that_tex_reads_as_a_command_is_escaped():
    escaped = in_latex(r"\&%$#_{}~^<>")
    assert escaped == (r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_tex_sets_it(tmp_path):
    (tmp_path / "tables.tex").write_text(to_latex("my_sweep", SECTIONS, [NASTY]), encoding="utf-8")
    packages = re.findall(r"\\usepackage\{.*?\}", (tmp_path / "tables.tex").read_text())
    page = [r"\documentclass{article}", *packages, r"\begin{document}", r"\input{tables}", r"\end{document}"]
    (tmp_path / "page.tex").write_text("\n".join(page))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if "not found" in ended.stdout and ".sty" in ended.stdout:
        pytest.skip("this TeX lacks booktabs, graphicx or longtable")
    assert ended.returncode == 0, ended.stdout
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    assert "Missing character" not in (tmp_path / "page.log").read_text(errors="replace")
    assert "Overfull" not in ended.stdout


class Page(HTMLParser):
    """Texts by tag, and how often each tag is opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.tags, self.ruled = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)
        if tag == "tr":
            self.ruled.append(dict(attrs).get("class") == "ruled")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def test_html_is_well_formed_escaped_and_says_what_is_bold():
    page = Page(to_html("my <sweep>", SECTIONS[:1], ["a <note> & more"]))
    assert page.open == []
    assert page.texts["title"] == page.texts["h1"] == ["my <sweep>"]
    assert page.texts["th"] == [*ROWS[0], NASTY, "[1, 2] second", "average"]
    assert page.texts["strong"] == ["−1.5 ± 0.3 †", "3.0", "gain shown: 100 %"]
    assert page.texts["td"] == ["+2.0 ± 0.1", "–", "1.0", "2.5"]
    assert page.texts["li"] == ["a <note> & more"]
    assert page.ruled == [False, False, False, True]
    assert "b" not in page.tags
    assert "script" not in page.tags
