import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpcwdwm.data import dataset_path, find_task, read_dataset, sha256_of
from mpcwdwm.errors import UserError
from mpcwdwm.training.buffer import usable_rows
from tests.support.broken_datasets import BROKEN_ARRAYS, BROKEN_FILES
from tests.support.synthetic import episodes, write_hdf5

# Held-out episodes; a change would leak held-out data into models trained before.
BUNDLED_HELDOUT = [38, 61, 89, 99, 111, 124, 139, 143, 144, 195]
MINI = "hopper-medium-replay-mini-ppo-v0"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# ── Broken files ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", BROKEN_ARRAYS)
def test_a_broken_array_is_one_line_that_names_file_and_place(kind, tmp_path):
    change, expected = BROKEN_ARRAYS[kind]
    arrays = episodes()
    change(arrays)
    path = write_hdf5(tmp_path / "broken.hdf5", arrays)
    with pytest.raises(UserError) as caught:
        read_dataset(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(path), *expected]:
        assert part in message


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_is_one_line_that_names_it(kind, tmp_path):
    make, expected = BROKEN_FILES[kind]
    path = tmp_path / "data.hdf5"
    make(path)
    with pytest.raises(UserError) as caught:
        read_dataset(path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_actions_just_outside_the_bounds_are_rounding_and_clipped(tmp_path):
    arrays = episodes()
    arrays["actions"][3, 0] = 1.0005
    dataset = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert dataset.action[3, 0] == 1.0
    assert dataset.next_action[2, 0] == 1.0


# ── Successors, against a recursion written row by row ────────────────────────


def by_hand(arrays: dict[str, np.ndarray]) -> list[dict]:
    """Return the expected rows: walk through the file, remembering nothing but the current episode."""
    count, rows, episode = len(arrays["rewards"]), [], 0
    stored = arrays.get("next_observations")
    for i in range(count):
        terminal = bool(arrays["terminals"][i])
        flagged = terminal or bool(arrays["timeouts"][i])
        last = i == count - 1
        jump = stored is not None and not last and not np.array_equal(stored[i], arrays["observations"][i + 1])
        ends = flagged or jump or last
        if stored is not None:
            leaked = ends and not last and not jump
            next_obs = None if leaked else stored[i]
        else:
            next_obs = None if ends else arrays["observations"][i + 1]
        next_action = None if ends else arrays["actions"][i + 1]
        rows.append(
            {
                "episode": episode,
                "terminal": terminal,
                "timeout": ends and not terminal,
                "next_obs": next_obs,
                "next_action": next_action,
            }
        )
        episode += ends
    return rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from("to-b")), min_size=3, max_size=8),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=3),
    st.integers(0, 5),
)
def test_successors_equal_a_row_by_row_recursion(tmp_path, shape, stores_next_obs, leaks, seed):
    shape = [(9, "o"), *shape]
    arrays = episodes([n for n, _ in shape], "".join("t" if e == "b" else e for _, e in shape), seed=seed)
    stops = np.cumsum([n for n, _ in shape]) - 1
    for stop, (_, end) in zip(stops, shape, strict=True):
        if end == "b":
            arrays["timeouts"][stop] = True  # both: terminal wins
    for place in leaks:  # a file whose next observation at an end is the state after the reset
        stop = stops[place % len(stops)]
        if stop + 1 < len(arrays["rewards"]):
            arrays["next_observations"][stop] = arrays["observations"][stop + 1]
    if not stores_next_obs:
        del arrays["next_observations"]
    dataset = read_dataset(write_hdf5(tmp_path / "random.hdf5", arrays))
    for i, row in enumerate(by_hand(arrays)):
        assert dataset.episode[i] == row["episode"], i
        assert dataset.terminal[i] == row["terminal"], i
        assert dataset.timeout[i] == row["timeout"], i
        assert dataset.has_next_obs[i] == (row["next_obs"] is not None), i
        assert dataset.has_next_action[i] == (row["next_action"] is not None), i
        np.testing.assert_array_equal(dataset.next_obs[i], 0 if row["next_obs"] is None else row["next_obs"])
        np.testing.assert_array_equal(dataset.next_action[i], 0 if row["next_action"] is None else row["next_action"])


