"""Sections of text tables, against what is written here by hand."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.rendering import (
    Strong,
    TableSection,
    in_pieces,
    interval_text,
    number,
    reason_missing,
    seeds_text,
    signed,
    to_markdown,
    to_text,
    with_half_width,
    with_interval,
)

ROWS = [{"method": "bc", "score": "50.0"}, {"method": "rebrac", "score": "−7.5"}]
SECTIONS = [TableSection("hopper", [ROWS], ["no gain"]), TableSection("walker", [ROWS[:1], ROWS[1:]])]


def test_text_has_a_table_under_each_heading_and_notes_at_the_end():
    assert to_text(SECTIONS, ["one note"], 40).splitlines() == [
        "hopper",
        "",
        " method  score",
        " ─────────────",
        " bc       50.0",
        " rebrac   −7.5",
        "",
        "→ no gain",
        "",
        "walker",
        "",
        " method  score",
        " ─────────────",
        " bc       50.0",
        "",
        "",
        " method  score",
        " ─────────────",
        " rebrac   −7.5",
        "",
        "· one note",
    ]


def test_text_stays_within_its_width():
    wide = [{"method": "m" * 50, "score": "50.0 [48.2, 51.8]"}]
    for fold in (True, False):
        lines = to_text([TableSection("hopper", [wide])], ["long " * 30], 40, fold=fold).splitlines()
        assert max(map(len, lines)) <= 40
        assert sum(line.count("m") for line in lines) == 51  # the 50 and that of "method": broken, not cut


def test_markdown_has_the_same_tables_and_a_list_of_notes():
    page = to_markdown("sweep", SECTIONS[:1], ["one note", "another"])
    assert page == (
        "# sweep\n\n## hopper\n\n"
        "| method   |   score |\n|:---------|--------:|\n| bc       |    50.0 |\n| rebrac   |    −7.5 |\n\n"
        "**no gain**\n\n- one note\n- another\n"
    )


def test_bold_cells_captions_and_lines_are_in_both():
    rows = [{"a|b": "one", "c": Strong("1|2")}, {"a|b": "mean", "c": "3"}]
    section = TableSection("hopper", [rows], caption="What c is.", ruled={1})
    page = to_markdown("sweep", [section], [])
    assert r"| a\|b   |" in page
    assert r"| **1\|2** |" in page
    assert "\n\nWhat c is.\n" in page
    text = to_text([section], [], 60).splitlines()
    assert [
        line.replace("*1|2*", "").rstrip("3 ").rstrip() for line in text if line[:2] in (" o", " m", "Wh", "· ")
    ] == [" one", " mean", "What c is.", "· between asterisks: bold"]
    assert text.index(" mean      3") == text.index(" one   *1|2*") + 2


def test_a_table_that_is_too_wide_is_cut_into_pieces_that_keep_the_first_column():
    row = {"task": "hopper-medium", **{f"a long header {i}": f"{i}.0 ± 0.1" for i in range(7)}}
    section = in_pieces(TableSection("wide", [[row]], ruled={1}), 60)
    assert [next(iter(rows[0].values())) for rows in section.tables] == ["hopper-medium"] * len(section.tables)
    assert [cell for rows in section.tables for cell in list(rows[0].values())[1:]] == list(row.values())[1:]
    lines = to_text([section], [], 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert sum("0.1" in line for line in lines) == len(section.tables) > 1  # no cell is broken
    assert in_pieces(TableSection("narrow", [[row]]), 400).tables[0][0]["task"] == "hopper-medium"
    assert len(in_pieces(TableSection("narrow", [[row]]), 400).tables) == 1


MAGNITUDES = st.builds(
    lambda sign, mantissa, exponent: sign * mantissa * 10.0**exponent,
    st.sampled_from([-1, 1]),
    st.floats(1.0, 9.999),
    st.integers(-6, 5),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MAGNITUDES, min_size=3, max_size=3), st.booleans())
def test_numbers_that_stand_together_have_one_precision(values, sign):
    """Over magnitudes of 1e-6 to 1e6: as many decimals each, two digits of the largest, rounded to the nearest."""
    mean, low, high = values
    texts = [
        with_interval(mean, low, high, sign=sign),
        f"{number(mean, None)} {interval_text(low, high, sign=sign)}",
        with_half_width(mean, abs(low), sign=sign),
    ]
    for text, together in zip(texts, ((mean, low, high), (low, high), (mean, abs(low))), strict=True):
        found = re.findall(r"[−+]?\d+\.(\d+)", text)[-len(together) :]
        assert len(set(map(len, found))) == 1
        decimals = len(found[0])
        largest = max(map(abs, together))
        assert decimals == 1 if largest >= 1 else 10 <= largest * 10**decimals < 100
        shown = [float(one.replace("−", "-")) for one in re.findall(r"[−+]?\d+\.\d+", text)][-len(together) :]
        assert shown == pytest.approx(list(together), abs=0.5000001 * 10.0**-decimals)
    signs = re.findall(r"([−+]?)\d+\.", texts[0])
    assert signs == ["−" if value < 0 else "+" if sign else "" for value in (mean, low, high)]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(-1.25, ".2f"), "−1.25"),
        (number(0.0312), "0.031"),
        (signed(0.04), "+0.040"),
        (interval_text(-0.2, 0.0034, sign=True), "[−0.20, +0.00]"),
        (with_half_width(0.2, 1.5), "0.2 ± 1.5"),
        (with_half_width(12.0, None), "12.0"),
        (interval_text(-1.0, 2.0), "[−1.0, 2.0]"),
        (interval_text(-1.0, 2.0, "+.1f"), "[−1.0, +2.0]"),
        (interval_text(None, None), "–"),
        (seeds_text([3]), "seed 3"),
        (seeds_text([0, 3]), "seeds 0, 3"),
        (reason_missing(None), "no result yet"),
        (reason_missing("out of memory"), "failed: out of memory"),
    ],
)
def test_numbers_and_phrases(shown, text):
    assert shown == text
