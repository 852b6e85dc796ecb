"""Step sizes that a judge chose, from the planner to the table, and which cells are the truth of a judgement."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.off_policy_evaluation import agreement, to_text
from analysis.table.comparison import build_table
from cluster.store import open_store
from mpcwdwm.errors import UserError
from mpcwdwm.planning import AdaptiveMpc, MpcConfig, planner_config
from sweeps.plan.step_size_scores import true_and_estimated
from tests.support.random_parts import OBS
from tests.support.recorded_sweeps import baseline, mpc, publish_result, record
from tests.support.trusted_parts import trusted_parts

SCORES = {"critic": [0.0, 1.0, 2.0], "fqe_disjoint": [0.0, 0.5, None]}
CANDIDATES = [0.0, 0.01, 0.1]


def sized(seed, size, horizon=3, **changes):
    cell = mpc("s", seed, horizon=horizon)
    key = "-".join(map(str, (cell.key, size, *changes.values())))
    return replace(cell, key=key, planner={**cell.planner, "step_size": size, **changes})


def sweep(tmp_path, *, auto=True):
    """Two seeds: the larger the step, the worse for the first; for the second the other way round."""
    store = open_store(str(tmp_path))
    cells = []
    for seed, gains in ((0, (50.0, 40.0, 30.0)), (1, (50.0, 60.0, 70.0))):
        own = [baseline("s", "rebrac", seed), sized(seed, 0.01), sized(seed, 0.1)]
        own += [sized(seed, 0.1, horizon=5), sized(seed, 0.7)]  # no truths: other settings, no candidate
        for cell, score in zip(own, (*gains, 1.0, 2.0), strict=True):
            mean = {"normalized_score": score, "return": 0.0}
            publish_result(tmp_path, cell, [0.0, 0.0], episodes_mean=mean)
        if auto:
            judged = sized(seed, "auto", judge="fqe_disjoint")
            words = {"judges": {"candidates": CANDIDATES, "scores": SCORES}}
            mean = {"normalized_score": 3.0, "return": 0.0}
            publish_result(tmp_path, judged, [0.0, 0.0], episodes_mean=mean, judgement=words)
            own.append(judged)
        cells += own
    return SimpleNamespace(cells=cells, spec=SimpleNamespace(name="s")), store


def test_the_truth_of_a_candidate_is_the_same_planner_with_it_fixed(tmp_path):
    true, estimated = true_and_estimated(*sweep(tmp_path))
    found = {(row["seed"], row["candidate"]): row["true_score"] for row in true}
    assert found == {(0, 0.0): 50, (0, 0.01): 40, (0, 0.1): 30, (1, 0.0): 50, (1, 0.01): 60, (1, 0.1): 70}
    assert len(true) == 6
    assert [(w["seed"], w["judge"], w["candidate"], w["score"]) for w in estimated[:3]] == [
        (0, "critic", 0.0, 0.0),
        (0, "critic", 0.01, 1.0),
        (0, "critic", 0.1, 2.0),
    ]
    assert math.isnan(estimated[5]["score"])  # what was not finite
    assert len(estimated) == 12


def both_resets(tmp_path, given, *, without=None):
    """One seed, every size with either reset; a judge of both resets, or of the one that is given."""
    store = open_store(str(tmp_path))
    cells = [baseline("s", "rebrac", 0), sized(0, 0.0, reset="step")]  # not adapting, twice
    cells += [sized(0, size, reset=reset) for size in CANDIDATES[1:] for reset in ("step", "episode")]
    cells += [sized(0, 0.1, horizon=5, reset="episode")]  # no truth
    for cell, score in zip(cells, (50, 51, 10, 20, 30, 40, 1), strict=True):
        if cell.key != without:
            publish_result(tmp_path, cell, [0.0], episodes_mean={"normalized_score": score, "return": 0.0})
    judged = sized(0, "auto", reset=given, candidate_resets="both", smallest=0.01, judge="critic")
    said = {
        "candidates": [0.0, 0.01, 0.01, 0.1, 0.1],
        "resets": ["step", "step", "episode", "step", "episode"],
        "scores": {"critic": [0.0, 1.0, 2.0, 3.0, None]},
    }
    mean = {"normalized_score": 3.0, "return": 0.0}
    publish_result(tmp_path, judged, [0.0], episodes_mean=mean, judgement={"judges": said})
    return SimpleNamespace(cells=[*cells, judged], spec=SimpleNamespace(name="s")), store


NAMES = ["0.01 (reset: step)", "0.01 (reset: episode)", "0.1 (reset: step)", "0.1 (reset: episode)"]


@pytest.mark.parametrize("given", ["step", "episode"])
def test_the_truth_of_a_pair_is_the_same_planner_with_its_size_and_its_reset(given, tmp_path):
    true, estimated = true_and_estimated(*both_resets(tmp_path, given))
    assert {row["candidate"]: row["true_score"] for row in true} == dict(
        zip([0.0, *NAMES], (50, 10, 20, 30, 40), strict=True)
    )
    assert len(true) == 5
    assert [w["candidate"] for w in estimated] == [0.0, *NAMES]
    assert [w["score"] for w in estimated[:4]] == [0, 1, 2, 3]
    rows = agreement(pd.DataFrame(true), pd.DataFrame(estimated))
    critic, best = (rows.set_index("judge").loc[judge] for judge in ("critic", "best fixed"))
    assert (critic.gain, critic.regret) == (30 - 50, 50 - 30)  # what was not finite was not chosen
    assert critic.spearman == pytest.approx(stats.spearmanr([0, 1, 2, 3, -1], [50, 10, 20, 30, 40]).statistic)
    assert best.gain == 0


def test_a_pair_without_a_truth_is_named_with_its_reset(tmp_path):
    plan, store = both_resets(tmp_path, "step", without=sized(0, 0.1, reset="episode").key)
    rows = true_and_estimated(plan, store)
    lacking = r"seed 0: no true score for step size 0\.1 \(reset: episode\): evaluate a planner with that step size"
    with pytest.raises(UserError, match=lacking) as caught:
        agreement(*map(pd.DataFrame, rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recorded", [{}, {"resets": ["episode"] * 3}], ids=["older manifest", "with resets"])
def test_where_the_reset_is_given_the_truth_has_it_too(recorded, tmp_path):
    plan, store = both_resets(tmp_path, "step")
    judged = sized(0, "auto", reset="episode", candidate_resets="given")
    words = {"judges": {"candidates": CANDIDATES, "scores": SCORES, **recorded}}
    publish_result(tmp_path, judged, [0.0], episodes_mean={"normalized_score": 3, "return": 0.0}, judgement=words)
    plan.cells[-1] = judged
    true, estimated = true_and_estimated(plan, store)
    assert {row["candidate"]: row["true_score"] for row in true} == {0.0: 50, 0.01: 20, 0.1: 40}
    assert [w["candidate"] for w in estimated[:3]] == CANDIDATES


def test_the_agreement_of_these_rows_is_printed(tmp_path):
    true, estimated = true_and_estimated(*sweep(tmp_path))
    rows = agreement(pd.DataFrame(true), pd.DataFrame(estimated))
    critic = rows.set_index("judge").loc["critic"]
    assert critic.spearman == pytest.approx(0.0)  # −1 for one seed, +1 for the other
    assert critic.regret == pytest.approx((20 + 0) / 2)
    assert "critic" in to_text(rows)


def test_a_sweep_without_judges_says_how_to_get_some(tmp_path):
    with pytest.raises(UserError, match="step_size: auto"):
        true_and_estimated(*sweep(tmp_path, auto=False))


def test_a_table_shows_a_step_size_that_was_chosen_by_a_judge(new_records, tmp_path):
    uri = new_records(tmp_path)
    cells = [baseline("s", "rebrac", 0), sized(0, "auto")]
    record(uri, "s", cells, {cell.key: [100, 200] for cell in cells}, tmp_path / "runs")
    (row,) = [row for row in build_table(uri, "s").rows if row.kind == "policy"]
    assert row.step_size == "auto"
    assert row.adapted_share == 1.0


def test_what_was_measured_before_the_first_step_is_known_of_every_member():
    fields = {"H": 1, "M": 2, "step_size": "auto", "step_unit": "action", "reset": "step", "gate": 1.0}
    planner = AdaptiveMpc(trusted_parts(), MpcConfig(**fields), seeds=(0, 1))
    planner.act(torch.zeros(2, OBS, dtype=torch.float64))
    for member, found in enumerate(planner.findings()):
        assert found["step_size"] == planner.alpha[member].item()
        assert found["error_slope"] == planner.slopes.total[member].item()
        assert found["reset"] == "step"
        assert found["judges"]["judge"] == "imagination"
        assert found["judges"]["chosen"] == planner.choice.chosen[member]
        assert set(found["judges"]["scores"]) == set(planner.choice.scores)
    assert AdaptiveMpc(trusted_parts(), MpcConfig(H=1), seeds=(0, 1)).findings() == [None, None]


@pytest.mark.parametrize("fields", [{"step_size": "auto"}, {"step_unit": "action"}, {"gate": 1.0}], ids=str)
def test_the_cost_of_a_planner_that_measures_first_is_predicted_without_a_dataset(fields):
    config = MpcConfig(**fields)
    assert config.uses_dataset
    plain = planner_config(config.unmeasured().to_dict())
    assert not plain.uses_dataset
    assert (plain.horizon, plain.rollouts, plain.anchor) == (config.horizon, config.rollouts, config.anchor)
