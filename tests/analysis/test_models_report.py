import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis.mlflow_store import EXPERIMENT, KEY_TAG, KIND_TAG
from analysis.models.report import build_models
from mpcwdwm.errors import UserError
from sweeps import result_commands
from tests.support.recorded_curves import curve_of, errors, record_curves, trained
from tests.support.recorded_sweeps import baseline, task

MLP = [0.1, 0.2, 0.4]  # one-step error by seed; after seven steps twice as much
DIFFUSION = [0.2, 0.8, 0.8]
STILL = [0.4, 0.5, 0.9]


@pytest.fixture(scope="session")
def store(new_records, tmp_path_factory):
    return new_records(tmp_path_factory.mktemp("models"))


def world(sweep, kind, seed, **config):
    return trained(sweep, "world_model", seed, kind=kind, **config)


def row_of(report, model, of=None):
    (row,) = [r for r in report.rows if r.model == model and (of is None or r.task == of)]
    return row


@pytest.fixture(scope="session")
def known(store, tmp_path_factory):
    """Three seeds of an MLP and of diffusion with K = 5; of K = 10 the third seed is still being trained."""
    curves = [
        *((world("known", "mlp", s), errors(MLP[s], 2 * MLP[s], STILL[s])) for s in range(3)),
        *(
            (world("known", "diffusion", s, denoising_steps=5), errors(DIFFUSION[s], 3 * DIFFUSION[s], STILL[s]))
            for s in range(3)
        ),
        *(
            (world("known", "diffusion", s, denoising_steps=10), errors(3 * MLP[s], 3 * MLP[s], STILL[s]))
            for s in range(2)
        ),
        *(
            (trained("known", "reward", s), curve_of(heldout__rmse=0.1 * (s + 1), heldout__r2=0.9 - 0.1 * s))
            for s in range(3)
        ),
    ]
    begun = world("known", "diffusion", 2, denoising_steps=10)
    paces = {unit.key: 100.0 * (unit.seed + 1) for unit, _ in curves}
    tracker = record_curves(store, "known", tmp_path_factory.mktemp("known"), curves, planned=[begun], paces=paces)
    experiment = tracker._client.get_experiment_by_name(EXPERIMENT).experiment_id
    tracker._client.create_run(experiment, tags={KIND_TAG: "component", KEY_TAG: begun.key})  # RUNNING
    return build_models(store, "known")


def t_interval(values):
    return stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))


def test_errors_are_the_last_points_means_over_seeds_with_the_interval_over_new_seeds(known):
    row = row_of(known, "diffusion K=5")
    assert row.rmse.mean == pytest.approx((0.2 + 0.8 + 0.8) / 3)
    assert (row.rmse.low, row.rmse.high) == pytest.approx(t_interval(DIFFUSION))
    assert row.rmse_steps.mean == pytest.approx(3 * 1.8 / 3)
    assert (row.rmse_steps.low, row.rmse_steps.high) == pytest.approx(t_interval([3 * v for v in DIFFUSION]))
    assert (row.n_seeds, row.updates_per_second) == (3, pytest.approx(200.0))


def test_the_number_of_steps_is_what_the_metrics_name_says(known):
    assert row_of(known, "mlp").steps == 7
    assert "7 steps" in known.to_text()


def test_ratios_pair_the_seeds_and_are_geometric_means(known):
    row = row_of(known, "diffusion K=5")  # 2, 4 and 2 times the MLP's; neither 1.8 / 0.7 nor their mean 2.67
    assert row.rmse_ratio.mean == pytest.approx(16 ** (1 / 3))
    ends = t_interval(np.log([2, 4, 2]))
    assert (row.rmse_ratio.low, row.rmse_ratio.high) == pytest.approx(tuple(np.exp(ends)))
    assert row.rmse_steps_ratio.mean == pytest.approx(1.5 * 16 ** (1 / 3))
    assert row.ratio_to == "mlp"
    assert row_of(known, "mlp").rmse_ratio is None


def test_an_unfinished_component_is_named_and_the_others_seeds_are_paired_with_their_own(known):
    row = row_of(known, "diffusion K=10")
    assert (row.n_seeds, row.rmse.mean, row.rmse.low) == (2, pytest.approx(0.45), None)
    assert row.rmse_ratio.mean == pytest.approx(3.0)  # 0.45 / 0.2333 with the MLP's third seed
    (note,) = [note for note in known.notes if "no result yet" in note]
    assert world("known", "diffusion", 2, denoising_steps=10).key in note


