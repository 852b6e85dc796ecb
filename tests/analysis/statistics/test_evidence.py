import numpy as np
import pytest
from scipy import stats

from analysis.statistics import Evidence, Spread, UnpairedError, holm, paired_differences, seed_interval
from analysis.table.published_scores import published_average, published_scores

RNG = np.random.default_rng(7)
GROUPS = [RNG.normal(50, 10, 12), RNG.normal(70, 3, 12), RNG.normal(40, 20, 5)]


def episode_interval(seeds):
    """The interval for these policies of one task, from the episodes of each seed."""
    return Evidence((dict(enumerate(seeds)),)).for_these_policies()


def test_the_interval_for_these_policies_is_students_t_on_the_means_per_starting_state():
    table = np.stack([RNG.normal(50, 10, 12), RNG.normal(70, 3, 12)])
    theirs = stats.ttest_1samp(table.mean(0), 0).confidence_interval(0.9)
    evidence = Evidence(({0: table[0], 1: table[1]},))
    assert evidence.for_these_policies(level=0.9) == pytest.approx((theirs.low, theirs.high))


def test_without_starting_states_in_common_every_seed_has_its_own_variance():
    groups = [RNG.normal(level, 10, count) for level, count in ((50, 12), (70, 12), (40, 5))]
    theirs = [stats.ttest_1samp(group, 0).confidence_interval(0.95) for group in groups]
    half = np.sqrt(sum(((each.high - each.low) / 2) ** 2 for each in theirs)) / 3
    assert episode_interval(groups).half_width == pytest.approx(half)


def test_the_interval_for_new_seeds_adds_what_shared_starting_states_explain():
    table = np.add.outer([0.0, 4.0, 8.0], [0.0, 10.0, 20.0, 30.0]) + 0.1 * RNG.normal(size=(3, 4))
    seeds = stats.t.ppf(0.975, 2) ** 2 * table.mean(1).var(ddof=1) / 3
    groups = [table[:, j] - table.mean(1) + table.mean() for j in range(4)]  # one way, with the seeds' effects removed
    within = sum(np.square(group - group.mean()).sum() for group in groups) / 6
    between = (3 * np.var([group.mean() for group in groups], ddof=1) - within) / 12
    expected = np.sqrt(seeds + stats.t.ppf(0.975, 3) ** 2 * between)
    assert Evidence((dict(enumerate(table)),)).for_new_seeds().half_width == pytest.approx(expected)
    apart = table + np.array([[0.0], [40.0], [80.0]])
    alone = Evidence((dict(enumerate(apart)),), starts_shared=False).for_new_seeds()
    assert alone == pytest.approx(seed_interval(apart.mean(1)))


@pytest.mark.parametrize(("of", "reach"), [("scores", 0.0), ("differences", 100.0)])
def test_the_interval_for_new_seeds_is_never_narrower_than_over_episodes(of, reach):
    """Three seeds of ten episodes, of which each has two more successes by chance."""
    gains = np.repeat([100.0, -100.0, 0.0], [3, 1, 6])
    table = np.stack([np.roll(gains, 3 * seed) for seed in range(3)])  # seed means 20, 20, 20
    evidence = Evidence((dict(enumerate(table)),), of)
    over_starts = stats.t.ppf(0.975, 9) ** 2 * table.mean(0).var(ddof=1) / 10
    rare = stats.norm.ppf(0.975) ** 2 * 2 * (reach / 32) ** 2  # of two more episodes, of 30
    assert evidence.for_new_seeds().half_width == pytest.approx(np.sqrt(over_starts + rare), rel=1e-6)


def test_a_rare_event_counts_as_two_more_episodes():
    scores = np.repeat([100.0, 101.0], [15, 15])
    scores[3] = 40.0
    plain, event = np.repeat([100.0, 101.0], [15, 15]), 60.5
    added = stats.norm.ppf(0.975) ** 2 * 2 * (event / 32) ** 2  # 30 episodes and two more, 60.5 from the median
    expected = np.sqrt((stats.t.ppf(0.975, 29) * scores.std(ddof=1)) ** 2 / 30 + added)
    assert episode_interval([scores]).half_width == pytest.approx(expected)
    assert episode_interval([plain]).half_width == pytest.approx(
        stats.t.ppf(0.975, 29) * plain.std(ddof=1) / np.sqrt(30)
    )


@pytest.mark.parametrize("parts", [((4.0, 3),), ((1.0, 2), (2.0, 9), (0.5, np.inf))])
def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero(parts):
    spread = Spread(parts)
    assert spread.half_width(1 - spread.p_value(-5.0)) == pytest.approx(5.0)
    if len(parts) == 1:
        assert spread.p_value(5.0) == pytest.approx(2 * stats.t.sf(5.0 / 2.0, 3))
        assert spread.half_width() == pytest.approx(2 * stats.t.ppf(0.975, 3))


