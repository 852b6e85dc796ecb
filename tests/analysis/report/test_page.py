"""The page of a sweep: it says what the table says, of a recorded sweep whose every number is known."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from analysis.frames import load
from analysis.report.content import _hours
from analysis.report.page import to_html
from analysis.report.provenance import Beside, _shared, _unit
from analysis.table.comparison import build_table
from tests.support.recorded_sweeps import TASK
from tests.support.reported_sweeps import HOSTILE, HOURS, LOG, REASON, SWEEP

SPENT = 36 / 3600  # hours of every unit, by its manifest


class Elements(HTMLParser):
    """Every element's name, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.found, self._open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))
        self._open.append(self.found[-1])

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, tag):
        return [(attributes, "".join(texts)) for name, attributes, texts in self.found if name == tag]


def test_what_holds_is_what_the_table_says(sweep):
    table = build_table(sweep.uri, SWEEP)
    assert sweep.page.verdicts == table.verdicts
    assert sweep.page.notes == table.remarks()
    rows = [(line.task, line.method) for line in sweep.page.lines]
    assert [task for task, _ in rows] == [row.task for row in table.rows]
    shown = re.sub(r"\s+", " ", table.to_markdown())
    for line in sweep.page.lines:
        for field in line.fields:
            assert field.text in shown


def test_fields_are_sorted_by_the_number_they_show(sweep):
    """Returns of 0 to 1000, so scores are a tenth; the gain of H=1 is that of 200 points of return."""
    (line,) = [line for line in sweep.page.lines if line.task == HOSTILE and line.method.startswith("mpc H=1")]
    orders = dict(zip(sweep.page.columns, (field.order for field in line.fields), strict=True))
    assert orders["gain [95 %]"] == pytest.approx(20.0)
    assert orders["score [95 %]"] == pytest.approx((100 + 10 + 200 + 5) / 10)
    assert orders["ms/step"] == pytest.approx(2.0)
    assert orders["evals"] == pytest.approx(7.0)


def test_every_cell_has_its_provenance(sweep):
    kept = {unit.key: unit for line in sweep.page.lines if line.provenance for unit in line.provenance.units}
    assert set(kept) == {cell.key for cell in sweep.cells}
    assert all(len(unit.run_id) == 32 for unit in kept.values() if unit.status == "ok")
    assert kept[sweep.failed.key].reason == f"failed: {REASON}"
    assert kept[sweep.failed.key].log == LOG
    (line,) = [line for line in sweep.page.lines if line.task == TASK.name and line.method.startswith("mpc H=3")]
    shared = dict(line.provenance.shared)
    assert shared["dataset, sha256"] == TASK.dataset_sha256
    assert (shared["git commit"], shared["environment"], shared["device"]) == ("c0ffee", "Hopper-v4", "cpu")
    assert ("horizon", "3") in line.provenance.config
    assert ("step_size", "1e-05") in line.provenance.config


def test_a_value_that_differs_names_its_seeds():
    rows = [{"seed": seed, "git_sha": sha} for seed, sha in ((0, "x"), (1, "y"), (2, "x"))]
    assert _shared(rows) == [("git commit", "x (seeds 0, 2), y (seed 1)")]


def test_components_are_there_and_rows_lead_to_them(sweep):
    ids = {attributes["id"] for _, attributes, _ in Elements(sweep.html).found if "id" in attributes}
    linked = {attributes["href"] for attributes, _ in Elements(sweep.html).all("a")}
    assert {f"unit-{unit.key}" for unit in sweep.components} <= ids
    assert {f"#unit-{unit.key}" for unit in sweep.components if unit.component == "world_model"} <= linked
    assert {target[1:] for target in linked if target.startswith("#")} <= ids


def test_what_has_no_result_says_why(sweep):
    lacking = {(*unit.names, unit.task, unit.seeds, unit.status, unit.reason) for unit in sweep.page.lacking}
    assert lacking == {
        (sweep.failed.method, HOSTILE, "2", "failed", f"failed: {REASON}"),
        (sweep.missing.method, TASK.name, "1", "missing", "no result yet"),
    }
    assert LOG in sweep.html


def test_hours_are_those_of_the_manifests_and_of_the_prediction(sweep):
    hours = {(work.what, work.name): work for work in sweep.page.hours}
    trained, played = hours["train", "world_model"], hours["evaluate", "mpc"]
    assert (trained.done, trained.units, played.done, played.units) == (6, 6, 10, 12)
    assert trained.spent == pytest.approx(6 * SPENT)
    assert played.predicted == pytest.approx(12 * HOURS)
    assert played.ratio == pytest.approx(SPENT / HOURS)  # of what is complete
    assert list(hours)[-1] == ("all", "")
    assert hours["all", ""].spent == pytest.approx(34 * SPENT)
    assert hours["all", ""].predicted == pytest.approx(36 * HOURS)


def test_without_a_prediction_the_page_says_so(sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hours = _hours(load(SWEEP, tracking_uri=sweep.uri).cells, "cell", planned={})
    assert [(work.predicted, work.predicted_done, work.ratio) for work in hours] == [(None, None, None)] * 2
    why = "nothing is predicted: <no> dataset"
    html = to_html(replace(sweep.page, hours=hours, unpredicted=[why]))
    assert why.replace("<", "&lt;").replace(">", "&gt;") in html


def test_names_are_text_and_never_elements(sweep):
    elements = Elements(sweep.html)
    assert len(elements.all("script")) == 1  # ours
    assert elements.all("b") == []
    assert HOSTILE in [text.strip() for _, text in elements.all("td")]
    assert HOSTILE in [text for _, text in elements.all("option")]


def test_the_page_asks_for_nothing_and_allows_only_its_own(sweep):
    elements = Elements(sweep.html)
    (policy,) = [a["content"] for a, _ in elements.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for name in ("style", "script"):
        ((_, content),) = elements.all(name)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    for tag, attributes, _ in elements.found:
        assert tag not in ("link", "img", "iframe", "object", "embed"), tag
        assert not {"src", "style"} & attributes.keys(), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)


def test_no_two_elements_have_one_id_and_references_lead_somewhere(sweep):
    elements = Elements(sweep.html)
    ids = [attributes["id"] for _, attributes, _ in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r"url\(#([^)]+)\)", sweep.html))
    for _, attributes, _ in elements.found:
        referred |= {attributes["xlink:href"][1:]} if "xlink:href" in attributes else set()
        referred |= set(attributes.get("aria-labelledby", "").split())
    assert referred <= set(ids)


def test_a_server_has_links_to_its_runs():
    row = {"key": "a", "seed": 0, "status": "ok", "reason": "", "run_id": "f" * 32, "hours": 1.0}
    assert _unit(row, Beside({}, {}, "http://mlflow:5000/#/experiments/1")).run_url.endswith(
        f"/experiments/1/runs/{'f' * 32}"
    )
    assert _unit(row, Beside({}, {})).run_url == ""
