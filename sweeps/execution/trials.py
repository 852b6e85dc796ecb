"""Evaluation as Ray Tune trials: a trial is a pack of cells, its seeds inside, or several short ones.

Cells become ready one by one, as the components they are built on are published. So the packs are
fed to Tune by a `Searcher` (`sweeps.execution.feed`) that suggests nothing while none is ready, and one Tuner
serves the whole sweep: its actors, with torch imported, are reused from trial to trial, which costs
hundredths of a second a trial instead of seconds. What failed is tried again in a trial of its own;
that is safe, because `run_pack` returns at once if the results exist.

An actor that waits for a next trial keeps its processor. While no cell is ready, or none may run,
`Evaluation.rest` ends the Tuner and gives the slots back to pretraining; the next trial starts another.

Tune runs in a thread of its own: signals, progress and records belong to the main one. Its files
go to a temporary folder, because a sweep is continued from the artifact store, never from there.
"""

import json
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
import traceback
from collections import deque
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from cluster.ray.attempts import Finished, Heard
from cluster.store import Store
from cluster.units import Pack, pack_from_dict
from cluster.work import Compute, PackFailure, attempt_pack
from sweeps.execution.feed import Feed, Outcomes

__all__ = ["Evaluation"]

BEAT = 5.0  # seconds between two signs of life of a trial: a few results a second from a hundred trials
NEWS_WITHIN = 2.0  # seconds until the driver hears that a pack of several has ended
REST_WITHIN = 15.0  # seconds until a Tuner without trials has ended; it takes two
CLOSE_WITHIN = 2.0  # seconds; trials that take longer end with Ray
SETTINGS = {  # of Tune; what the user has set in the environment wins
    "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter, which verbose=0 silences
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # no snapshots of an experiment that is never restored
    "TUNE_WARN_INSUFFICIENT_RESOURCE_THRESHOLD_S": "1000000",  # pretraining may hold the processors for hours
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the actors of all slots start at once; the feed keeps to the slots
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",  # a trial that is stopped loses nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths stay what they are
}