def test_a_mean_without_spread_is_certain_unless_it_is_zero():
    assert Spread(((0.0, 2),)).p_value(3.0) < 1e-9
    assert Spread(((0.0, 2),)).p_value(0.0) == 1.0


@pytest.mark.parametrize(("seeds", "episodes", "least"), [(3, 10, 2 * 0.16**3), (5, 10, 2 * 0.16**5), (3, 2, 2 / 2**6)])
def test_so_few_numbers_are_never_more_certain_than_chance_would_be(seeds, episodes, least):
    """All seeds of a method fail and none of the other's, where one training in five fails; or all signs are alike."""
    evidence = Evidence((dict(enumerate(np.full((seeds, episodes), 60.0))),))
    assert evidence.p_value() == pytest.approx(least)
    assert evidence.for_new_seeds() == (60.0, 60.0)


def test_a_detectable_effect_is_detected_in_four_of_five_cases():
    rng = np.random.default_rng(14)
    spread = Spread(((1.0, 30),))
    found = np.abs(rng.standard_t(30, 4000) + spread.detectable()) > spread.half_width()
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_holms_procedure_is_that_of_the_textbook():
    # 0.01 <= 0.05 / 4, 0.015 <= 0.05 / 3, 0.03 > 0.05 / 2: the third stops it
    assert holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert holm([]) == []


def test_seeds_weigh_the_same_whatever_their_number_of_episodes():
    assert Evidence(({0: np.array([0.0]), 1: np.full(99, 100.0)},)).mean() == 50.0


def test_the_same_episodes_always_give_the_same_interval():
    assert episode_interval(GROUPS) == episode_interval([g.copy() for g in GROUPS])


def test_differences_between_seeds_do_not_widen_the_interval_for_these_policies():
    far_apart = [np.array([10.0, 11.0, 12.0]), np.array([90.0, 91.0, 92.0])]
    interval = episode_interval(far_apart)
    assert interval.half_width == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))


def outcomes(*shares, episodes=10):
    """Scores of a task: one seed for each share of successes."""
    return (
        {
            s: np.repeat([100.0, 0.0], [round(p * episodes), episodes - round(p * episodes)])
            for s, p in enumerate(shares)
        },
    )


@pytest.mark.parametrize("shares", [(1.0,), (0.0, 0.0), (0.9, 0.9, 0.6)])
def test_the_interval_of_a_success_rate_is_wilsons(shares):
    found = Evidence(outcomes(*shares), "successes", starts_shared=False).for_these_policies()
    trials = 10 * len(shares)
    theirs = stats.binomtest(round(sum(shares) * 10), trials).proportion_ci(method="wilson")
    assert found == pytest.approx((100 * theirs.low, 100 * theirs.high))
    assert found.half_width > 5


def test_tasks_with_unequal_numbers_of_episodes_have_an_effective_number():
    tasks = (*outcomes(0.5, episodes=10), *outcomes(0.5, episodes=40))
    theirs = stats.binomtest(16, 32).proportion_ci(method="wilson")  # 1 / (0.25 / 10 + 0.25 / 40) = 32
    assert Evidence(tasks, "successes", starts_shared=False).for_these_policies() == pytest.approx(
        (100 * theirs.low, 100 * theirs.high)
    )


def test_the_interval_of_a_gain_in_successes_is_bonett_and_prices():
    pairs = np.repeat([100.0, -100.0, 0.0], [6, 1, 13])  # 20 pairs: (7 − 2) / 22 ± z √((9/22 − (5/22)²) / 22)
    half = 1.959964 * np.sqrt((9 / 22 - (5 / 22) ** 2) / 22)
    found = Evidence(({0: pairs[::2], 1: pairs[1::2]},), "differences", starts_shared=False).for_these_policies()
    assert found == pytest.approx((100 * (5 / 22 - half), 100 * (5 / 22 + half)), rel=1e-6)
    agreed = Evidence(({0: np.zeros(20)},), "differences").for_these_policies()
    assert agreed.low == -agreed.high < -5  # the bootstrap's would be [0, 0]


@pytest.mark.parametrize("chance", [0.5, 0.95])
def test_intervals_of_success_rates_cover_the_chance_of_success(chance):
    rng = np.random.default_rng(13)

    def draw():
        return ({seed: 100.0 * (rng.random(10) < chance) for seed in range(3)},)

    assert coverage(draw, lambda e: Evidence(e, "successes").for_these_policies(), 100 * chance) >= 0.92


def test_one_episode_per_seed_gives_no_interval():
    assert episode_interval([np.array([1.0]), np.array([2.0])]) is None


def test_no_episodes_at_all_is_an_error():
    with pytest.raises(ValueError, match="at least one training seed"):
        episode_interval([np.array([])])


def test_the_seed_interval_is_students_t():
    means = [61.0, 64.5, 58.0, 70.0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(means), scale=stats.sem(means))
    interval = seed_interval(means)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_two_seeds_give_no_seed_interval():
    assert seed_interval([1.0, 2.0]) is None


