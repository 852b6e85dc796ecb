"""Grouping: everything but the seed, nothing pooled that differs, and what is lacking is said."""

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.frames import IDENTITY, SETTINGS
from analysis.statistics.groups import DESIGN, samples
from mpcwdwm.errors import UserError
from tests.support.simulated_episodes import episodes_of, runs_of

SCORES = np.arange(12.0).reshape(3, 4)


def grid():
    """Two tasks, two horizons, three seeds of four episodes; every value is another."""
    frames = [
        episodes_of(100.0 * t + 20.0 * H + SCORES, f"mpc H={H}", task, H=H, step_size=step)
        for t, task in enumerate(("hop", "walk"))
        for H in (1, 3)
        for step in (0.1,)
    ]
    return pd.concat(frames, ignore_index=True)


def test_every_setting_of_a_loaded_frame_is_grouped_by_and_the_seed_is_not():
    assert {*IDENTITY, *SETTINGS} - set(DESIGN) == {"key", "seed"}
    found = analysis.aggregate(grid())
    assert found[["task", "H"]].values.tolist() == [["hop", 1], ["hop", 3], ["walk", 1], ["walk", 3]]
    assert found["seeds"].tolist() == [3] * 4
    assert found["estimate"].tolist() == pytest.approx([25.5, 65.5, 125.5, 165.5])


def test_tasks_of_one_group_are_strata_of_equal_weight():
    frame = grid()
    more = pd.concat([frame, frame[frame["task"] == "walk"].assign(env_seed=lambda rows: rows["env_seed"] + 4)])
    assert analysis.aggregate(more, by="H")["estimate"].tolist() == pytest.approx([75.5, 115.5])
    assert analysis.aggregate(more, by="H")["tasks"].tolist() == [2, 2]


def test_cells_of_one_seed_are_not_pooled_unless_averaged_over():
    with pytest.raises(UserError, match=r"several rows for task 'hop', seed 0; they differ in method, H: group by it"):
        analysis.aggregate(grid(), by="task")
    found = analysis.aggregate(grid(), by="task", over=["H", "method"])
    assert found["estimate"].tolist() == pytest.approx([45.5, 145.5])
    assert found["episodes"].tolist() == [12, 12]
    short = grid().iloc[1:]
    with pytest.raises(UserError, match="over 1 settings in one place and over 2"):
        analysis.aggregate(short, by="task", over=["H", "method"])


def test_episodes_that_are_there_twice_are_refused():
    frame = grid()
    with pytest.raises(UserError, match="filter the frame"):
        analysis.aggregate(pd.concat([frame, frame.iloc[:1]]))


def test_missing_seeds_are_shown_or_refused():
    frame = grid()
    frame = frame[~((frame["H"] == 3) & (frame["task"] == "walk") & (frame["seed"] > 0))]
    found = analysis.aggregate(frame, by="H")
    assert found["lacking"].tolist() == ["", "walk: seeds 1, 2"]
    assert found["estimate"].notna().all()
    assert found["low"].notna().tolist() == [True, False]
    with pytest.raises(UserError, match="H 3 lacks walk: seeds 1, 2; strict=False shows it"):
        analysis.aggregate(frame, by="H", strict=True)


def test_without_a_whole_task_there_is_no_estimate_over_tasks():
    frame = grid()
    frame = frame[~((frame["H"] == 3) & (frame["task"] == "walk"))]
    found = analysis.aggregate(frame, by="H")
    assert found["lacking"].tolist() == ["", "task walk"]
    assert found["estimate"].notna().tolist() == [True, False]
    assert analysis.aggregate(frame)["lacking"].tolist() == [""] * 3  # of each task, every cell there is


def test_a_failed_cell_is_a_row_without_a_score():
    frame = runs_of([[1.0, 2.0], [3.0, 4.0], [5.0, np.nan]], sweep="one", role="report")
    assert analysis.aggregate(frame)["lacking"].tolist() == ["", "seed 2"]
    none = runs_of([[np.nan], [np.nan], [np.nan]], "broken", sweep="one", role="report")
    found = analysis.aggregate(pd.concat([frame, none]))
    assert found["lacking"].tolist() == ["", "seed 2", "all seeds"]
    assert found["seeds"].tolist() == [3, 2, 0]


def test_another_sweep_or_role_need_not_have_the_same_tasks_and_seeds():
    one, two = runs_of([[1.0, 2.0]] * 3, sweep="one"), runs_of([[1.0]] * 5, sweep="two")
    found = analysis.aggregate(pd.concat([one, two]), by=["sweep", "method"])
    assert found["lacking"].tolist() == ["", ""]


def test_scores_in_two_units_are_not_averaged():
    raw = runs_of([[300.0]] * 3, score_unit="return").assign(task="own")
    frame = pd.concat([runs_of([[50.0]] * 3, score_unit="normalized"), raw])
    with pytest.raises(UserError, match="normalized scores and returns"):
        analysis.aggregate(frame, by="method")
    assert len(analysis.aggregate(frame)) == 2


def test_infinite_values_are_refused():
    frame = runs_of([[50.0, np.inf]] * 3)
    with pytest.raises(UserError, match="the column 'score' holds infinite values"):
        analysis.aggregate(frame)


def test_starting_states_are_shared_only_if_all_seeds_have_the_same():
    frame = episodes_of(SCORES)
    (crossed,) = samples(frame.sample(frac=1.0, random_state=0), "score", what="")
    assert crossed.starts_shared
    assert crossed.tasks["hop"][1].tolist() == [4.0, 5.0, 6.0, 7.0]
    frame.loc[frame["seed"] == 2, "env_seed"] += 1
    (nested,) = samples(frame, "score", what="")
    assert not nested.starts_shared


def test_many_groups_take_little_time():
    rng = np.random.default_rng(0)
    seed, cell, episode = np.indices((5, 2000, 10))
    frame = pd.DataFrame({"task": "hop", "H": cell.ravel(), "seed": seed.ravel(), "env_seed": episode.ravel()})
    frame["score"] = rng.normal(size=len(frame))
    found = analysis.aggregate(frame)
    assert len(found) == 2000
    assert found["estimate"].tolist() == pytest.approx(frame.groupby("H")["score"].mean().tolist())
