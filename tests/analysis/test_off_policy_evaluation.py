"""How far a judge agrees with the truth, by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.off_policy_evaluation import agreement, rank_agreement, to_text
from mpcwdwm.errors import UserError

CANDIDATES = (0, 0.1, 0.2)
TRUE = {  # task → seed → score of every candidate
    "easy": {0: (40, 50, 60), 1: (42, 50, 46), 2: (41, 47, 59)},
    "hard": {0: (80, 70, 30), 1: (82, 84, 20), 2: (81, 60, 40)},
}
WORD = {"bold": (0, 1, 2), "shy": (0, -1, -2), "odd": (0, 3, 3)}


def said(task, seed, judge, candidates, scores):
    where = {"task": task, "seed": seed, "judge": judge}
    return [{**where, "candidate": c, "score": score} for c, score in zip(candidates, scores, strict=True)]


def frames(stderr=None):
    known = {} if stderr is None else {"stderr": stderr}
    truth = [
        {"task": task, "seed": seed, "candidate": c, "true_score": score, **known}
        for task, seeds in TRUE.items()
        for seed, scores in seeds.items()
        for c, score in zip(CANDIDATES, scores, strict=True)
    ]
    words = [
        row
        for task, seeds in TRUE.items()
        for seed in seeds
        for name, scores in WORD.items()
        for row in said(task, seed, name, CANDIDATES, scores)
    ]
    return pd.DataFrame(truth), pd.DataFrame(words)


def test_agreement_by_hand():
    found = agreement(*frames(stderr=1.0)).set_index(["task", "judge"])
    bold, hard = found.loc[("easy", "bold")], found.loc[("hard", "bold")]
    ranks = [stats.spearmanr(WORD["bold"], TRUE["easy"][seed]).statistic for seed in range(3)]
    assert ranks == pytest.approx([1, 0.5, 1])
    assert bold.spearman == pytest.approx(np.mean(ranks))
    half = stats.t.ppf(0.975, 2) * np.std(ranks, ddof=1) / np.sqrt(3)
    assert (bold.spearman_low, bold.spearman_high) == pytest.approx((np.mean(ranks) - half, np.mean(ranks) + half))
    assert (bold.best, bold.regret, bold.gain) == pytest.approx((2 / 3, 4 / 3, (20 + 4 + 18) / 3))
    assert (hard.best, hard.regret, hard.gain) == pytest.approx((0, (50 + 64 + 41) / 3, -(50 + 62 + 41) / 3))
    shy = found.loc[("hard", "shy")]
    assert (shy.best, shy.near_best, shy.regret, shy.gain) == pytest.approx((2 / 3, 1, 2 / 3, 0))  # 2 < 2 · √2
    assert found.loc[("easy", "odd")].gain == pytest.approx((10 + 8 + 6) / 3)  # of equals the smaller
    both = found.loc[("average", "bold")]
    assert both.gain == pytest.approx((bold.gain + hard.gain) / 2)
    means = [(20 - 50) / 2, (4 - 62) / 2, (18 - 41) / 2]
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert (both.gain_low, both.gain_high) == pytest.approx((np.mean(means) - half, np.mean(means) + half))
    assert both.n == 6


def test_the_references():
    found = agreement(*frames()).set_index(["task", "judge"])
    assert tuple(found.loc[("hard", "oracle")][["best", "regret", "gain"]]) == pytest.approx((1, 0, 2 / 3))
    assert tuple(found.loc[("easy", "never")][["best", "regret", "gain"]]) == pytest.approx((0, (20 + 8 + 18) / 3, 0))
    # on average over both tasks 0 scores 61, 0.1 60.17 and 0.2 42.5
    assert found.loc[("easy", "best fixed")].gain == 0
    assert pd.isna(found.loc[("easy", "never")].spearman)
    assert pd.isna(found.loc[("easy", "bold")].near_best)  # no standard errors, no noise


def test_candidates_may_be_names_and_of_equals_the_first_is_chosen():
    names = [0, "2 (reset: step)", "2 (reset: episode)", "10 (reset: step)"]
    truth = [
        {"task": "t", "seed": 0, "candidate": c, "true_score": s} for c, s in zip(names, (5, 9, 8, 9), strict=True)
    ]
    scores = {"even": (0, 3, 3, 3), "bold": (0, 1, 2, 3), "shy": (0, 0, 0, 0)}
    words = [row for judge, own in scores.items() for row in said("t", 0, judge, names, own)]
    found = agreement(pd.DataFrame(truth[::-1]), pd.DataFrame(words)).set_index("judge")  # in any order
    assert found["gain"].to_dict() == {"even": 4, "bold": 4, "shy": 0, "oracle": 4, "never": 0, "best fixed": 4}
    assert found.loc["bold"].spearman == pytest.approx(stats.spearmanr([0, 1, 2, 3], [5, 9, 8, 9]).statistic)
    with pytest.raises(UserError, match=r"for step size 2 \(reset: step\), 10 \(reset: step\): evaluate a planner"):
        agreement(pd.DataFrame([truth[0], truth[2]]), pd.DataFrame(words))


def test_what_is_best_everywhere_is_sought_among_what_was_judged_everywhere():
    truth, words = (rows[rows["task"] == "easy"] for rows in frames())  # where 0.2 is best on average
    fewer = words[(words["seed"] != 1) | (words["candidate"] != 0.2)]
    gains = [agreement(truth, own).set_index("judge").loc["best fixed"].gain for own in (words, fewer)]
    assert gains == pytest.approx([(20 + 4 + 18) / 3, (10 + 8 + 6) / 3])


def test_ranks_of_scores_that_say_nothing():
    assert rank_agreement([1, 1, 1], [1, 2, 3]) == 0
    assert rank_agreement([0, float("nan"), 1], [2, 1, 3]) == 1
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.integers(5, size=(2, 9))
        assert rank_agreement(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_the_table_shows_every_judge_and_truth_that_lacks_is_named():
    truth, words = frames()
    text = to_text(agreement(truth, words))
    assert all(name in text for name in (*WORD, "oracle", "never", "best fixed", "easy", "hard", "average", "regret"))
    assert "+0.83 [+0.12, +1.55]" in text
    assert max(map(len, text.splitlines())) <= 100
    with pytest.raises(UserError, match=r"task hard, seed 2: no true score for step size 0\.2: evaluate"):
        agreement(truth.iloc[:-1], words)
    with pytest.raises(UserError, match="candidate 0, not to adapt, was not judged"):
        agreement(truth, words[words["candidate"] > 0])