class Evaluation:
    """Runs packs of cells as trials; closed, it leaves nothing behind.

    Args:
        store: where the packs' components are found and the results are published.
        cpus: processor cores of one trial; also its number of threads.
        gpus: GPUs, or the fraction of one, of one trial.
        retries: how often a failed pack is tried again.
        compute: what computes a pack, `cluster.work.compute_pack` by default.
        bundled: let a trial work through several packs that are short.
    """

    def __init__(
        self,
        store: Store,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 2,
        compute: Compute | None = None,
        bundled: bool = True,
    ) -> None:
        self._store = store
        self._resources = {"cpu": cpus, **({"gpu": gpus} if gpus else {})}
        self._options = {
            "store_location": store.location,
            "device": "cuda" if gpus else "cpu",
            "threads": max(1, int(cpus)),
            "compute": compute,
        }
        self._feed = Feed(store, retries, bundled=bundled)
        self._tuner: threading.Thread | None = None
        self._folder = ""
        self._crash = ""

    def submit(self, pack: Pack) -> None:
        """Queue a pack that is ready; it starts when a slot allows."""
        self._feed.add(pack)
        self._start_if_needed()

    def allow(self, slots: int) -> None:
        """Let at most so many trials run from now on; those that run are not disturbed."""
        self._feed.slots = slots
        self._start_if_needed()

    @property
    def waiting(self) -> int:
        """Return how many packs wait for a slot."""
        return self._feed.waiting

    @property
    def running(self) -> int:
        """Return how many trials were begun and have not ended."""
        return len(self._feed.running)

    def heard(self) -> dict[str, Heard]:
        """Return what was last heard of each running pack, by pack id."""
        return self._feed.heard()

    def poll(self) -> list[Finished]:
        """Return what has ended since the last call; RuntimeError if Tune itself has broken down."""
        ended = []
        while not self._feed.ended.empty():
            ended.append(self._feed.ended.get())
        if not ended and self._crash:
            raise RuntimeError(f"Ray Tune stopped: {self._crash}")
        return ended

    def rest(self) -> None:
        """End the Tuner if it has nothing to do or may do nothing, so that its actors' processors are free."""
        if self._tuner is not None and not self._feed.running and not (self._feed.waiting and self._feed.slots):
            self._stop(REST_WITHIN)

    def close(self) -> None:
        """Stop; trials that run are given up, and end at their next beat, or with Ray."""
        self._feed.abort = True
        self._stop(CLOSE_WITHIN)

    def _start_if_needed(self) -> None:
        idle = self._tuner is None or not self._tuner.is_alive()
        if not idle or self._crash or not (self._feed.waiting and self._feed.slots):
            return
        self._feed.finished = False
        self._folder = tempfile.mkdtemp(prefix="mpcwdwm-tune-")
        self._tuner = threading.Thread(target=self._tune, name="tune", daemon=True)
        self._tuner.start()

    def _stop(self, within: float) -> None:
        self._feed.finished = True
        if self._tuner is not None:
            self._tuner.join(within)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._tuner = None

    def _tune(self) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it logs of lost processes is recorded
        try:
            tune.Tuner(
                tune.with_resources(tune.with_parameters(CellTrial, options=self._options), self._resources),
                tune_config=tune.TuneConfig(
                    search_alg=self._feed,
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
                    stop=Abort(self._feed),
                    callbacks=[Outcomes(self._feed)],
                    failure_config=tune.FailureConfig(max_failures=0),  # the feed tries packs again, not trials
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        except (Exception, SystemExit) as error:  # Ray's threads leave by SystemExit when it shuts down
            if not self._feed.abort:  # on the way out Ray may be gone before Tune is
                self._crash = f"{type(error).__name__}: {error}"
                self._store.append_log("tune", traceback.format_exc())


# What runs in the trial's process


class CellTrial(tune.Trainable):
    """Evaluates packs of cells one after another; between trials the process, with its imports, is kept."""

    def setup(self, config: dict[str, Any], options: dict[str, Any]) -> None:
        """Take the packs to run, and what `cluster.work.attempt_pack` needs besides."""
        self._options = options
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next packs."""
        self._packs = [pack_from_dict(pack) for pack in json.loads(new_config["packs"])]
        self._current, self._fraction, self._note = self._packs[0].id, 0.0, ""
        self._ended: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # what was not reported yet
        self._work: threading.Thread | None = None
        self._error: str | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Report what has ended, and how far the pack under way is.

        The work has a thread of its own, so that Tune hears of the trial, and can stop it, between.
        After a failure the process is given up, in case that is to blame: it is reported first and
        raised at the next call. An error that another process would not mend is only reported.
        """
        if self._error is not None:
            raise RuntimeError(self._error)
        if self._work is None:
            self._work = threading.Thread(target=self._run, name="packs", daemon=True)
            self._work.start()
        until = time.monotonic() + BEAT
        while self._work.is_alive() and time.monotonic() < until and self._ended.empty():
            self._work.join(NEWS_WITHIN)
        over = not self._work.is_alive()  # before the queue is emptied: nothing is added any more
        ended = [self._ended.get() for _ in range(self._ended.qsize())]
        errors = [end["failure"]["error"] for end in ended if end["failure"] and not end["failure"]["hopeless"]]
        self._error = errors[0] if errors else None
        report = {"pack": self._current, "fraction": self._fraction, "note": self._note, "ended": ended}
        return {"done": over and not errors, **report}

    def _run(self) -> None:
        for pack in self._packs:
            self._current, self._fraction, self._note = pack.id, 0.0, ""
            outcome = attempt_pack(pack=pack, on_progress=self._hear, on_wait=self._wait, **self._options)
            if isinstance(outcome, PackFailure):
                self._ended.put({"pack": pack.id, "seconds": None, "failure": asdict(outcome)})
                if not outcome.hopeless:
                    break
            else:  # one that somebody else has published says nothing of how long such packs take
                seconds = None if outcome.skipped else outcome.seconds
                self._ended.put({"pack": pack.id, "seconds": seconds, "failure": None})

    def _hear(self, fraction: float) -> None:
        self._fraction, self._note = fraction, ""

    def _wait(self, note: str) -> None:
        self._note = note


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
        return {}  # as for the feed

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
    """Stops all trials once the feed says so."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._feed.abort


def _trial_name(trial: Trial) -> str:
    return trial.trial_id