def test_what_does_not_change_weighs_every_seed_once_however_many_models_say_it(known):
    row = row_of(known, "the state does not change")
    assert row.rmse.mean == pytest.approx(0.6)  # pooled over the eight models it would be 0.5625
    assert (row.rmse.low, row.rmse.high) == pytest.approx(t_interval(STILL))
    assert row.rmse_steps.mean == pytest.approx(1.2)
    assert (row.steps, row.n_seeds, row.rmse_ratio) == (7, 3, None)


def test_reward_models_have_their_error_and_the_variance_explained(known):
    row = row_of(known, "reward")
    assert (row.rmse.mean, row.r2.mean) == (pytest.approx(0.2), pytest.approx(0.8))
    assert (row.r2.low, row.r2.high) == pytest.approx(t_interval([0.9, 0.8, 0.7]))
    assert (row.rmse_steps, row.rmse_ratio) == (None, None)


def test_text_markdown_and_csv_show_the_rows_in_the_order_of_the_plan(known):
    names = ["mlp", "diffusion K=5", "diffusion K=10", "the state does not change", "reward"]
    assert [row.model for row in known.rows] == names
    text, page = known.to_text(130), known.to_markdown()
    for shown in (text, page):
        for name in (*names, "hopper-mini-v0", "0.600 ± 0.861", "2.52 [0.93, 6.81]", "0.800 ± 0.248"):
            assert name in shown
        assert "K=10 " in shown
        assert "no result yet" in shown
    assert max(map(len, text.splitlines())) <= 130
    rows = list(csv.DictReader(io.StringIO(known.to_csv())))
    assert [row["model"] for row in rows] == names
    assert rows[1]["rmse_ratio"] == "2.51984"
    assert (rows[2]["rmse"], rows[2]["rmse_low"], rows[2]["n_seeds"]) == ("0.45", "", "2")


def test_without_an_mlp_there_are_no_ratios(store, tmp_path):
    curves = [(world("alone", kind, 0), errors(0.2, 0.3, 0.4)) for kind in ("flow", "meanflow")]
    record_curves(store, "alone", tmp_path, curves)
    report = build_models(store, "alone")
    assert {row.ratio_to for row in report.rows} == {None}
    assert "÷" not in report.to_text().split("·")[0]


def test_the_first_of_several_mlps_is_compared_with_and_named(store, tmp_path):
    sizes = {1: 0.1, 5: 0.3}
    curves = [(world("mlps", "flow", 0), errors(0.2))]
    curves += [(world("mlps", "mlp", 0, ensemble=n), errors(error)) for n, error in sizes.items()]
    record_curves(store, "mlps", tmp_path, curves)
    report = build_models(store, "mlps")
    assert row_of(report, "mlp ensemble=5").rmse_ratio.mean == pytest.approx(3.0)
    assert row_of(report, "flow").rmse_ratio.mean == pytest.approx(2.0)
    assert "÷ mlp ensemble=1" in report.to_markdown()


def test_models_trained_with_different_policies_are_told_apart_by_what_differs_in_those(store, tmp_path):
    curves = []
    for coef, error in ((0.1, 0.2), (0.4, 0.6)):
        policy = trained("tilted", "rebrac", 0, actor_bc_coef=coef, lr=1e-3)
        curves += [(policy, [])]
        curves += [(trained("tilted", "world_model", 0, parts={"rebrac": policy.key}, kind="meanflow"), errors(error))]
    record_curves(store, "tilted", tmp_path, curves)
    report = build_models(store, "tilted")
    assert row_of(report, "meanflow rebrac.actor_bc_coef=0.1").rmse.mean == pytest.approx(0.2)
    assert row_of(report, "meanflow rebrac.actor_bc_coef=0.4").rmse.mean == pytest.approx(0.6)


def test_models_that_no_recorded_field_tells_apart_do_not_hide_one_another(store, tmp_path):
    unit = world("twins", "flow", 0)
    curves = [(unit, errors(0.2)), (replace(unit, key=f"{unit.key}-other"), errors(0.6))]
    record_curves(store, "twins", tmp_path, curves)
    report = build_models(store, "twins")
    assert row_of(report, "flow").rmse.mean == pytest.approx(0.2)
    assert row_of(report, "flow (2)").rmse.mean == pytest.approx(0.6)