def coverage(draw, interval, truth, repeats=400):
    hits = 0
    for _ in range(repeats):
        found = interval(draw())
        hits += found.low <= truth <= found.high
    return hits / repeats


def crossed(seeds=5, episodes=10, *, seed_sd=0.0, start_sd=0.0, rest_sd=10.0):
    rng = np.random.default_rng(11)

    def draw():
        table = 60 + seed_sd * rng.normal(size=(seeds, 1)) + start_sd * rng.normal(size=(1, episodes))
        return (dict(enumerate(table + rest_sd * rng.normal(size=(seeds, episodes)))),)

    return draw


@pytest.mark.parametrize("start_sd", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("seed_sd", [0.0, 8.0])
def test_the_interval_for_new_seeds_covers_their_mean_whatever_varies(seed_sd, start_sd):
    draw = crossed(seed_sd=seed_sd, start_sd=start_sd)
    assert coverage(draw, lambda e: Evidence(e).for_new_seeds(), 60) >= 0.925


@pytest.mark.parametrize("start_sd", [0.0, 30.0])
def test_the_interval_for_these_policies_covers_their_mean_over_starting_states(start_sd):
    draw = crossed(start_sd=start_sd)
    assert 0.92 <= coverage(draw, lambda e: Evidence(e).for_these_policies(), 60) <= 0.98
    spread = crossed(seed_sd=20.0)
    assert coverage(spread, lambda e: Evidence(e).for_these_policies(), 60) < 0.6  # it is not about new seeds


def test_intervals_cover_the_mean_where_few_episodes_fall():
    rng = np.random.default_rng(12)

    def draw():
        falls = rng.random((5, 20)) < 0.05
        return (dict(enumerate(np.where(falls, 35.0, 100 + 2 * rng.normal(size=(5, 20))))),)

    truth = 0.95 * 100 + 0.05 * 35
    assert coverage(draw, lambda e: Evidence(e).for_these_policies(), truth) >= 0.92
    assert coverage(draw, lambda e: Evidence(e).for_new_seeds(), truth) >= 0.92


def test_differences_are_taken_on_the_same_seeds_whatever_their_order():
    method = {1: {5: 12.0, 3: 10.0}, 0: {3: 1.0}}
    base = {0: {3: 4.0, 9: 0.0}, 1: {3: 1.0, 5: 2.0}, 2: {3: 0.0}}
    found = paired_differences(method, base)
    assert {seed: list(values) for seed, values in found.items()} == {0: [-3.0], 1: [9.0, 10.0]}


@pytest.mark.parametrize(
    ("base", "message"), [({1: {0: 1.0}}, "training seed 0"), ({0: {1: 1.0}}, "lacks environment seed 0")]
)
def test_an_episode_without_counterpart_is_not_paired(base, message):
    with pytest.raises(UnpairedError, match=message):
        paired_differences({0: {0: 1.0}}, base)


def test_every_task_weighs_the_same_in_an_average_and_new_seeds_are_matched():
    evidence = Evidence(
        (
            {0: np.array([0.0, 2.0]), 1: np.array([3.0, 5.0]), 2: np.array([1.0, 3.0])},
            {0: np.array([10.0]), 1: np.array([20.0]), 2: np.array([30.0])},
        )
    )
    assert evidence.mean() == pytest.approx((7 / 3 + 20) / 2)
    alone = Evidence(evidence.tasks, starts_shared=False)
    assert alone.for_new_seeds() == pytest.approx(seed_interval([5.5, 12.0, 16.0]))
    assert Evidence((evidence.tasks[0], {0: np.array([1.0])})).for_new_seeds() is None


def test_tasks_of_an_average_are_independent():
    episodes = {0: np.array([0.0, 1.0] * 20)}
    one, four = Evidence((episodes,)).for_these_policies(), Evidence((episodes,) * 4).for_these_policies()
    assert (four.high - four.low) == pytest.approx((one.high - one.low) / 2, rel=0.1)


def test_published_scores_know_their_tasks_and_what_is_second_hand():
    scores = published_scores("hopper-medium-replay-v2")
    assert [(s.method, s.mean, s.second_hand) for s in scores] == [
        ("ReBRAC", 98.1, False),
        ("IQL", 89.6, False),
        ("MPCwDWM", 103.14, True),
    ]
    assert published_scores("hopper-medium-replay-mini-ppo-v0") == []


def test_the_papers_averages_are_those_of_their_own_rows_and_only_for_their_suite():
    kinds = ("random", "medium", "expert", "medium-expert", "medium-replay", "full-replay")
    tasks = [f"{robot}-{kind}-v2" for robot in ("halfcheetah", "hopper", "walker2d") for kind in kinds]
    average = {score.method: score.mean for score in published_average(tasks)}
    for method in ("ReBRAC", "IQL"):
        rows = [s.mean for task in tasks for s in published_scores(task) if s.method == method]
        assert len(rows) == 18
        assert average[method] == pytest.approx(np.mean(rows), abs=0.06)
    assert published_average(tasks[:-1]) == []
