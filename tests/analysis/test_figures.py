import math
import types
from dataclasses import replace

import numpy as np
import pytest

from analysis.figures.drawing import Scale, label_columns, looks, rendered
from analysis.figures.families import SHORT
from analysis.figures.sweep import models_figure, sweep_figures
from analysis.models.report import build_models
from analysis.table.comparison import build_table
from cluster.store import open_store
from mpcwdwm.errors import UserError
from mpcwdwm.planning.registry import PLANNERS
from sweeps import result_commands
from sweeps.reports import write_files
from tests.support.recorded_curves import curve_of, errors, record_curves, trained
from tests.support.recorded_sweeps import baseline, mpc, task

GAINS = {1: ([100.0], [0.0, 0.0, 0.0], [200.0, 200.0]), 3: ([-50.0], [0.0, 0.0, 30.0], [100.0, -100.0])}
BASE = ([500.0], [100.0, 200.0, 300.0], [400.0, 600.0])  # returns by seed; ten are a point of score


@pytest.fixture(scope="session")
def store(new_records, tmp_path_factory):
    return new_records(tmp_path_factory.mktemp("figures"))


def planner(sweep, seed, of=None, name="mpc", **fields):
    """A cell whose planner has these fields; keys and labels tell it from the others."""
    unit = mpc(sweep, seed, of or task())
    text = " ".join(f"{field}={value}" for field, value in fields.items())
    config = {**unit.planner, **fields}
    return replace(unit, key=f"{unit.key} {name} {text}", name=name, method=f"{name} {text}", planner=config)


def record_cells(store, sweep, folder, returns, of=None, curves=()):
    """Record cells with these returns, and the base they are paired with, of three seeds."""
    bases = [baseline(sweep, "rebrac", s, of or task()) for s in range(3)]
    results = {unit.key: list(BASE[unit.seed]) for unit in bases}
    results |= {unit.key: values for unit, values in returns}
    record_curves(store, sweep, folder, curves, cells=[*bases, *(unit for unit, _ in returns)], results=results)


def gained(seed, gains):
    """The returns of a cell that gains so much, in returns, over the base's episodes."""
    return [base + gain for base, gain in zip(BASE[seed], gains, strict=True)]


def cells_of(sweep, settings):
    """Three seeds of every planner, with their returns; ``settings`` maps a gain in points to the planner's fields."""
    return [
        (planner(sweep, seed, **fields), gained(seed, [10.0 * gain] * len(BASE[seed])))
        for gain, fields in settings.items()
        for seed in range(3)
    ]


def line(axes, label):
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def points(axes, label):
    """The points of a family, and the ends of their bars: x, mean, low, high."""
    (found,) = [one for one in axes.containers if one.get_label() == label]
    segments = [segment for segment in found.lines[2][0].get_segments() if len(segment)]
    ends = np.array([segment[:, 1] for segment in segments]).reshape(-1, 2)
    return found.lines[0].get_xdata(), found.lines[0].get_ydata(), *ends.T


def titled(figure):
    return [(axes.get_title("left"), axes.get_xlabel()) for axes in figure.axes]


@pytest.fixture(scope="session")
def horizons(store, tmp_path_factory):
    """The gain at two horizons, of seeds with one, three and two episodes."""
    cells = [(planner("horizons", s, horizon=h), gained(s, GAINS[h][s])) for h in (3, 1) for s in range(3)]
    record_cells(store, "horizons", tmp_path_factory.mktemp("horizons"), cells)
    return sweep_figures(store, "horizons")


def test_the_gain_is_drawn_as_the_mean_over_seeds_of_per_seed_means(horizons, store):
    (axes,) = horizons[0]["ablation"].axes
    x, mean, low, high = points(axes, "mpc")
    assert list(x) == [1, 3]  # rising, although the plan has them the other way round
    assert list(mean) == pytest.approx([(10 + 0 + 20) / 3, (-5 + 1 + 0) / 3])  # pooled: 8.3 and −0.3
    rows = {row.horizon: row for row in build_table(store, "horizons").rows if row.horizon}
    for i, horizon in enumerate((1, 3)):  # the table's interval over new training seeds
        assert (low[i], high[i]) == pytest.approx((rows[horizon].gain_seed_low, rows[horizon].gain_seed_high))
    assert axes.get_ylabel() == "gain over rebrac, normalized score"
    assert titled(horizons[0]["ablation"]) == [("hopper-mini-v0", "H (horizon)")]


