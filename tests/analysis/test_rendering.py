"""Sections of text tables, against what is written here by hand."""

import pytest

from analysis.rendering import TableSection, interval_text, number, reason_missing, seeds_text, to_markdown, to_text

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
        "| method   |   score |\n|----------|---------|\n| bc       |    50.0 |\n| rebrac   |    −7.5 |\n\n"
        "**no gain**\n\n- one note\n- another\n"
    )


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(-1.25, ".2f"), "−1.25"),
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