def test_every_task_has_its_own_rows_and_steps(store, tmp_path):
    one, two = task("first"), task("second")
    curves = [
        (trained("tasks", "world_model", 0, one, kind="flow", denoising_steps=5), errors(0.2, 0.3, 0.5, steps=5)),
        (trained("tasks", "world_model", 0, two, kind="flow", denoising_steps=9), errors(0.4, 0.6, 0.7, steps=3)),
    ]
    record_curves(store, "tasks", tmp_path, curves)
    report = build_models(store, "tasks")
    assert [(r.task, r.model, r.steps) for r in report.rows] == [
        ("first", "flow", 5),
        ("first", "the state does not change", 5),
        ("second", "flow", 3),
        ("second", "the state does not change", 3),
    ]
    assert row_of(report, "the state does not change", "second").rmse_steps.mean == pytest.approx(1.4)


def test_an_error_that_is_not_finite_is_no_number_and_has_a_note(store, tmp_path):
    curves = [(world("nan", "flow", s), errors(error, error, 1.0)) for s, error in enumerate((0.2, math.nan, 0.4))]
    record_curves(store, "nan", tmp_path, curves)
    report = build_models(store, "nan")
    assert row_of(report, "flow").rmse.mean == pytest.approx(0.3)
    assert any("flow, seed 1: no finite error" in note for note in report.notes)


def test_without_held_out_episodes_there_is_a_dash_and_a_note(store, tmp_path):
    record_curves(store, "all", tmp_path, [(world("all", "flow", 0), curve_of(loss=1.0))])
    report = build_models(store, "all")
    assert (row_of(report, "flow").rmse, row_of(report, "flow").steps) == (None, None)
    assert any("no held-out episodes" in note for note in report.notes)
    assert "–" in report.to_text()


def test_seeds_rolled_over_different_numbers_of_steps_have_no_common_mean(store, tmp_path):
    curves = [(world("mixed", "flow", s), errors(0.2, 0.3, 0.5, steps=5 + s)) for s in (0, 1)]
    record_curves(store, "mixed", tmp_path, curves)
    report = build_models(store, "mixed")
    assert row_of(report, "flow").rmse_steps is None
    assert any("different numbers of steps" in note for note in report.notes)


def test_a_sweep_without_models_and_one_without_finished_ones_say_so_in_a_line(store, tmp_path):
    record_curves(store, "none", tmp_path, [(trained("none", "rebrac", 0), [])], cells=[baseline("none", "rebrac", 0)])
    with pytest.raises(
        UserError, match=r"sweep none has no world model .*: it trains none; add a planner that imagines"
    ):
        build_models(store, "none")
    failing = world("early", "flow", 0)
    record_curves(store, "early", tmp_path, [], planned=[failing], failed={failing.key: "out of memory"})
    with pytest.raises(UserError, match=rf"can be shown yet \({failing.key}: failed: out of memory\)") as raised:
        build_models(store, "early")
    assert "\n" not in str(raised.value)


def test_a_broken_curve_is_a_note_with_the_key_of_its_component(store, tmp_path):
    broken, whole = world("broken", "flow", 0), world("broken", "flow", 1)
    record_curves(store, "broken", tmp_path, [(broken, "not a curve"), (whole, errors(0.2))])
    report = build_models(store, "broken")
    assert row_of(report, "flow").n_seeds == 1
    assert f"{broken.key}: its learning curve cannot be read; delete its run in MLflow" in report.notes[0]


def test_the_command_prints_the_tables_and_writes_them_and_the_figure(known, store, tmp_path, capsys):
    spec = tmp_path / "known.yaml"
    spec.write_text(
        f"name: known\ntasks: [hopper-medium-replay-mini-ppo-v0]\nbaselines: [bc]\nseeds: 3\nstorage: runs\n"
        f'tracking: {{uri: "{store}"}}\n'
    )
    result_commands.models(str(spec))
    out, err = capsys.readouterr()
    assert out.startswith("hopper-mini-v0")
    written = [tmp_path / f"runs/sweeps/known/models.{kind}" for kind in ("md", "csv", "png", "svg")]
    assert err.splitlines() == [str(path) for path in written]
    assert written[0].read_text() == known.to_markdown()
    assert written[1].read_text() == known.to_csv()
    assert written[2].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in written[3].read_bytes()