def test_every_training_seed_has_a_thin_line_and_zero_has_one(horizons):
    (axes,) = horizons[0]["ablation"].axes
    assert list(line(axes, "_zero")[1]) == [0, 0]
    for seed, gains in enumerate(([10, -5], [0, 1], [20, 0])):
        x, y = line(axes, f"_seed {seed}")
        assert (list(x), list(y)) == ([1, 3], pytest.approx(gains))


def test_what_is_not_drawn_is_noted(horizons):
    figures, notes = horizons
    assert list(figures) == ["ablation", "cost"]
    assert [note for note in notes if note.startswith("no policies figure: no policy has a learning curve")]


def test_cost_is_drawn_in_evaluations_and_in_time_with_one_legend(horizons):
    figure = horizons[0]["cost"]
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["network evaluations per step", "milliseconds to act, per step of an episode"]
    (legend,) = figure.legends
    entries = [text.get_text() for text in legend.get_texts()]
    assert [entry.split("  ")[0] for entry in entries] == [*map(str, range(1, len(entries))), "Pareto front"]
    assert len(figure.axes[0].texts) == len(entries) - 1


def test_cells_that_differ_elsewhere_are_families_of_their_own(store, tmp_path):
    gains = {(1, 1e-6): 1.0, (3, 1e-6): 2.0, (1, 1e-5): -3.0, (3, 1e-5): -4.0, (3, 1e-4): -9.0}
    settings = {gain: {"horizon": h, "step_size": a} for (h, a), gain in gains.items()}
    record_cells(store, "grid", tmp_path, cells_of("grid", settings))
    by_horizon, by_size = sweep_figures(store, "grid")[0]["ablation"].axes
    assert [axes.get_xlabel() for axes in (by_horizon, by_size)] == ["H (horizon)", "step size"]
    assert list(points(by_horizon, "step_size=1e-06")[1]) == pytest.approx([1, 2])
    assert list(points(by_horizon, "step_size=1e-05")[1]) == pytest.approx([-3, -4])
    assert [text.get_text() for text in by_horizon.get_legend().get_texts()] == ["step_size=1e-06", "step_size=1e-05"]
    x, y = points(by_size, "H=3")[:2]
    assert list(y) == pytest.approx([2, -4, -9])
    assert np.log10(np.array(x, dtype=float)) == pytest.approx(
        [-6, -5, -4], abs=0.1
    )  # beside the other family, not on it
    assert len(points(by_size, "H=1")[0]) == 2
    assert (by_size.get_xscale(), by_horizon.get_xscale()) == ("log", "linear")


def test_any_numeric_field_is_a_panel_and_what_is_unset_stands_apart(store, tmp_path):
    settings = {gain: {"trust_region": v, "critic": "min"} for v, gain in ((None, -6), (0.1, 1), (0.3, 2))}
    settings[4] = {"trust_region": 0.1, "critic": "mean"}
    record_cells(store, "any", tmp_path, cells_of("any", settings))
    (axes,) = sweep_figures(store, "any")[0]["ablation"].axes  # critic is no number
    assert axes.get_xlabel() == "trust region"
    x, y = points(axes, "mpc")[:2]
    assert (list(x), list(y)) == ([0.1, 0.3], pytest.approx([1, 2]))
    x, y = points(axes, "_mpc")[:2]
    assert x[0] < 0.1
    assert list(y) == pytest.approx([-6])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["unset", "0.1", "0.3"]