def test_a_timed_out_row_serves_the_models_but_has_no_next_action(tmp_path):
    arrays = episodes(lengths=(6, 4, 5), ends="tot")
    dataset = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert dataset.timeout[9]
    assert not dataset.terminal[9]
    assert dataset.has_next_obs[9]
    np.testing.assert_array_equal(dataset.next_obs[9], arrays["next_observations"][9])
    assert not dataset.has_next_action[9]


def test_an_unmarked_jump_ends_the_episode(tmp_path):
    arrays = episodes(lengths=(6, 4, 5), ends="t-t")
    dataset = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays))
    assert dataset.timeout[9]
    assert not dataset.has_next_action[9]
    assert list(dataset.lengths) == [6, 4, 5]


def test_missing_timeouts_are_found_from_next_observations(tmp_path):
    arrays = episodes(lengths=(6, 4, 5), ends="ooo")
    with_flags = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays))
    del arrays["timeouts"]
    without = read_dataset(write_hdf5(tmp_path / "b.hdf5", arrays))
    for name in ("episode", "timeout", "has_next_action", "next_obs", "next_action"):
        np.testing.assert_array_equal(getattr(with_flags, name), getattr(without, name))


def qlearning_dataset(arrays):
    """Return D4RL's own rule: row i+1 is the successor, timeouts and the last row are dropped."""
    keep = ~arrays["timeouts"][:-1]
    return {
        "observations": arrays["observations"][:-1][keep],
        "next_observations": arrays["observations"][1:][keep],
        "next_actions": arrays["actions"][1:][keep],
        "rewards": arrays["rewards"][:-1][keep],
        "terminals": arrays["terminals"][:-1][keep],
    }


def test_rows_with_a_next_action_are_those_of_d4rl_with_the_same_successors(tmp_path):
    arrays = episodes(lengths=(8, 4, 9, 5, 6), ends="totot", seed=3)
    del arrays["next_observations"]
    ours, theirs = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays)), qlearning_dataset(arrays)
    # D4RL keeps terminal rows, with the next episode's start as a successor that the flag masks.
    mine, their = ours.has_next_action, ~theirs["terminals"]
    assert mine.sum() == their.sum() == 8 + 4 + 9 + 5 + 6 - 5
    np.testing.assert_array_equal(ours.obs[mine], theirs["observations"][their])
    np.testing.assert_array_equal(ours.next_obs[mine], theirs["next_observations"][their])
    np.testing.assert_array_equal(ours.next_action[mine], theirs["next_actions"][their])
    np.testing.assert_array_equal(ours.reward[mine], theirs["rewards"][their])


# ── Layout variants ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_columns_and_any_kind_of_flag_are_read_alike(tmp_path, dtype):
    arrays = episodes()
    plain = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays))
    for name in ("terminals", "timeouts"):
        arrays[name] = arrays[name].astype(dtype)[:, None]
    arrays["rewards"] = arrays["rewards"].astype(np.float64)[:, None]
    columns = read_dataset(write_hdf5(tmp_path / "b.hdf5", arrays))
    assert columns.reward.dtype == columns.obs.dtype == np.float32
    for name in ("obs", "reward", "terminal", "timeout", "next_obs", "next_action", "episode"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(columns, name))


def test_returns_and_lengths_are_per_episode(tmp_path):
    arrays = episodes(lengths=(6, 4, 5), ends="tot")
    dataset = read_dataset(write_hdf5(tmp_path / "a.hdf5", arrays))
    expected = [arrays["rewards"][a:b].sum(dtype=np.float64) for a, b in ((0, 6), (6, 10), (10, 15))]
    np.testing.assert_allclose(dataset.returns, expected, rtol=1e-12)
    assert list(dataset.lengths) == [6, 4, 5]
    assert (dataset.obs_dim, dataset.act_dim) == (3, 2)


# ── Held-out episodes ─────────────────────────────────────────────────────────


