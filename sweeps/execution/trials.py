"""Evaluation as Ray Tune trials: a trial is one pack of cells, its seeds stacked.

Cells become ready one by one, as the components they are built on are published. So one Tuner serves
the whole sweep, with a search algorithm (`sweeps.execution.search_algorithm`) that suggests nothing
while no pack is ready. Its actors, with torch imported, are reused: a further trial costs hundredths
of a second, not seconds. A failed pack is tried again in a trial of its own; that is safe, because
`run_pack` returns at once if the results exist.

An actor that waits for a next trial keeps its processor. While no cell is ready, or none may run,
`TrialPool.rest` ends the Tuner and gives the slots back to pretraining; the next trial starts another.

Tune runs in a thread: signals, progress and records belong to the main one. Its files go to a
temporary folder, because a sweep is continued from the artifact store, never from there.
"""

import json
import logging
import os
import shutil
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from cluster.memory import Memory
from cluster.ray.attempts import Finished, Heard
from cluster.ray.gpu_share import cap_gpu_memory
from cluster.ray.grant import Grant
from cluster.store import Store
from cluster.units import Pack, pack_from_dict
from cluster.work import Compute, PackFailure, attempt_pack
from sweeps.execution.search_algorithm import Outcomes, ReadyPacks

__all__ = ["CellTrial", "TrialPool", "hand_on_no_credentials"]

REST_WITHIN = 15.0  # seconds until a Tuner without trials has ended; it takes two
CLOSE_WITHIN = 2.0  # seconds; trials that take longer end with Ray
SETTINGS = {  # of Tune; what the user has set in the environment wins
    "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter, which verbose=0 silences
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # no snapshots of an experiment that is never restored
    "TUNE_WARN_INSUFFICIENT_RESOURCE_THRESHOLD_S": "1000000",  # pretraining may hold the processors for hours
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the actors of all slots start at once; `ReadyPacks` keeps to the slots
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",  # a trial that is stopped loses nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths stay what they are
}


