"""Every way in which an HDF5 file of transitions is broken, and what has to be said of it."""

import h5py
import numpy as np

from tests.support.synthetic import episodes, write_hdf5


def _poke(name, row, value):
    def change(arrays):
        arrays[name] = arrays[name].astype(np.float64)
        arrays[name][row] = value

    return change


def _swap(name, make):
    def change(arrays):
        arrays[name] = make(arrays[name])

    return change


def _drop(*names):
    def change(arrays):
        for name in names:
            del arrays[name]

    return change


def _all_zero(arrays):
    arrays["terminals"][:] = False
    arrays["timeouts"][:] = False


def _cut(rows):
    def change(arrays):
        for name in arrays:
            arrays[name] = arrays[name][:rows]

    return change


def _shuffle(arrays):
    del arrays["timeouts"]
    for name in arrays:
        arrays[name] = arrays[name][::-1]


BROKEN_ARRAYS = {  # what is wrong → how the arrays get so, what has to be said
    "missing observations": (_drop("observations"), ["'observations' is missing"]),
    "missing rewards": (_drop("rewards"), ["'rewards' is missing", "present: actions, next_obs"]),
    "missing terminals": (_drop("terminals"), ["'terminals' is missing"]),
    "rewards too short": (_swap("rewards", lambda x: x[:-1]), ["'rewards' has 21 rows", "has 22"]),
    "timeouts too long": (_swap("timeouts", lambda x: np.r_[x, True]), ["'timeouts' has 23 rows"]),
    "flat observations": (_swap("observations", np.ravel), ["'observations' has shape (66,)"]),
    "images": (_swap("observations", lambda x: x[:, :, None]), ["'observations' has shape (22, 3, 1)"]),
    "two rewards": (_swap("rewards", lambda x: np.stack([x, x], 1)), ["'rewards' has shape (22, 2)"]),
    "scalar rewards": (_swap("rewards", lambda x: np.float32(1)), ["'rewards' has shape ()"]),
    "actions without dimension": (_swap("actions", lambda x: x[:, :0]), ["'actions' has shape (22, 0)"]),
    "text": (_swap("rewards", lambda x: np.array([b"a"] * len(x))), ["'rewards' is not numeric"]),
    "complex": (_swap("actions", lambda x: x + 0j), ["'actions' is not numeric"]),
    "NaN reward": (_poke("rewards", 7, np.nan), ["'rewards' holds nan in row 7"]),
    "inf observation": (_poke("observations", (3, 1), np.inf), ["'observations' holds inf in row 3"]),
    "float32 overflow": (_poke("observations", (3, 1), 1e300), ["'observations' holds inf in row 3"]),
    "NaN next observation": (_poke("next_observations", (9, 0), np.nan), ["'next_observations'", "row 9"]),
    "NaN action": (_poke("actions", (4, 0), np.nan), ["'actions' holds nan in row 4"]),
    "NaN terminal": (_poke("terminals", 5, np.nan), ["'terminals' holds nan in row 5"]),
    "half a timeout": (_poke("timeouts", 6, 0.5), ["'timeouts' holds 0.5 in row 6"]),
    "action out of bounds": (_poke("actions", (11, 1), -1.01), ["'actions' leaves [-1, 1] in row 11", "1.01"]),
    "next observation of other size": (
        _swap("next_observations", lambda x: x[:, :2]),
        ["'next_observations' has 2 columns", "has 3"],
    ),
    "no transitions": (_cut(0), ["no transitions", "'observations'"]),
    "too few rows": (_cut(5), ["only 5 transitions"]),
    "no episode end": (_all_zero, ["no episode end", "'terminals' and 'timeouts'"]),
    "time limits invisible": (_drop("timeouts", "next_observations"), ["'timeouts'", "'next_observations'"]),
    "rows out of order": (_shuffle, ["in the order"]),
}


def _not_there(path):
    pass


def _truncated(path):
    whole = write_hdf5(path, episodes(lengths=(400, 400), ends="tt")).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _damaged_block(path):
    with h5py.File(path, "w") as file:
        for name, array in episodes().items():
            file.create_dataset(name, data=array, chunks=array.shape, compression="gzip")
        offset = file["rewards"].id.get_chunk_info(0).byte_offset
    whole = bytearray(path.read_bytes())
    whole[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(bytes(whole))


def _group(path):
    with h5py.File(write_hdf5(path, episodes()), "a") as file:
        del file["actions"]
        file.create_group("actions")


BROKEN_FILES = {  # what is wrong → how the file is made, what has to be said
    "not there": (_not_there, "not found"),
    "folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.touch(), "not a complete HDF5 file"),
    "text": (lambda path: path.write_text("obs,action\n1,2\n"), "not a complete HDF5 file"),
    "truncated": (_truncated, "not a complete HDF5 file"),
    "damaged block": (_damaged_block, "'rewards' cannot be read"),
    "group for an array": (_group, "'actions' is a group"),
}