def test_a_word_such_as_auto_is_drawn_left_of_the_numbers(store, tmp_path):
    settings = {gain: {"step_size": size} for size, gain in ((1e-6, 1.0), (1e-5, -2.0), ("auto", 3.0))}
    record_cells(store, "auto", tmp_path, cells_of("auto", settings))
    (axes,) = sweep_figures(store, "auto")[0]["ablation"].axes
    assert list(points(axes, "mpc")[1]) == pytest.approx([1, -2])
    x, y = points(axes, "_mpc")[:2]
    assert (x[0] < 1e-6, list(y)) == (True, pytest.approx([3]))
    assert [text.get_text() for text in axes.get_xticklabels()] == ["auto", "1e-06", "1e-05"]


def test_a_cell_that_lacks_a_seed_is_hollow(store, tmp_path):
    cells = cells_of("hollow", {1: {"horizon": 1}, 2: {"horizon": 3}})[:-1]
    record_cells(store, "hollow", tmp_path, cells)
    (axes,) = sweep_figures(store, "hollow")[0]["ablation"].axes
    assert [list(values) for values in line(axes, "_lacking mpc")] == [[3], pytest.approx([2])]


def test_planners_share_a_panel_under_their_names(store, tmp_path):
    one = {h: {"name": "one", "horizon": h, "anchor": 1.0} for h in (1, 3)}
    other = {-h: {"name": "other", "horizon": h, "samples": 9} for h in (1, 3)}  # another kind has other fields
    record_cells(store, "two", tmp_path, cells_of("two", {**one, **other}))
    (axes,) = sweep_figures(store, "two")[0]["ablation"].axes
    assert list(points(axes, "one")[1]) == pytest.approx([1, 3])
    assert list(points(axes, "other")[1]) == pytest.approx([-1, -3])


def test_every_task_is_a_row_and_a_field_that_does_not_vary_there_leaves_a_gap(store, tmp_path):
    one, two = task("first"), task("second")
    bases = [baseline("rows", "rebrac", s, of) for of in (one, two) for s in range(3)]
    cells = [planner("rows", s, of, horizon=h) for of in (one, two) for h in (1, 3) for s in range(3)]
    cells += [planner("rows", s, two, horizon=1, updates=4) for s in range(3)]
    results = {unit.key: list(BASE[unit.seed]) for unit in [*bases, *cells]}
    record_curves(store, "rows", tmp_path, [], cells=[*bases, *cells], results=results)
    figure = sweep_figures(store, "rows")[0]["ablation"]
    assert titled(figure) == [("first", "H (horizon)"), ("second", "H (horizon)"), ("second", "E (updates)")]


def test_two_seeds_have_no_bars_and_cells_to_choose_from_or_without_a_base_are_not_drawn(store, tmp_path):
    bases = [baseline("few", "rebrac", s) for s in (0, 1)]
    cells = [planner("few", s, horizon=h) for h in (1, 3) for s in (0, 1)]
    others = [replace(planner("few", s, horizon=9), role="select") for s in (0, 1)]
    others += [planner("few", s, horizon=7, base="iql") for s in (0, 1)]
    others = [replace(unit, base="iql") if unit.planner["base"] == "iql" else unit for unit in others]
    results = {unit.key: list(BASE[unit.seed]) for unit in [*bases, *cells, *others]}
    record_curves(store, "few", tmp_path, [], cells=[*bases, *cells, *others], results=results)
    (axes,) = sweep_figures(store, "few")[0]["ablation"].axes
    x, y, low, _ = points(axes, "mpc")
    assert (list(x), list(y), list(low)) == ([1, 3], [0, 0], [])


# ---- policies and models ------------------------------------------------------------------------


def scores(*values, metric="eval/normalized_score"):
    return [{"step": 100.0 * (i + 1), metric: value} for i, value in enumerate(values)]


@pytest.fixture(scope="session")
def policies(store, tmp_path_factory):
    """Learning curves of three policies on one task, one of which has a score without a unit of its own."""
    raw = task("raw", reference=None)
    curves = [
        *((trained("policies", "rebrac", s, lr=1), scores(1 + s, 1 + 10 * s)) for s in range(3)),
        *((trained("policies", "rebrac", s, lr=2), scores(2 + s, 2 + 10 * s)) for s in range(3)),
        (trained("policies", "bc", 0), scores(4.0)),
        (trained("policies", "iql", 0, raw), scores(300.0, 500.0, metric="eval/return")),
        (trained("policies", "reward", 0), errors(0.1)),
    ]
    cells = [baseline("policies", "bc", 0), baseline("policies", "bc", 0, raw)]
    results = {unit.key: [1.0, 2.0] for unit in cells}
    record_curves(store, "policies", tmp_path_factory.mktemp("policies"), curves, cells=cells, results=results)
    return sweep_figures(store, "policies")[0]["policies"]