class TrialPool:
    """Runs packs of cells as trials; closed, it leaves nothing behind.

    Args:
        store: where the packs' components are found and the results are published.
        grant: what the trial of a pack gets, asked when it starts; by default one core each.
        retries: how often a failed pack is tried again.
        hands_back: whether a pack that ran out of memory is handed back (`Finished.to_try_alone`).
        kernel_killed: whether the kernel has killed processes for want of memory on the node at an IP address.
        compute: what computes a pack, `cluster.work.compute_pack` by default.
    """

    def __init__(
        self,
        store: Store,
        *,
        grant: Callable[[Pack], Grant] = lambda _: Grant(),
        retries: int = 2,
        hands_back: bool = False,
        kernel_killed: Callable[[str], bool] = lambda address: False,
        compute: Compute | None = None,
    ) -> None:
        self._store = store
        self._options = {"store_location": store.location, "compute": compute}
        self._search = ReadyPacks(store, retries, grant, hands_back=hands_back, kernel_killed=kernel_killed)
        self._tuner: threading.Thread | None = None
        self._folder = ""
        self._crash = ""

    def submit(self, pack: Pack) -> None:
        """Queue a pack that is ready; it starts when a slot allows."""
        self._search.ready.append(pack)
        self._start_if_needed()

    def allow(self, slots: int) -> None:
        """Let at most so many trials run from now on; those that run are not disturbed."""
        self._search.slots = slots
        self._start_if_needed()

    @property
    def waiting(self) -> int:
        """Return how many packs wait for a slot."""
        return len(self._search.ready)

    @property
    def running(self) -> int:
        """Return how many trials were begun and have not ended."""
        return len(self._search.running)

    def heard(self) -> dict[str, Heard]:
        """Return what was last heard of each running pack, by pack id."""
        return {each.pack.id: each.heard for each in list(self._search.running.values())}

    def poll(self) -> list[Finished]:
        """Return what has ended since the last call; RuntimeError if Tune itself has broken down."""
        ended = []
        while not self._search.ended.empty():
            ended.append(self._search.ended.get())
        if not ended and self._crash:
            raise RuntimeError(f"Ray Tune stopped: {self._crash}")
        return ended

    def tried_again(self) -> list[Finished]:
        """Return the failures since the last call after which a pack is tried again."""
        return list(self._search.attempts.tried_again())

    def rest(self) -> None:
        """End the Tuner if it has nothing to do or may do nothing, so that its actors' processors are free."""
        search = self._search
        busy = (search.ready and search.slots) or search.running  # in this order: a pack becomes ready, then runs
        if self._tuner is not None and not busy:
            self._stop(REST_WITHIN)

    def close(self) -> None:
        """Stop; trials that run are given up, and end at their next beat, or with Ray."""
        self._search.abort = True
        self._stop(CLOSE_WITHIN)

    def _start_if_needed(self) -> None:
        idle = self._tuner is None or not self._tuner.is_alive()
        if not idle or self._crash or not (self._search.ready and self._search.slots):
            return
        self._search.finished = False
        self._folder = tempfile.mkdtemp(prefix="mpcwdwm-tune-")
        self._tuner = threading.Thread(target=self._tune, name="tune", daemon=True)
        self._tuner.start()

    def _stop(self, within: float) -> None:
        self._search.finished = True
        if self._tuner is not None:
            self._tuner.join(within)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._tuner = None

    def _tune(self) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        hand_on_no_credentials()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it logs of lost processes is recorded
        try:
            tune.Tuner(
                tune.with_resources(tune.with_parameters(CellTrial, options=self._options), _resources),
                tune_config=tune.TuneConfig(
                    search_alg=self._search,
                    scheduler=NewTrialsFirst(),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name="evaluation",
                    storage_path=self._folder,
                    verbose=0,
                    stop=Abort(self._search),
                    callbacks=[Outcomes(self._search)],
                    failure_config=tune.FailureConfig(max_failures=0),  # `ReadyPacks` tries packs again, not trials
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        except (Exception, SystemExit) as error:  # Ray's threads leave by SystemExit when it shuts down
            if not self._search.abort:  # on the way out Ray may be gone before Tune is
                self._crash = f"{type(error).__name__}: {error}"
                self._store.append_log("tune", traceback.format_exc())


def hand_on_no_credentials() -> None:
    """Keep Tune from handing AWS's keys to its trials as part of a description that Ray writes to its logs.

    A trial finds them where a process that pretrains does: in the environment of its node.
    """
    handed_on = class_cache.ENV_VARS_TO_PROPAGATE
    handed_on.difference_update([name for name in handed_on if name.startswith("AWS_")])


# What runs in the trial's process


class CellTrial(tune.Trainable):
    """Evaluates one pack of cells; between trials the process, with its imports, is kept."""

    def setup(self, config: dict[str, Any], options: dict[str, Any]) -> None:
        """Take the pack to run, and what `cluster.work.attempt_pack` needs besides."""
        cap_gpu_memory(config["grant"]["gpus"])  # once: a next trial in this process gets the same
        self._options = options
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self._pack = pack_from_dict(json.loads(new_config["pack"]))
        self._heard: Heard = (0.0, "")
        grant, self._beat = Grant(**new_config["grant"]), new_config["beat"]
        self._share: dict[str, Any] = {"device": grant.device, "threads": grant.threads}
        self._failure: PackFailure | None = None
        self._memory: Memory | None = None
        self._work: threading.Thread | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Report how far the pack is, at the latest after its beat, and how it ended.

        The work has a thread of its own, so that Tune hears of the trial, and can stop it, between.
        After a failure the process is given up, in case that is to blame: it is reported first and
        raised at the next call. An error that another process would not mend is only reported.
        """
        if self._failure is not None:
            raise RuntimeError(self._failure.error)
        if self._work is None:
            self._work = threading.Thread(target=self._run, name="pack", daemon=True)
            self._work.start()
        self._work.join(self._beat)
        over = not self._work.is_alive()  # before the failure is read: the thread sets it last
        failure = None if self._failure is None else asdict(self._failure)
        done = over and (self._failure is None or self._failure.hopeless)
        memory = None if self._memory is None else asdict(self._memory)
        return {"done": done, "fraction": self._heard[0], "note": self._heard[1], "failure": failure, "memory": memory}

    def _run(self) -> None:
        how = {**self._options, **self._share, "on_progress": self._hear, "on_wait": self._wait}
        outcome = attempt_pack(pack=self._pack, **how)
        if isinstance(outcome, PackFailure):
            self._failure = outcome
        else:
            self._memory = outcome.memory

    def _hear(self, fraction: float) -> None:
        self._heard = (fraction, "")

    def _wait(self, note: str) -> None:
        self._heard = (self._heard[0], note)


# What runs in the driver, in Tune's thread


class NewTrialsFirst(FIFOScheduler):
    """Gives an actor that is free to a trial that has none, never to one whose own is starting.

    Tune's default gives it to the trial that waits longest, and drops the actor that was starting for
    it. Where trials are shorter than that start, only one actor would ever come to be.
    """

    def __init__(self) -> None:
        super().__init__()
        self._new: deque[Trial] = deque()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the search algorithm

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Note a trial without an actor."""
        self._new.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial that gets an actor next; None if all have one, or one that starts."""
        while self._new:
            trial = self._new.popleft()
            if trial.status == Trial.PENDING:
                return trial
        return None


class Abort(tune.Stopper):
    """Stops all trials once the evaluation is closed."""

    def __init__(self, search: ReadyPacks) -> None:
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._search.abort


def _resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """Return what a trial gets; Tune keeps an actor for the next trial that gets the same."""
    grant = Grant(**config["grant"])
    wanted = {"CPU": grant.cpus, "GPU": grant.gpus, "memory": float(grant.memory)}
    return tune.PlacementGroupFactory([{name: amount for name, amount in wanted.items() if amount}])


def _trial_name(trial: Trial) -> str:
    return trial.trial_id
