"""Rows rolled in pieces: in parallel over Ray, resumed after a kill, and the same whatever the number of workers.

A share of rows (of one policy, say) is cut into pieces of `PIECE_ROWS`. A piece follows from its share and its seed
alone, which is derived from (seed, number of the piece). It holds whole episodes, so it is a little longer than was
asked for; the last episode of a share is cut where the share is full, and then ends with a timeout. Finished pieces lie
in a work folder beside the file that is to be written:

    mine.hdf5.parts/request.json                what is being collected
    mine.hdf5.parts/part-00000.safetensors …    one for each finished piece

An interrupted collection continues from them if the request is the same.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from cluster.collect.rows import Rows, claim, concatenated, first_rows, found_rows, read_rows, write_rows
from cluster.ray import start as ray_cluster
from mpcwdwm.data.writing import refuse_unfit_target, write_arrays
from mpcwdwm.envs.factory import mujoco_version
from mpcwdwm.errors import UserError
from mpcwdwm.random import derive_seed

__all__ = ["PIECE_ROWS", "ROWS", "Roll", "Share", "parts_folder", "record", "rolled", "versions"]

ROWS = 1_000_000  # of a file, by default: as many as D4RL's
PIECE_ROWS = 10_000  # about ten of D4RL's longest episodes, some seconds of work
REQUEST = "request.json"

OnProgress = Callable[[str, int, int], None]


class Roll(Protocol):
    """What rolls a piece; it is sent to other processes, so it is a function of a module or a frozen dataclass."""

    def __call__(self, rows: int, seed: int) -> Rows:
        """Return whole episodes of at least `rows` rows, which follow from `seed` (63 bits) alone."""
        ...


@dataclass(frozen=True)
class Share:
    """A stretch of the file that is rolled in one way."""

    roll: Roll
    rows: int


@dataclass(frozen=True)
class _Piece:
    """One unit of work."""

    number: int  # in the file
    share: int
    roll: Roll
    rows: int  # at least
    seed: int


def record(
    shares: Sequence[Share],
    out: Path | str,
    request: Mapping[str, str | int | float],
    *,
    seed: int,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Roll all shares and write them as one file in D4RL's layout, with the request and versions as its attributes.

    Args and errors as for `rolled`; besides that, there must be nothing at `out` yet.
    """
    refuse_unfit_target(out)
    request = {**request, **versions()}
    arrays, infos = rolled(shares, out, request, seed=seed, workers=workers, on_progress=on_progress)
    write_arrays(out, arrays, infos=infos, attributes=request)
    shutil.rmtree(parts_folder(out))


def versions() -> dict[str, str]:
    """Return the versions of everything that may change what is rolled."""
    packages = ("mpcwdwm", "gymnasium", "numpy", "ray", "torch")
    return {"mujoco_version": mujoco_version(), **{f"{package}_version": version(package) for package in packages}}


def rolled(
    shares: Sequence[Share],
    out: Path | str,
    request: Mapping[str, str | int | float],
    *,
    seed: int,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Rows:
    """Return the rows of all shares in order; finished pieces stay in `parts_folder`.

    Args:
        shares: what the file is made of.
        out: the file that will be written; finished pieces are kept beside it.
        request: everything on which the rows depend. It is compared with that of the pieces that are there.
        seed: the pieces' seeds are derived from it.
        workers: pieces rolled at a time. 1: in this process, without Ray. By default as many as Ray has CPUs.
        on_progress: called with what is being done, rows done, rows in all.

    Raises:
        UserError: the folder holds pieces of another request, or cannot be written to; or `workers` is below 1.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    folder = parts_folder(out)
    claim(folder / REQUEST, request, "an interrupted collection", "repeat that one, or delete the folder")
    pieces = list(_pieces(shares, seed))
    total = sum(share.rows for share in shares)
    finished = [piece for piece in pieces if read_rows(_part(folder, piece)) is not None]
    done = sum(piece.rows for piece in finished)
    if on_progress:
        on_progress("rolling", done, total)
    missing = [piece for piece in pieces if piece not in finished]
    for piece, rows in _here(missing) if workers == 1 else _over_ray(missing, workers):
        write_rows(_part(folder, piece), rows)
        done += piece.rows
        if on_progress:
            on_progress("rolling", done, total)
    return concatenated(
        [
            first_rows(
                concatenated([found_rows(_part(folder, piece)) for piece in pieces if piece.share == index]), share.rows
            )
            for index, share in enumerate(shares)
        ]
    )


def _pieces(shares: Sequence[Share], seed: int) -> Iterator[_Piece]:
    """Yield the pieces of the file in order."""
    number = 0
    for index, share in enumerate(shares):
        for begin in range(0, share.rows, PIECE_ROWS):
            rows = min(PIECE_ROWS, share.rows - begin)
            yield _Piece(number, index, share.roll, rows, derive_seed(seed, "piece", number))
            number += 1


# Where the work is done


def _here(pieces: Sequence[_Piece]) -> Iterator[tuple[_Piece, Rows]]:
    """Roll one piece after the other in this process."""
    for piece in pieces:
        yield piece, piece.roll(piece.rows, piece.seed)


def _over_ray(pieces: Sequence[_Piece], workers: int | None) -> Iterator[tuple[_Piece, Rows]]:
    """Roll pieces as Ray tasks, as many at a time as there are workers; Ray repeats one whose process dies."""
    if not pieces:
        return
    import ray

    running = ray.is_initialized()
    ray_cluster.start(cpus=workers)
    try:
        slots = min(ray_cluster.capacity(cpus=1), workers or len(pieces))
        task = ray.remote(_roll).options(num_cpus=1)
        queue, busy = list(reversed(pieces)), dict[Any, _Piece]()
        while queue or busy:
            while queue and len(busy) < slots:
                piece = queue.pop()
                busy[task.remote(piece)] = piece
            (finished, *_), _ = ray.wait(list(busy), num_returns=1)
            yield busy.pop(finished), ray.get(finished)
    finally:
        if not running:
            ray_cluster.stop()


def _roll(piece: _Piece) -> Rows:
    torch.set_num_threads(1)
    return piece.roll(piece.rows, piece.seed)


# Finished pieces


def parts_folder(out: Path | str) -> Path:
    """Return the folder of the finished pieces of a file that is being collected."""
    return Path(f"{out}.parts")


def _part(folder: Path, piece: _Piece) -> Path:
    return folder / f"part-{piece.number:05d}.safetensors"