def test_a_policys_line_is_the_mean_over_seeds_and_its_band_their_range(policies):
    axes = policies.axes[0]
    assert [one.get_label() for one in axes.lines] == [
        "rebrac lr=1",
        "rebrac lr=2",
        "bc",
        "mean of the dataset",
    ]
    x, y = line(axes, "rebrac lr=2")
    assert (list(x), list(y)) == ([100, 200], pytest.approx([3, 12]))
    corners = axes.collections[1].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} >= {(100, 2), (100, 4), (200, 2), (200, 22)}
    assert list(line(axes, "bc")[1]) == [4]
    assert len(axes.collections) == 2  # one seed has no range
    assert axes.get_ylabel() == "normalized score"


def test_the_datasets_mean_is_a_level_in_the_tasks_unit(policies):
    normalized, raw = policies.axes
    assert list(line(normalized, "mean of the dataset")[1]) == [25, 25]
    assert list(line(raw, "mean of the dataset")[1]) == [250, 250]
    assert list(line(raw, "iql")[1]) == [300, 500]
    assert raw.get_ylabel() == "return"


def test_a_curve_ends_where_a_seed_is_no_longer_finite(store, tmp_path):
    curves = [(trained("ends", "bc", 0), scores(1, 2, math.nan)), (trained("ends", "bc", 1), scores(3, 4, 5))]
    record_curves(store, "ends", tmp_path, curves)
    (axes,) = sweep_figures(store, "ends")[0]["policies"].axes
    assert [list(values) for values in line(axes, "bc")] == [[100, 200], [2, 3]]


def test_errors_of_world_models_are_drawn_over_updates_on_a_logarithmic_axis(store, tmp_path):
    curves = [
        *((trained("errors", "world_model", s, kind="mlp"), errors(0.1 * (s + 1), 0.3, 0.4 + s)) for s in range(2)),
        (trained("errors", "world_model", 0, kind="flow"), errors(0.5, 0.7, 0.4)),
    ]
    record_curves(store, "errors", tmp_path, curves)
    one, open_loop = models_figure(build_models(store, "errors")).axes
    assert [axes.get_title("left") for axes in (one, open_loop)] == [
        "hopper-mini-v0, one step",
        "hopper-mini-v0, 7 steps",
    ]
    x, y = line(one, "mlp")
    assert (list(x), list(y)) == ([5, 10], pytest.approx([0.3, 0.15]))
    assert list(line(open_loop, "flow")[1]) == pytest.approx([1.4, 0.7])
    assert list(line(one, "the state does not change")[1]) == pytest.approx([0.9, 0.9])  # seeds 0 and 1, each once
    assert list(line(open_loop, "the state does not change")[1]) == pytest.approx([1.8, 1.8])
    corners = one.collections[0].get_paths()[0].vertices
    assert [corners[:, 1].min(), corners[:, 1].max()] == pytest.approx([0.1, 0.4])
    assert {axes.get_yscale() for axes in (one, open_loop)} == {"log"}
    low, high = one.get_ylim()
    assert open_loop.get_ylim() == (low, high)  # both show all of both: 0.1 to 1.8
    assert (low < 0.1, high > 1.8) == (True, True)


def test_without_errors_there_is_no_figure_of_models(store, tmp_path):
    unit = trained("unjudged", "world_model", 0, kind="mlp")
    record_curves(store, "unjudged", tmp_path, [(unit, curve_of(loss=1.0))])
    assert models_figure(build_models(store, "unjudged")) is None


# ---- the command, and what is shared ------------------------------------------------------------