def test_heldout_episodes_are_whole_about_five_percent_and_follow_from_the_hash(tmp_path):
    arrays = episodes(lengths=[3] * 200, ends="to" * 100)
    path = write_hdf5(tmp_path / "a.hdf5", arrays)
    first, again = read_dataset(path), read_dataset(path)
    copy = tmp_path / "elsewhere.hdf5"
    copy.write_bytes(path.read_bytes())
    assert first.heldout_episodes.sum() == 10
    assert set(np.bincount(first.episode, weights=first.heldout)) == {0, 3}  # all of an episode or none
    np.testing.assert_array_equal(first.heldout, again.heldout)
    np.testing.assert_array_equal(first.heldout, read_dataset(copy).heldout)
    arrays["rewards"][0] += 1
    other = read_dataset(write_hdf5(tmp_path / "b.hdf5", arrays))
    assert (other.heldout != first.heldout).any()


@pytest.mark.parametrize(("lengths", "ends", "heldout"), [([12], "t", 0), ([6, 6], "tt", 1), ([4] * 5, "ttttt", 1)])
def test_two_episodes_are_enough_to_hold_one_out_and_one_is_not(tmp_path, lengths, ends, heldout):
    dataset = read_dataset(write_hdf5(tmp_path / "a.hdf5", episodes(lengths, ends)))
    assert dataset.heldout_episodes.sum() == heldout


def test_the_bundled_split_never_moves():
    dataset = read_dataset(dataset_path(find_task(MINI)))
    assert np.flatnonzero(dataset.heldout_episodes).tolist() == BUNDLED_HELDOUT


# ── Fingerprints ──────────────────────────────────────────────────────────────


def test_a_hash_is_computed_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    import hashlib

    path = tmp_path / "a"
    path.write_bytes(b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    assert sha256_of(path) == expected
    calls = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: calls.append(a) or digest(*a))
    assert sha256_of(path) == expected
    assert not calls
    path.write_bytes(b"two, longer")
    assert sha256_of(path) == hashlib.sha256(b"two, longer").hexdigest()
    assert len(calls) == 1


def test_a_damaged_or_unwritable_cache_costs_only_time(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    expected = sha256_of(path)
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    sha256_of(path)
    (entry,) = cache.rglob("*.json")
    for damage in ("", "[]", "{", "{}"):
        entry.write_text(damage)
        assert sha256_of(path) == expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file where a folder should be
    assert sha256_of(path) == expected


@pytest.mark.parametrize(("ends", "limit"), [("oto", 6), ("tot", None), ("oot", 6)])
def test_the_time_limit_is_the_length_of_the_longest_episode_where_time_cut_it(tmp_path, ends, limit):
    made = read_dataset(write_hdf5(tmp_path / "cut.hdf5", episodes(lengths=(6, 4, 5), ends=ends)))
    assert made.time_limit == limit


@pytest.mark.parametrize("ends", ["t" * 12, "o" * 12, "to" * 6])
def test_episodes_of_one_step_need_their_next_observations(tmp_path, ends):
    arrays = episodes(lengths=[1] * 12, ends=ends)
    read = read_dataset(write_hdf5(tmp_path / "one.hdf5", arrays))
    assert read.has_next_obs.all()
    assert not read.has_next_action.any()
    np.testing.assert_array_equal(read.next_obs, arrays.pop("next_observations"))
    np.testing.assert_array_equal(read.lengths, [1] * 12)
    with pytest.raises(UserError, match="every episode has one step and 'next_observations' is missing") as caught:
        read_dataset(write_hdf5(tmp_path / "bare.hdf5", arrays))
    assert "\n" not in str(caught.value)
    if "t" not in ends:  # time cut them all: a critic that needs the next action has nothing to learn from
        assert len(usable_rows(read, "next_value", heldout=None)) == 12
        with pytest.raises(UserError, match=r"\(next_action\): needed is a row that another row .* follows") as caught:
            usable_rows(read, "next_action", heldout=None)
        assert "\n" not in str(caught.value)


def test_rows_that_are_no_episode_are_still_refused(tmp_path):
    arrays = episodes()
    order = np.random.default_rng(0).permutation(len(arrays["rewards"]))
    shuffled = write_hdf5(tmp_path / "shuffled.hdf5", {name: array[order] for name, array in arrays.items()})
    with pytest.raises(UserError, match="store the rows in the order"):
        read_dataset(shuffled)
