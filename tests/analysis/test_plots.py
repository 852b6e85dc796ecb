"""What each plot function draws, against frames and numbers written here by hand."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.figure import Figure

import analysis
from analysis import figures
from analysis.figures.cost import pareto_front
from mpcwdwm.errors import UserError
from tests.support.recorded_curves import errors, record_curves, trained
from tests.support.recorded_sweeps import baseline, mpc, task

SCORES = {1: (20.0, 30.0, 40.0), 3: (50.0, 10.0, 30.0)}  # of H, by training seed; the base's are 30
MS = {1: 2.0, 3: 8.0}


@pytest.fixture(scope="module")
def uri(new_records, tmp_path_factory):
    return new_records(tmp_path_factory.mktemp("plots"))


@pytest.fixture(scope="module")
def run(uri, tmp_path_factory):
    """Three seeds of two horizons and of the base on one task, learning curves, and world models."""
    bases = [baseline("drawn", "rebrac", s) for s in range(3)]
    cells = [mpc("drawn", s, horizon=h) for h in SCORES for s in range(3)]
    results = {unit.key: [300.0, 300.0] for unit in bases}
    results |= {unit.key: [10 * SCORES[unit.planner["horizon"]][unit.seed]] * 2 for unit in cells}
    curves = [(trained("drawn", "world_model", s, kind="mlp"), errors(0.1, 0.3, 0.4)) for s in range(2)]
    curves += [(trained("drawn", "bc", 0), [{"step": 100.0, "eval/normalized_score": 7.0}])]
    record_curves(uri, "drawn", tmp_path_factory.mktemp("drawn"), curves, cells=[*bases, *cells], results=results)
    loaded = analysis.load("drawn", tracking_uri=uri)
    loaded.cells["ms_per_step"] = loaded.cells["H"].map(MS).fillna(0.5)
    return loaded


def line(axes, label):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def axes_of_a_figure():
    return Figure().subplots()


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_plot_goes_where_it_is_told_and_else_into_a_figure_of_its_own(run):
    calls = [
        lambda ax: figures.plot_ablation(run, ax=ax),
        lambda ax: figures.plot_learning_curves(run, ax=ax),
        lambda ax: figures.plot_model_error(run, ax=ax),
        lambda ax: figures.plot_cost(run, ax=ax),
        lambda ax: figures.plot_profile(run, ax=ax),
        lambda ax: figures.plot_improvement(run, "rebrac", ax=ax),
    ]
    for call in calls:
        axes = axes_of_a_figure()
        assert call(axes) is axes
    assert calls[0](None).figure is not axes.figure


def test_the_score_is_drawn_beside_the_dashed_mean_of_the_base(run):
    axes = figures.plot_ablation(run, "H", y="score", ax=axes_of_a_figure())
    assert line(axes, "rebrac, not adapted")[1] == [30, 30]
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["H (horizon)", "normalized score"]
    (found,) = [one for one in axes.containers if one.get_label() == "mpc"]
    assert list(found.lines[0].get_ydata()) == pytest.approx([30, 30])
    assert line(axes, "_seed 0") == ([1, 3], pytest.approx([20, 50]))


def test_what_cannot_be_drawn_is_said_with_what_can(run):
    with pytest.raises(UserError, match=r"no planner has two values of 'E' with a gain on hopper-mini-v0; .* is H"):
        figures.plot_ablation(run, "E")
    with pytest.raises(UserError, match=r"plot_ablation: no task 'hoper-mini-v0'.*hopper-mini-v0"):
        figures.plot_ablation(run, task="hoper-mini-v0")
    with pytest.raises(UserError, match="no world model on hopper-mini-v0 has an error after 5 steps; there are 1, 7"):
        figures.plot_model_error(run, 5)


def test_a_heat_map_has_the_mean_in_its_place_and_its_interval_written(uri, tmp_path):
    bases = [baseline("heat", "rebrac", s) for s in range(3)]
    gains = {(1, 1): (1.0, 2.0, 3.0), (3, 1): (-4.0, -4.0, -4.0), (3, 2): (5.0, 5.0, 5.0)}
    results, cells = {unit.key: [300.0, 300.0] for unit in bases}, []
    for (h, e), values in gains.items():
        for s, gain in enumerate(values):
            unit = mpc("heat", s, horizon=h)
            planner, key = {**unit.planner, "updates": e}, f"{unit.key}-{e}"
            cells.append(replace(unit, key=key, method=f"{unit.method} {e}", planner=planner))
            results[cells[-1].key] = [300.0 + 10 * gain] * 2
    record_curves(uri, "heat", tmp_path, [], cells=[*bases, *cells], results=results)
    axes = figures.plot_heatmap(analysis.load("heat", tracking_uri=uri), "H", "E", ax=axes_of_a_figure())
    found = axes.images[0].get_array().filled(math.nan).tolist()
    assert found[0] == pytest.approx([2, -4])
    assert math.isnan(found[1][0])
    assert found[1][1] == pytest.approx(5)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "3"]
    half = 4.302653 / math.sqrt(3)  # Student's t of two degrees of freedom, 97.5 %
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[0, 0] == f"+2.0\n[{2 - half:+.1f}, {2 + half:+.1f}]".replace("-", "−")
    assert texts[1, 0].startswith("−4.0")


def test_a_heat_map_of_cells_that_differ_elsewhere_names_the_field(run):
    with pytest.raises(UserError, match="plot_heatmap: M and E on hopper-mini-v0: cells differ in horizon, too"):
        figures.plot_heatmap(run, "M", "E")
    with pytest.raises(UserError, match="plots show gain or score, not 'return'"):
        figures.plot_heatmap(run, "M", "E", value="return")
    with pytest.raises(UserError, match="plots show gain or score, not 'gains'"):
        figures.plot_ablation(run, "M", y="gains")


def test_learning_curves_and_model_errors_have_legends_with_what_is_dashed(run):
    axes = figures.plot_learning_curves(run, ax=axes_of_a_figure())
    assert line(axes, "bc") == ([100], [7])
    assert legend(axes) == ["bc", "mean of the dataset"]
    axes = figures.plot_model_error(run, 7, ax=axes_of_a_figure())
    assert line(axes, "mlp") == ([5, 10], pytest.approx([0.6, 0.3]))
    assert line(axes, "the state does not change")[1] == pytest.approx([0.8, 0.8])
    assert axes.get_title("left") == "hopper-mini-v0, 7 steps"


def test_score_against_time_marks_the_front(run):
    axes = figures.plot_cost(run, cost="ms", ax=axes_of_a_figure())
    assert line(axes, "mpc") == ([2, 8], pytest.approx([30, 30]))
    assert line(axes, "rebrac") == ([0.5], pytest.approx([30]))
    assert line(axes, "Pareto front") == ([0.5], pytest.approx([30]))  # as good as the others, and faster
    assert axes.get_xscale() == "log"


def test_gain_against_evaluations_has_the_base_at_zero_and_every_method_by_its_number(run):
    costs = run.cells["H"].map({1: 40.0, 3: 110.0}).fillna(1.0)
    counted = replace(run, cells=run.cells.assign(evaluations_per_step=costs))
    axes = figures.plot_cost(counted, value="gain", ax=axes_of_a_figure())
    assert line(axes, "mpc") == ([40, 110], pytest.approx([0, 0], abs=1e-9))  # 20, 30, 40 and 50, 10, 30, less 30
    assert line(axes, "rebrac") == ([1], [0])
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["network evaluations per step", "paired gain"]
    numbered = {text.get_text(): text.xy[0] for text in axes.texts}
    assert numbered == {"1": 1, "2": 40, "3": 110}
    assert [entry.split("  ") for entry in legend(axes)][:3] == [
        ["1", "rebrac"],
        ["2", "mpc H=1 M=8 E=1 α=1e-05"],
        ["3", "mpc H=3 M=8 E=1 α=1e-05"],
    ]


def test_costs_that_were_not_counted_and_other_words_are_one_line(run):
    old = replace(run, cells=run.cells.assign(evaluations_per_step=float("nan")))
    with pytest.raises(UserError, match=r"of hopper-mini-v0 were not counted, .* give cost='ms'"):
        figures.plot_cost(old)
    with pytest.raises(UserError, match="no cost='hours'; there are evaluations, ms"):
        figures.plot_cost(run, cost="hours")
    with pytest.raises(UserError, match="no value='return'; there are score, gain"):
        figures.plot_cost(run, value="return")
    bases = replace(run, cells=run.cells[run.cells["kind"] == "none"])
    with pytest.raises(UserError, match="no planner of hopper-mini-v0 has a paired gain: give value='score'"):
        figures.plot_cost(bases, value="gain")


@pytest.mark.parametrize(
    ("ms", "score", "front"),
    [
        ([1, 2, 3], [5, 4, 6], [0, 2]),
        ([3, 1, 2], [6, 5, 4], [1, 0]),
        ([1, 1, 1], [5, 7, 7], [1, 2]),
        ([2, 1], [5, 5], [1]),
    ],
)
def test_the_front_is_what_nothing_beats(ms, score, front):
    assert pareto_front(ms, score) == front


def test_a_profile_is_the_share_of_runs_above_each_threshold(run):
    axes = figures.plot_profile(run, ax=axes_of_a_figure())
    x, y = line(axes, "mpc H=1 M=8 E=1 α=1e-05")
    drawn = pd.Series(y, index=x)
    assert [drawn[drawn.index <= at].iloc[-1] for at in (15, 25, 35, 45)] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert axes.get_ylabel() == "share of runs with score > τ"
    assert len(axes.collections) == 3  # bands of three methods


def test_the_chance_of_a_better_run_is_drawn_for_each_other_method(run):
    axes = figures.plot_improvement(run, "rebrac", ax=axes_of_a_figure())
    assert [text.get_text()[:7] for text in axes.get_yticklabels()] == ["mpc H=3", "mpc H=1"]
    assert list(axes.containers[0].lines[0].get_xdata()) == pytest.approx([0.5, 0.5])  # worse, better, and equal
    assert axes.get_xlabel() == "probability of a better run than rebrac"


def trace(**changes):
    """Steps as `Runs.steps` has them: two seeds of a planner, and a frozen policy."""
    own = {"task": "hopper-mini-v0", "name": "mpc", "reward": 1.0, "fell_back": False}
    columns = ("seed", "step", "imagined_return", "real_return", "action_change")
    steps = [(seed, t, 5.0 + seed, 4 - t, float(seed * (t > 0))) for seed in (0, 1) for t in range(4)]
    rows = [{**own, "method": "mpc", "episode": 0, **dict(zip(columns, step, strict=True))} for step in steps]
    frozen = {**rows[0], "method": "rebrac", "imagined_return": math.nan}
    return pd.DataFrame([*rows, frozen]).assign(**changes)


def traced(run, steps):
    found = replace(run)
    vars(found)["steps"] = steps
    return found


def test_imagined_and_real_returns_are_drawn_along_one_episode(run):
    axes = figures.plot_imagination(traced(run, trace()), seed=1, ax=axes_of_a_figure())
    assert line(axes, "imagined, Ĵ") == ([0, 1, 2, 3], [6] * 4)
    assert line(axes, "real, from this step on") == ([0, 1, 2, 3], [4, 3, 2, 1])
    assert axes.get_title("left") == "hopper-mini-v0\nmpc, seed 1, episode 0"
    axes = figures.plot_imagination(traced(run, trace(fell_back=True)), ax=axes_of_a_figure())
    assert line(axes, "fell back to the frozen policy") == ([0, 1, 2, 3], [4, 3, 2, 1])


def test_the_change_of_the_action_is_averaged_over_the_episodes_of_all_seeds(run):
    axes = figures.plot_adaptation(traced(run, trace()), "mpc", ax=axes_of_a_figure())
    assert line(axes, "mean of 2 episodes, over 1 steps") == ([0, 1, 2, 3], [0, 0.5, 0.5, 0.5])
    assert line(axes, "_seed 1, episode 0") == ([0, 1, 2, 3], [0, 1, 1, 1])
    (right,) = [other for other in axes.figure.axes if other is not axes]
    assert line(right, "share of steps adapted") == ([0, 1, 2, 3], [0, 0.5, 0.5, 0.5])


def test_what_is_not_traced_is_said(run):
    with pytest.raises(UserError, match=r"no complete cell has any; give `evaluation: \{traced_episodes: 1\}`"):
        figures.plot_adaptation(run)
    with pytest.raises(UserError, match="'rebrac' is not traced on hopper-mini-v0; traced are mpc"):
        figures.plot_adaptation(traced(run, trace()), "rebrac")
    with pytest.raises(UserError, match="seed 0, episode 3 is not traced; there are seeds 0, 1 and episodes 0 to 0"):
        figures.plot_imagination(traced(run, trace()), episode=3)


def test_a_task_has_to_be_named_where_there_are_several(uri, tmp_path):
    units = [baseline("two", "rebrac", 0, task(name)) for name in ("first", "second")]
    record_curves(uri, "two", tmp_path, [], cells=units, results={unit.key: [1.0, 2.0] for unit in units})
    loaded = analysis.load("two", tracking_uri=uri)
    with pytest.raises(UserError, match="plot_cost: several tasks: give task=; there are first, second"):
        figures.plot_cost(loaded)
    assert figures.plot_cost(loaded, task="second", ax=axes_of_a_figure()).get_title("left") == "second"