def test_a_sweep_with_nothing_to_draw_says_so_in_a_line(store, tmp_path):
    record_curves(store, "empty", tmp_path, [(trained("empty", "reward", 0), curve_of(loss=1.0))])
    with pytest.raises(UserError, match="sweep empty: there is nothing to draw: no planner field has two") as raised:
        sweep_figures(store, "empty")
    assert "\n" not in str(raised.value)


def test_the_command_writes_png_and_svg_and_prints_where(horizons, store, tmp_path, capsys):
    spec = tmp_path / "horizons.yaml"
    head = "name: horizons\ntasks: [hopper-medium-replay-mini-ppo-v0]\nseeds: 3\nbaselines: [bc]\nstorage: runs\n"
    spec.write_text(f'{head}tracking: {{uri: "{store}"}}\n')
    result_commands.figures(str(spec))
    out, err = capsys.readouterr()
    written = [tmp_path / f"runs/sweeps/horizons/{name}.{kind}" for name in horizons[0] for kind in ("png", "svg")]
    assert out.splitlines() == [str(path) for path in written]
    assert err.startswith("note: no policies figure")
    drawn = {file: content for name, figure in horizons[0].items() for file, content in rendered(name, figure).items()}
    assert {path.name: path.read_bytes() for path in written} == drawn


def test_files_are_the_same_every_time_and_have_no_date(horizons, store):
    again = rendered("ablation", sweep_figures(store, "horizons")[0]["ablation"])
    assert again == rendered("ablation", horizons[0]["ablation"])
    assert again["ablation.png"].startswith(b"\x89PNG")
    assert b"<svg" in again["ablation.svg"]
    assert b"<dc:date>" not in again["ablation.svg"]


def test_files_reach_a_store_behind_a_url_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = types.SimpleNamespace(storage=f"memory://figures-{tmp_path.name}", record="far")
    write_files(spec, {"a.png": b"\x89PNG", "a.md": "words"})
    write_files(spec, {"a.png": b"\x89PNG again"})
    import fsspec

    files, root = fsspec.core.url_to_fs(spec.storage)
    assert files.cat_file(f"{root}/sweeps/far/a.png") == b"\x89PNG again"
    assert open_store(spec.storage).read_text("sweeps/far/a.md") == "words"


def test_zero_and_unset_stand_left_of_a_logarithmic_axis():
    scale = Scale.of("anchor", [10.0, None, 0.1, 0.0, 1.0])
    assert (scale.log, scale.values, scale.left) == (True, (0.1, 1.0, 10.0), (None, 0.0))
    places = [scale.place(value) for value in (None, 0.0, 0.1, 1.0, 10.0)]
    assert places == sorted(places)
    assert places[2:] == [0.1, 1.0, 10.0]
    assert places[0] > 0
    assert Scale.of("horizon", [0, 1, 5]).values == (0, 1, 5)  # a narrow range stays linear, zero is on it
    assert Scale.of("step_size", [1e-5, 2e-5]).log
    assert not Scale.of("odd", [-1.0, 100.0]).log


def test_looks_stay_apart_beyond_the_palette_and_legends_fit():
    many = looks(str(i) for i in range(20))
    assert len(set(many.values())) == 20
    assert label_columns(["long label number one"] * 5, 4.0) == 1
    assert label_columns(["a"] * 4, 7.0) == 4
    assert label_columns(["a"] * 5, 2.6) == 3  # two rows of about the same length


def test_short_names_are_those_of_the_planners_configs():
    fields = [field for kind in PLANNERS for field in PLANNERS[kind].config_class.model_fields.items()]
    assert {name: field.alias for name, field in fields if field.alias} == SHORT


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 2, 4], [1, 2, 4]),
        ([1e-6, 1e-5, 0.03, 0.05, 0.1, 0.2, 0.4], [1e-6, 1e-5, 0.03, 0.4]),
        ([0.3], [0.3]),
        ([1.0, 2.0, 2.1, 3.0, 3.05], [1.0, 2.0, 3.05]),
    ],
)
def test_ticks_that_would_touch_are_left_out_but_for_the_ends(values, ticks):
    assert Scale.of("step_size" if values[0] < 0.1 else "horizon", values).ticked() == ticks
