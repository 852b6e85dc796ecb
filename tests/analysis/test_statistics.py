import numpy as np
import pytest
from scipy import stats

from analysis import statistics
from analysis.statistics import Evidence, UnpairedError, paired_differences, seed_interval
from analysis.table.published_scores import published_average, published_scores

RNG = np.random.default_rng(7)
GROUPS = [RNG.normal(50, 10, 12), RNG.normal(70, 3, 12), RNG.normal(40, 20, 5)]


def episode_interval(seeds):
    """The interval for these policies of one task, from the episodes of each seed."""
    return Evidence((dict(enumerate(seeds)),)).for_these_policies()


@pytest.fixture
def resamples(monkeypatch):
    return lambda number: monkeypatch.setattr(statistics, "RESAMPLES", number)


@pytest.mark.parametrize("groups", [GROUPS[:1], GROUPS], ids=["one seed", "several seeds"])
def test_the_interval_agrees_with_scipys_bootstrap_of_the_mean_of_means(groups, resamples):
    resamples(40_000)
    ours = episode_interval(groups)
    theirs = stats.bootstrap(
        groups,
        lambda *seeds, axis: np.mean([seed.mean(axis=axis) for seed in seeds], axis=0),
        method="percentile",
        n_resamples=40_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_the_vectorised_bootstrap_is_the_loop_over_resamples(resamples):
    resamples(50)
    weights = [0.5, 0.25, 0.25]  # a task with one seed, and one with two
    evidence = Evidence(({0: GROUPS[0]}, {0: GROUPS[1], 1: GROUPS[2]}))
    rows = [
        np.random.default_rng([statistics.BOOTSTRAP_SEED, i]).integers(len(g), size=(50, len(g)))
        for i, g in enumerate(GROUPS)
    ]
    loop = [
        sum(w * np.mean([g[j] for j in own[r]]) for w, g, own in zip(weights, GROUPS, rows, strict=True))
        for r in range(50)
    ]
    assert evidence.for_these_policies(level=0.8) == pytest.approx(np.quantile(loop, [0.1, 0.9]), rel=1e-12)


def test_seeds_weigh_the_same_whatever_their_number_of_episodes():
    assert Evidence(({0: np.array([0.0]), 1: np.full(99, 100.0)},)).mean() == 50.0


def test_the_same_episodes_always_give_the_same_interval():
    assert episode_interval(GROUPS) == episode_interval([g.copy() for g in GROUPS])


def test_differences_between_seeds_do_not_widen_the_interval_for_these_policies():
    far_apart = [np.array([10.0, 11.0, 12.0]), np.array([90.0, 91.0, 92.0])]
    interval = episode_interval(far_apart)
    assert interval.high - interval.low < 2.0


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
    found = Evidence(outcomes(*shares), "successes").for_these_policies()
    trials = 10 * len(shares)
    theirs = stats.binomtest(round(sum(shares) * 10), trials).proportion_ci(method="wilson")
    assert found == pytest.approx((100 * theirs.low, 100 * theirs.high))
    assert found.half_width > 5


def test_tasks_with_unequal_numbers_of_episodes_have_an_effective_number():
    tasks = (*outcomes(0.5, episodes=10), *outcomes(0.5, episodes=40))
    theirs = stats.binomtest(16, 32).proportion_ci(method="wilson")  # 1 / (0.25 / 10 + 0.25 / 40) = 32
    assert Evidence(tasks, "successes").for_these_policies() == pytest.approx((100 * theirs.low, 100 * theirs.high))


def test_the_interval_of_a_gain_in_successes_is_bonett_and_prices():
    pairs = np.repeat([100.0, -100.0, 0.0], [6, 1, 13])  # 20 pairs: (7 − 2) / 22 ± z √((9/22 − (5/22)²) / 22)
    half = 1.959964 * np.sqrt((9 / 22 - (5 / 22) ** 2) / 22)
    found = Evidence(({0: pairs[::2], 1: pairs[1::2]},), "differences").for_these_policies()
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


def test_the_seed_interval_covers_the_mean_of_new_seeds_and_the_episode_interval_does_not(resamples):
    resamples(500)
    rng = np.random.default_rng(11)

    def draw():  # 4 seeds of 20 episodes, seeds spread by 8 about 60
        return [rng.normal(rng.normal(60, 8), 5, 20) for _ in range(4)]

    assert 0.92 <= coverage(draw, lambda e: seed_interval([g.mean() for g in e]), 60) <= 0.98
    assert coverage(draw, episode_interval, 60) < 0.5


def test_the_episode_interval_covers_the_mean_of_the_policies_at_hand(resamples):
    resamples(500)
    rng = np.random.default_rng(12)

    def draw():  # skewed episodes of three fixed policies whose true means are 10, 20 and 60
        return [rng.exponential(scale, 20) for scale in (10, 20, 60)]

    assert 0.88 <= coverage(draw, episode_interval, 30) <= 0.98


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
            {0: np.array([0.0, 2.0]), 1: np.array([4.0, 4.0]), 2: np.array([2.0, 2.0])},
            {0: np.array([10.0]), 1: np.array([20.0]), 2: np.array([30.0])},
        )
    )
    assert evidence.mean() == pytest.approx((7 / 3 + 20) / 2)
    assert evidence.for_new_seeds() == seed_interval([5.5, 12.0, 16.0])
    assert Evidence((evidence.tasks[0], {0: np.array([1.0])})).for_new_seeds() is None


def test_tasks_of_an_average_are_resampled_independently():
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
