"""Evaluation as Ray Tune trials: one trial is one pack of cells, its seeds inside.

Cells become ready one by one, as the components they are built on are published. So the packs are
fed to Tune by a `Searcher` that suggests nothing while none is ready, and one Tuner serves the
whole sweep: its actors, with torch imported, are reused from trial to trial, which costs 0.01 s a
trial instead of a second. Tune retries what failed; a trial is idempotent, because `run_pack`
returns at once if the results exist.

An actor that waits for a next trial keeps its processor. While no cell is ready `Evaluation.rest`
ends the Tuner and gives the slots back to pretraining; the next pack starts another.

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
import traceback
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from cluster.actors import Finished, death_line
from cluster.store import Store
from cluster.units import Pack, pack_from_dict
from cluster.work import Compute, PackFailure, PackResult, attempt_pack, record_failures

__all__ = ["Evaluation"]

DEATH = "the trial's process died (killed, out of memory, or its machine was lost)"

BEAT = 5.0  # seconds between two signs of life of a trial: a few results a second from a hundred trials
REST_WITHIN = 15.0  # seconds until a Tuner without trials has ended; it takes two
CLOSE_WITHIN = 2.0  # seconds; trials that take longer end with Ray
SETTINGS = {  # of Tune; what the user has set in the environment wins
    "RAY_AIR_NEW_OUTPUT": "0",  # the old reporter, which verbose=0 silences
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # no snapshots of an experiment that is never restored
    "TUNE_WARN_INSUFFICIENT_RESOURCE_THRESHOLD_S": "1000000",  # pretraining may hold the processors for hours
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",  # a trial that is stopped loses nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths stay what they are
}


class Evaluation:
    """Runs packs of cells as trials; closed, it leaves nothing behind.

    Args:
        store: where the packs' components are found and the results are published.
        cpus: processor cores of one trial; also its number of threads.
        gpus: GPUs, or the fraction of one, of one trial.
        retries: how often a failed trial is tried again.
        compute: what computes a pack, `cluster.work.compute_pack` by default.
    """

    def __init__(
        self,
        store: Store,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 2,
        compute: Compute | None = None,
    ) -> None:
        self._store = store
        self._resources = {"cpu": cpus, **({"gpu": gpus} if gpus else {})}
        self._retries = retries
        self._options = {
            "store_location": store.location,
            "device": "cuda" if gpus else "cpu",
            "threads": max(1, int(cpus)),
            "compute": compute,
        }
        self._feed = Feed()
        self._tuner: threading.Thread | None = None
        self._folder = ""
        self._crash = ""

    def submit(self, pack: Pack) -> None:
        """Queue a pack that is ready; it starts when a slot allows."""
        self._feed.add(pack)
        if self._tuner is None or not self._tuner.is_alive():
            self._start()

    def allow(self, slots: int) -> None:
        """Let at most so many trials run from now on; those that run are not disturbed."""
        self._feed.slots = slots

    @property
    def waiting(self) -> int:
        """Return how many packs wait for a slot."""
        return self._feed.waiting

    @property
    def running(self) -> int:
        """Return how many trials were begun and have not ended, those being retried included."""
        return len(self._feed.running)

    def progress(self) -> dict[str, float]:
        """Return the fraction done of every pack under way, by pack id."""
        return {pack_id: fraction for pack_id, (fraction, _) in self._feed.heard().items()}

    def notes(self) -> dict[str, str]:
        """Return for each pack that waits for another process what it waits for."""
        return {pack_id: note for pack_id, (_, note) in self._feed.heard().items() if note}

    def poll(self) -> list[Finished]:
        """Return what has ended since the last call; RuntimeError if Tune itself has broken down."""
        ended = []
        while not self._feed.ended.empty():
            ended.append(self._feed.ended.get())
        if not ended and self._crash:
            raise RuntimeError(f"Ray Tune stopped: {self._crash}")
        return ended

    def rest(self) -> None:
        """End the Tuner, which has nothing to do, so that its actors' processors are free again."""
        if self._tuner is not None and not self._feed.busy:
            self._stop(REST_WITHIN)

    def close(self) -> None:
        """Stop; trials that run are given up, and end at their next beat, or with Ray."""
        self._feed.abort = True
        self._stop(CLOSE_WITHIN)

    def _start(self) -> None:
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
        deaths = Deaths()
        log = logging.getLogger("ray.tune")
        log.addHandler(deaths)
        log.propagate = False
        try:
            tune.Tuner(
                tune.with_resources(tune.with_parameters(CellTrial, options=self._options), self._resources),
                tune_config=tune.TuneConfig(
                    search_alg=self._feed,
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
                    callbacks=[Outcomes(self._feed, self._store, deaths)],
                    failure_config=tune.FailureConfig(max_failures=self._retries),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        except (Exception, SystemExit) as error:  # Ray's threads leave by SystemExit when it shuts down
            if not self._feed.abort:  # on the way out Ray may be gone before Tune is
                self._crash = f"{type(error).__name__}: {error}"
                self._store.append_log("tune", traceback.format_exc())
        finally:
            log.removeHandler(deaths)
            log.propagate = True


# What runs in the trial's process


class CellTrial(tune.Trainable):
    """Evaluates one pack of cells; between trials the process, with its imports, is kept."""

    def setup(self, config: dict[str, Any], options: dict[str, Any]) -> None:
        """Take the pack to run, and what `cluster.work.attempt_pack` needs besides."""
        self._options = options
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next pack."""
        self._pack = pack_from_dict(json.loads(new_config["pack"]))
        self._fraction, self._note = 0.0, ""
        self._work: threading.Thread | None = None
        self._outcome: PackResult | PackFailure | None = None
        self._told = False
        return True

    def step(self) -> dict[str, Any]:
        """Report the fraction done after a beat, or how it ended.

        The work has a thread of its own, so that Tune hears of the trial, and can stop it, between.
        An error is reported first and raised at the next call, for Tune to try again; one that a
        second try would not mend ends the trial.
        """
        if self._work is None:
            self._work = threading.Thread(target=self._run, name=self._pack.id, daemon=True)
            self._work.start()
        self._work.join(BEAT)
        if self._work.is_alive():
            return {"done": False, "fraction": self._fraction, "note": self._note}
        failure = self._outcome
        if not isinstance(failure, PackFailure):
            return {"done": True, "fraction": 1.0}
        if self._told:
            raise RuntimeError(failure.error)
        self._told = True
        return {"done": failure.hopeless, "fraction": 0.0, "error": failure.error, "log": failure.log}

    def _run(self) -> None:
        self._outcome = attempt_pack(pack=self._pack, on_progress=self._hear, on_wait=self._wait, **self._options)

    def _hear(self, fraction: float) -> None:
        self._fraction, self._note = fraction, ""

    def _wait(self, note: str) -> None:
        self._note = note


# What runs in the driver, in Tune's thread


class Feed(Searcher):
    """Hands Tune the packs that are ready, as many at a time as there are slots."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = 1
        self.finished = False  # no pack will follow
        self.abort = False
        self.running: dict[str, Pack] = {}  # trial id → its pack
        self.ended: queue.Queue[Finished] = queue.Queue()
        self._ready: list[Pack] = []
        self._heard: dict[str, tuple[float, str]] = {}  # trial id → fraction done, and a note
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its snapshots, which nobody reads

    @property
    def waiting(self) -> int:
        return len(self._ready)

    @property
    def busy(self) -> bool:
        with self._lock:
            return bool(self._ready or self.running)

    def add(self, pack: Pack) -> None:
        with self._lock:
            self._ready.append(pack)

    def heard(self) -> dict[str, tuple[float, str]]:
        """Return the fraction done and a note for every pack under way, by pack id."""
        with self._lock:
            return {pack.id: self._heard.get(trial, (0.0, "")) for trial, pack in self.running.items()}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next trial's pack; None: ask again; FINISHED: nothing will follow."""
        with self._lock:
            if self.abort or (self.finished and not self._ready):
                return Searcher.FINISHED
            if not self._ready or len(self.running) >= self.slots:
                return None
            pack = self._ready.pop(0)
            self.running[trial_id] = pack
        return {"pack": json.dumps(pack.to_dict())}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Note how far a trial has come."""
        with self._lock:
            self._heard[trial_id] = result.get("fraction", 0.0), result.get("note", "")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Leave the bookkeeping to `Outcomes`, which is told of errors too."""

    def end(self, trial_id: str, failure: PackFailure | None) -> None:
        """Note how a trial ended and free its slot."""
        with self._lock:
            pack = self.running.pop(trial_id)
            self._heard.pop(trial_id, None)
        self.ended.put(Finished(pack) if failure is None else Finished(pack, failure.error, failure.log))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the artifact store is what a sweep continues from."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Outcomes(tune.Callback):
    """Tells the feed how trials ended; an error only after the last retry."""

    def __init__(self, feed: Feed, store: Store, deaths: "Deaths") -> None:
        self._feed, self._store, self._deaths = feed, store, deaths
        self._failures: dict[str, PackFailure] = {}  # trial id → how its present try failed

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as for the feed

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep the error that a trial reports before it raises."""
        if "error" in result:
            self._failures[trial.trial_id] = PackFailure(result["error"], result["log"])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Forget the error of a try that is repeated."""
        self._failures.pop(trial.trial_id, None)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the end of a trial: a success, or an error that a retry would not mend."""
        self._end(trial, self._failures.pop(trial.trial_id, None))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Pass on the failure of the last try; a process that said nothing has died."""
        failure = self._failures.pop(trial.trial_id, None)
        if failure is None:
            line, full = self._deaths.last
            failure = PackFailure(line, self._store.append_log(self._feed.running[trial.trial_id].id, full))
        self._end(trial, failure)

    def _end(self, trial: Trial, failure: PackFailure | None) -> None:
        pack = self._feed.running[trial.trial_id]
        if failure is not None:
            record_failures(self._store, pack, failure)
        self._feed.end(trial.trial_id, failure)


class Deaths(logging.Handler):
    """Takes the place of Tune's log: the only place where it says what became of a process."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.last = (DEATH, DEATH)  # in one line, and at length

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the last exception."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, RayError):
            self.last = (death_line(error), str(error))


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
