"""D4RL's kinds of datasets (Fu et al. 2020, section 6), made from one training run.

    random          episodes of the untrained policy
    medium          episodes of a policy a third of the way from the untrained one's return to the expert's
    expert          episodes of the snapshot with the highest return
    medium-expert   half of each, medium first
    medium-replay   the transitions that training saw before the medium snapshot
    full-replay     all transitions that training saw

Returns are those of the snapshots' test episodes, which are played as the dataset's: with the policy's own noise.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from cluster.collect.pieces import ROWS, Share, record, versions
from cluster.collect.policies import Rolling
from cluster.collect.training import OnProgress, Run, Snapshot, Trainer, TrainingConfig, train
from mpcwdwm.data.hdf5 import MIN_ROWS
from mpcwdwm.data.writing import refuse_unfit_target, write_arrays
from mpcwdwm.envs.factory import make_env
from mpcwdwm.errors import UserError, did_you_mean

__all__ = ["KINDS", "Kind", "collect", "expert_of", "kind_named", "medium_of", "training_folder"]

Kind = Literal["random", "medium", "medium-replay", "medium-expert", "expert", "full-replay"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REPLAY = ("medium-replay", "full-replay")
MEDIUM = 1 / 3  # of the way from the untrained policy's return to the expert's


def collect(
    kind: Kind,
    config: TrainingConfig,
    out: Path | str,
    trainer: Callable[[TrainingConfig], AbstractContextManager[Trainer]],
    *,
    transitions: int | None = None,
    training: Path | None = None,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Train unless that is done, choose the policies of a kind, and write the file.

    Args:
        kind: of the dataset.
        config: of the training run; other kinds of the same one use the same folder.
        out: the HDF5 file to be written.
        trainer: see `cluster.collect.training.train`.
        transitions: rows in the file, by default a million of each policy, as D4RL's. A replay kind has those that
            training saw, and takes none.
        training: folder of the training run, by default `training_folder`.
        workers: pieces rolled at a time, see `cluster.collect.pieces.rolled`.
        on_progress: called with what is being done, how much is done, how much in all.

    Raises:
        UserError: the environment is unfit, the file exists, a number makes no sense, the folder holds another run,
            or training got no better than the untrained policy.
    """
    if transitions is not None and kind in REPLAY:
        raise UserError(f"{kind} holds what training saw: leave out --transitions, --train-steps sets how much that is")
    if transitions is not None and transitions < 2 * MIN_ROWS:
        raise UserError(f"transitions must be at least {2 * MIN_ROWS}, not {transitions}")
    make_env(config.env_id).close()
    refuse_unfit_target(out)
    needed = 0 if kind == "random" else None
    folder = training or training_folder(out, config)
    run = train(config, folder, trainer, on_progress, segments=needed)
    chosen = {part: run.snapshot(number) for part, number in _choice(kind, run).items()}
    facts = _facts(kind, config, chosen)
    if kind in REPLAY:
        arrays, infos = run.seen(chosen["last" if kind == "full-replay" else "medium"].number)
        write_arrays(out, arrays, infos=infos, attributes={**facts, **versions()})
        return
    chosen = {part: chosen[part] for part in kind.split("-")}  # the parts that act, in order
    rows = transitions or ROWS * len(chosen)
    ends = [rows * part // len(chosen) for part in range(len(chosen) + 1)]
    shares = [
        Share(Rolling(config.env_id, snapshot.policy), after - before)
        for snapshot, before, after in zip(chosen.values(), ends[:-1], ends[1:], strict=True)
    ]
    record(shares, out, {**facts, "transitions": rows}, seed=config.seed, workers=workers, on_progress=on_progress)


def kind_named(name: str) -> Kind:
    """Return the kind.

    Raises:
        UserError: there is none of this name.
    """
    for kind in KINDS:
        if kind == name:
            return kind
    raise UserError(f"kind '{name}' is unknown{did_you_mean(name, KINDS)}; there are {', '.join(KINDS)}")


def training_folder(out: Path | str, config: TrainingConfig) -> Path:
    """Return where the run is kept unless another folder is named: beside the file, named for what is trained."""
    env_id = config.env_id.replace(":", "-").replace("/", "-")
    return Path(out).parent / f"{env_id}-{config.algorithm}-{config.steps}-seed{config.seed}.training"


# ── Choosing snapshots ────────────────────────────────────────────────────────


def expert_of(returns: Sequence[float]) -> int:
    """Return which snapshot is the expert: the one with the highest return.

    Args:
        returns: of all snapshots in order, that of the untrained policy first.

    Raises:
        UserError: none is better than the untrained policy.
    """
    expert = int(np.argmax(returns))
    if expert == 0:
        raise UserError(
            f"training got no better than the untrained policy (returns {returns[0]:.0f}, then at most"
            f" {max(returns[1:]):.0f}): give it more --train-steps"
        )
    return expert


def medium_of(returns: Sequence[float]) -> int:
    """Return which snapshot is medium: of those before the expert, the one whose return is nearest to a third.

    Args:
        returns: as for `expert_of`; the third is of the way from the untrained policy's to the expert's.

    Raises:
        UserError: none is better than the untrained policy, or no trained one is before the expert.
    """
    expert = expert_of(returns)
    if expert == 1:
        raise UserError("the first snapshot is the best, none is medium: ask for more --snapshots")
    aim = returns[0] + MEDIUM * (returns[expert] - returns[0])
    return 1 + int(np.argmin(np.abs(np.asarray(returns[1:expert]) - aim)))


def _choice(kind: Kind, run: Run) -> dict[str, int]:
    """Return which snapshots the kind is about, by the parts they play; with the expert if there was training."""
    if kind == "random":
        return {"random": 0}
    returns = run.returns()
    chosen = {"expert": expert_of(returns)}
    if kind == "full-replay":
        return {"last": len(returns) - 1, **chosen}
    return chosen if kind == "expert" else {"medium": medium_of(returns), **chosen}


def _facts(kind: Kind, config: TrainingConfig, chosen: dict[str, Snapshot]) -> dict[str, str | int | float]:
    """Return the attributes of the file: where its rows come from."""
    policies = {
        f"{part}_{name}": value
        for part, snapshot in chosen.items()
        for name, value in (("steps", snapshot.steps), ("return", snapshot.mean_return))
    }
    first, algorithm = next(iter(chosen.values())), config.algorithm.upper()
    if kind in REPLAY:
        rows = f"the transitions that {algorithm} saw in its first {first.steps} steps"
    else:
        parts = " and ".join(
            f"the {part} policy ({chosen[part].steps} steps of {algorithm}, mean return {chosen[part].mean_return:.1f})"
            for part in kind.split("-")
        )
        rows = f"episodes of {parts}, with the policy's own noise"
    return {"kind": kind, **config.to_dict(), **policies, "provenance": rows}
