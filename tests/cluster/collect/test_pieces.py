"""Rows rolled in pieces: the same file whatever the number of workers and interruptions."""

from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np
import pytest

from cluster.collect.pieces import Share, parts_folder, record, rolled
from cluster.collect.rows import Rows, first_rows
from mpcwdwm.data.hdf5 import Arrays, read_arrays
from mpcwdwm.errors import UserError

LENGTH = 700  # steps of an episode
REQUEST = {"env_id": "Counting-v0", "seed": 3}
SHARES = (25_000, 12_345)


@dataclass(frozen=True)
class Counting:
    """Rolls episodes in which the observation is (value, step) and the action is drawn from the piece's seed."""

    value: float
    fails_after: int | None = None  # calls in this process
    log: str | None = None  # a file that every call appends its seed to

    def __call__(self, rows: int, seed: int) -> Rows:
        if self.log:
            path = Path(self.log)
            before = path.read_text() if path.exists() else ""
            if self.fails_after == len(before.split()):
                raise KeyboardInterrupt
            path.write_text(f"{before}{seed}\n")
        count = -(-rows // LENGTH) * LENGTH
        step = np.arange(count) % LENGTH
        obs = np.stack([np.full(count, self.value), step], axis=1).astype(np.float32)
        action = np.random.default_rng(seed).uniform(-1, 1, (count, 1)).astype(np.float32)
        over = step == LENGTH - 1
        arrays = Arrays(obs, action, obs[:, 1], np.zeros(count, bool), over, obs + np.float32([0, 1]))
        return arrays, {"qpos": np.arange(count, dtype=np.float64)[:, None]}


def shares(**options: object) -> list[Share]:
    return [Share(Counting(value, **options), rows) for value, rows in enumerate(SHARES)]


def assert_equal(one: Rows, other: Rows) -> None:
    for field in fields(Arrays):
        np.testing.assert_array_equal(vars(one[0])[field.name], vars(other[0])[field.name], err_msg=field.name)
    assert one[1].keys() == other[1].keys() == {"qpos"}
    np.testing.assert_array_equal(one[1]["qpos"], other[1]["qpos"])


def test_every_share_has_its_rows_in_order_and_ends_with_an_episode(tmp_path: Path) -> None:
    arrays, infos = rolled(shares(), tmp_path / "mine.hdf5", REQUEST, seed=3, workers=1)
    assert len(arrays.obs) == len(infos["qpos"]) == sum(SHARES)
    np.testing.assert_array_equal(arrays.obs[:, 0], np.repeat([0, 1], SHARES))
    ends = arrays.marked_ends
    assert ends[SHARES[0] - 1]
    assert ends[-1]
    assert ends.sum() == sum(-(-rows // LENGTH) for rows in SHARES)  # nothing else is cut
    begins = np.flatnonzero(np.roll(ends, 1))
    assert (arrays.obs[begins, 1] == 0).all()
    assert arrays.obs.dtype == np.float32
    assert infos["qpos"].dtype == np.float64


def test_no_two_pieces_draw_the_same_numbers(tmp_path: Path) -> None:
    one, _ = rolled(shares(), tmp_path / "a.hdf5", REQUEST, seed=3, workers=1)
    other, _ = rolled(shares(), tmp_path / "b.hdf5", REQUEST, seed=4, workers=1)
    drawn = np.concatenate([one.action, other.action])
    assert len(np.unique(drawn)) > 0.99 * len(drawn)


def test_an_interrupted_collection_continues_where_it_stopped(tmp_path: Path) -> None:
    log = tmp_path / "log"
    undisturbed = rolled(shares(), tmp_path / "a.hdf5", REQUEST, seed=3, workers=1)
    heard: list[tuple[int, int]] = []
    for stop in (2, 3, None):
        try:
            again = rolled(
                shares(log=str(log), fails_after=stop),
                tmp_path / "b.hdf5",
                REQUEST,
                seed=3,
                workers=1,
                on_progress=lambda _, done, total: heard.append((done, total)),
            )
        except KeyboardInterrupt:
            continue
    assert_equal(undisturbed, again)
    seeds = log.read_text().split()
    assert len(seeds) == len(set(seeds)) == 5  # no piece was rolled twice
    assert [done for done, _ in heard] == [0, 10_000, 20_000, 20_000, 25_000, 25_000, 35_000, 37_345]
    assert {total for _, total in heard} == {37_345}


def test_a_damaged_piece_is_rolled_again(tmp_path: Path) -> None:
    out = tmp_path / "mine.hdf5"
    before = rolled(shares(), out, REQUEST, seed=3, workers=1)
    part = sorted(parts_folder(out).glob("part-*"))[1]
    part.write_bytes(part.read_bytes()[:1000])
    assert_equal(before, rolled(shares(), out, REQUEST, seed=3, workers=1))


@pytest.mark.slow
def test_rows_over_ray_are_those_of_one_process(tmp_path: Path) -> None:
    here = rolled(shares(), tmp_path / "a.hdf5", REQUEST, seed=3, workers=1)
    assert_equal(here, rolled(shares(), tmp_path / "b.hdf5", REQUEST, seed=3, workers=2))


def test_pieces_of_another_request_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "mine.hdf5"
    rolled(shares(), out, REQUEST, seed=3, workers=1)
    with pytest.raises(UserError, match=r"interrupted collection with seed 3, not 4: repeat that one, or delete"):
        rolled(shares(), out, {**REQUEST, "seed": 4}, seed=4, workers=1)
    with pytest.raises(UserError, match="with kind unset, not medium"):
        rolled(shares(), out, {**REQUEST, "kind": "medium"}, seed=3, workers=1)
    (parts_folder(out) / "request.json").write_text("{")
    with pytest.raises(UserError, match=r"request.json' is damaged: delete"):
        rolled(shares(), out, REQUEST, seed=3, workers=1)


def test_a_folder_that_cannot_be_made_and_too_few_workers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.hdf5.parts").write_bytes(b"")
    with pytest.raises(UserError, match=r"mine.hdf5.parts' cannot be written"):
        rolled(shares(), tmp_path / "mine.hdf5", REQUEST, seed=3, workers=1)
    with pytest.raises(UserError, match="workers must be at least 1, not 0"):
        rolled(shares(), tmp_path / "mine.hdf5", REQUEST, seed=3, workers=0)


def test_the_first_rows_of_a_terminal_end_get_no_timeout() -> None:
    arrays, infos = Counting(0)(LENGTH, 0)
    arrays.terminal[99] = True
    assert first_rows((arrays, infos), 100)[0].timeout.sum() == 0
    assert np.flatnonzero(first_rows((arrays, infos), 99)[0].timeout).tolist() == [98]
    assert not arrays.timeout[98]  # what was given is unchanged


def test_what_is_recorded_is_read_again_and_leaves_no_pieces(tmp_path: Path) -> None:
    out = tmp_path / "new" / "mine.hdf5"
    record(shares(), out, REQUEST, seed=3, workers=1)
    expected, infos = rolled(shares(), tmp_path / "other.hdf5", REQUEST, seed=3, workers=1)
    found = read_arrays(out)
    assert_equal((expected, infos), (found, infos))
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["infos/qpos"], infos["qpos"])
        assert file.attrs["env_id"] == "Counting-v0"
        assert file.attrs["numpy_version"] == np.__version__
    assert [path.name for path in out.parent.iterdir()] == ["mine.hdf5"]
    with pytest.raises(UserError, match="exists already"):
        record(shares(), out, REQUEST, seed=3, workers=1)
