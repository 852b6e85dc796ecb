"""The page in a real browser, from a file: sizes, colours, keyboard, landmarks, and nothing asked of the network."""

import itertools

import pytest

from tests.support import chromium
from tests.support.recorded_sweeps import TASK
from tests.support.reported_sweeps import HOSTILE

WIDTHS = {"desktop": 1280, "phone": 375}
CONTRAST = 4.5  # WCAG 2.2, level AA
DIM = """(() => {
  // texts whose contrast to what is behind them is below the limit; graphics are judged by eye
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => c.slice(0, 3).map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgb(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.body.querySelectorAll("*")].filter((element) =>
    !element.closest("svg, script") && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  const low = texts.map((element) => {
    const pair = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    return [(pair[0] + 0.05) / (pair[1] + 0.05), element.tagName + " " + element.className];
  }).filter(([ratio]) => ratio < LIMIT);
  return texts.length < 100 ? ["too few texts"] : low;
})()"""
ROWS = "[...document.querySelectorAll('#rows > tbody:not([hidden])')]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    path = chromium.find()
    if path is None:
        pytest.skip("no Chromium or Chrome is installed")
    try:
        browser = chromium.Browser(path, tmp_path_factory.mktemp("profile"))
    except (AssertionError, OSError) as error:
        pytest.skip(f"{path} does not start: {error}")
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory, sweep):
    file = tmp_path_factory.mktemp("shown") / "report.html"
    file.write_text(sweep.html, encoding="utf-8")
    return file.as_uri()


def column(browser, cell):
    return browser.run(f"{ROWS}.map((body) => body.rows[0].cells[{cell}].textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", WIDTHS)
def test_it_fits_is_readable_and_raises_no_error(browser, address, device, scheme):
    browser.open(address, width=WIDTHS[device], scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= WIDTHS[device]
    assert browser.run(DIM.replace("LIMIT", str(CONTRAST))) == []
    page = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(255, 255, 255)") == (scheme == "light")
    drawn = browser.run("[...document.querySelectorAll('.plot svg')].map((one) => one.getBoundingClientRect().height)")
    assert len(drawn) == 3
    assert min(drawn) > 200
    said = [*browser.happened("Runtime.exceptionThrown"), *browser.happened("Runtime.consoleAPICalled")]
    assert [*said, *browser.happened("Log.entryAdded")] == []  # also what the page's policy forbids
    assert [one["request"]["url"] for one in browser.happened("Network.requestWillBeSent")] == [address]


def test_names_stay_text(browser, address):
    browser.open(address)
    assert browser.run("typeof hacked") == "undefined"
    assert HOSTILE in column(browser, 1)


def test_a_style_of_an_element_is_refused(browser, address):
    """The policy is in force: otherwise the test above would show nothing."""
    browser.open(address)
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', '<p id=x style=\"color: red\" onclick=\"hacked=1\">x</p>')"
    )
    browser.run("document.getElementById('x').click()")
    assert browser.run("getComputedStyle(document.getElementById('x')).color") != "rgb(255, 0, 0)"
    assert browser.run("typeof hacked") == "undefined"


def test_columns_are_sorted_with_the_keyboard(browser, address):
    browser.open(address)
    planned, gains = column(browser, 0), "document.querySelectorAll('#rows thead button')[4]"
    browser.run(f"{gains}.focus()")
    seen = []
    for _ in range(3):
        browser.press("Enter")
        values = [float(text.split(" ")[0].replace("−", "-")) for text in column(browser, 4) if text != "–"]
        seen.append((browser.run(f"{gains}.closest('th').getAttribute('aria-sort')"), values))
        blank = [text == "–" for text in column(browser, 4)]
        if seen[-1][0] != "none":
            assert blank == sorted(blank)  # rows without a gain are last in both orders
    assert [order for order, _ in seen] == ["descending", "ascending", "none"]
    assert seen[0][1] == sorted(seen[0][1], reverse=True)
    assert seen[1][1] == sorted(seen[1][1])
    assert column(browser, 0) == planned


def test_rows_of_one_task_are_chosen_with_the_keyboard(browser, address):
    browser.open(address)
    browser.run("document.getElementById('task').focus()")
    browser.press("ArrowDown")
    assert set(column(browser, 1)) == {TASK.name}
    assert browser.run("document.getElementById('shown').textContent") == "4 of 12 rows"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, address):
    browser.open(address)
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Skip to the content"
    assert browser.run("document.activeElement.getBoundingClientRect().top") >= 0
    tags = []
    for _ in range(24):
        browser.press("Tab")
        tags.append(browser.run("document.activeElement.tagName"))
        outline = browser.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert {"A", "SELECT", "DIV", "BUTTON", "SUMMARY"} <= set(tags)  # the region that scrolls is a DIV
    browser.run("document.querySelector('#rows summary').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('#rows details').open") is True


def test_a_link_opens_the_component_it_leads_to(browser, address):
    browser.open(address)
    browser.run("document.querySelector('#rows details').open = true")
    browser.run("document.querySelector('#rows .parts a').click()")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    opened = "document.getElementById(location.hash.slice(1)).closest('details')"
    assert browser.run(f"{opened}.open") is True
    assert browser.run(f"{opened}.closest('section').querySelector('h2').id") == "components"


def test_landmarks_headings_and_tables_have_names(browser, address):
    browser.open(address)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    roles = browser.roles()
    assert [roles.count(role) for role in ("banner", "navigation", "main", "contentinfo")] == [1, 1, 1, 1]
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3, h4')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    unnamed = (
        "[...document.querySelectorAll('table')].filter((one) => !one.caption || one.querySelector('th:not([scope])'))"
    )
    assert browser.run(f"{unnamed}.length") == 0
    assert browser.run("document.documentElement.lang") == "en"
