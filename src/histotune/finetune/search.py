"""A search for good settings by Optuna: resumable, stopped early where it is hopeless, shared among processes.

Akiba et al. 2019, arXiv 1907.10902. Everything lies in one journal file per training set: a process that is started
again, or a second one beside it, goes on where the file stands. A trial whose process died is asked anew.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from histotune.finetune.candidates import TrialStoppedError
from histotune.finetune.config import TrialSettings
from histotune.finetune.edges import WHOLE
from histotune.finetune.loop import NonFiniteLossError
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json, is_locked, lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from histotune.finetune.candidates import EpochWatcher
    from histotune.finetune.config import FinetuneConfig, SearchRange, TuningSearch


INSTALL = "pip install 'histotune[search]'"
POLL_S = 0.5
WORKER, DIVERGED = "worker", "diverged"
TrialEnd = Literal["finished", "stopped", "diverged"]


@dataclass(frozen=True)
class SearchedTrial:
    """One trial of a search.

    Attributes:
        settings: What was tried.
        end: ``finished``, ``stopped`` early, or ``diverged``: its loss was not finite.
        epoch: Epoch after which it was stopped; 0 where it was not.
        loss: Its tuning loss: the least of all epochs, or the last where it was stopped; NaN where it diverged.
    """

    settings: TrialSettings
    end: TrialEnd
    epoch: int
    loss: float


@dataclass(frozen=True)
class SearchPlace:
    """Where a search is kept.

    Attributes:
        folder: The folder; None keeps nothing.
        name: Of the training set.
        n_parts: Tuning parts that every trial is trained on.
    """

    folder: Path | None
    name: str
    n_parts: int


def require_search(config: FinetuneConfig | None) -> None:
    """Find out before anything long starts whether a search can be made.

    Raises:
        UserError: Optuna is asked for and not installed, or several processes share every batch.
    """
    if config is None or config.search is None:
        return
    if find_spec("optuna") is None:
        raise UserError("a search needs the package optuna, which is not installed", fix=INSTALL)
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        raise UserError(
            "the processes of one search each train trials of their own, and these share every batch",
            value=f"{dist.get_world_size()} processes",
            fix="start the same command several times, without torchrun",
        )


class TrialSearch:
    """The search of one training set.

    Args:
        config: What is fine-tuned, and what varies.
        search: The search.
        place: Where it is kept.
    """

    def __init__(self, config: FinetuneConfig, search: TuningSearch, place: SearchPlace) -> None:
        require_search(config)
        self._base, self._search, self._place = TrialSettings.of(config), search, place
        self._space = search.space.varied()
        epochs = self._space.get("epochs")
        self._most_epochs = config.loop.epochs if epochs is None else int(epochs.high)
        self._worker = uuid.uuid4().hex
        self._study = self._opened(config)

    def run(self, attempt: Callable[[TrialSettings, EpochWatcher], float]) -> tuple[SearchedTrial, ...]:
        """Run trials until there are as many as asked for, those of other processes included.

        Args:
            attempt: Trains a candidate and returns its tuning loss; it tells the watcher every epoch.

        Returns:
            Every trial that came to an end, in the order in which they were first asked.
        """
        with self._working():
            while True:
                with self._asking():
                    trial, all_done = self._next()
                if all_done:
                    return self._ended()
                if trial is None:  # other processes are at the last ones
                    time.sleep(POLL_S)
                else:
                    self._attempt(trial, attempt)

    def _next(self) -> tuple[Any | None, bool]:
        """Ask for a trial; None where other processes run the last ones. The second says whether all are done."""
        from optuna.trial import TrialState

        self._ask_lost_again()
        states = Counter(one.state for one in self._study.get_trials(deepcopy=False))
        n_asked = states.total() - states[TrialState.FAIL]
        if n_asked == 0 and self._holds(self._base):
            self._study.enqueue_trial({name: getattr(self._base, name) for name in self._space})
            n_asked, states[TrialState.WAITING] = 1, 1
        if not states[TrialState.WAITING] and n_asked >= self._search.n_trials:
            return None, states[TrialState.RUNNING] == 0
        self._study.sampler = self._sampler(n_asked)
        trial = self._study.ask({name: _distribution(name, one) for name, one in self._space.items()})
        trial.set_user_attr(WORKER, self._worker)
        return trial, False

    def _ask_lost_again(self) -> None:
        """Mark trials whose process died as failed, and put their settings first in the queue."""
        from optuna.trial import TrialState

        for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = one.user_attrs.get(WORKER)
            if worker is not None and self._place.folder is not None and is_locked(self._lock_of(worker)):
                continue
            self._study.tell(one.number, state=TrialState.FAIL)
            if one.params:
                self._study.enqueue_trial(one.params)

    def _attempt(self, trial: Any, attempt: Callable[[TrialSettings, EpochWatcher], float]) -> None:  # noqa: ANN401
        """Run one trial and write down how it ended; a process that is ended leaves it running."""
        from optuna.trial import TrialState

        settings = self._settings(trial.params)
        reporter = EpochReporter(trial, self._most_epochs, (self._place.n_parts - 1, settings.epochs))
        try:
            loss = attempt(settings, reporter)
        except TrialStoppedError:
            self._study.tell(trial, state=TrialState.PRUNED)
        except NonFiniteLossError as error:
            trial.set_user_attr(DIVERGED, error.what)
            self._study.tell(trial, state=TrialState.PRUNED)  # the sampler counts it among the bad ones
        else:
            self._study.tell(trial, loss)

    def _ended(self) -> tuple[SearchedTrial, ...]:
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return tuple(self._searched(one) for one in trials)

    def _searched(self, one: Any) -> SearchedTrial:  # noqa: ANN401
        settings = self._settings(one.params)
        if DIVERGED in one.user_attrs:
            return SearchedTrial(settings, "diverged", 0, float("nan"))
        if one.state.name == "COMPLETE":
            return SearchedTrial(settings, "finished", 0, float(one.value))
        epoch = (one.last_step - 1) % self._most_epochs + 1
        return SearchedTrial(settings, "stopped", epoch, float(one.intermediate_values[one.last_step]))

    def _settings(self, params: dict[str, Any]) -> TrialSettings:
        return self._base.model_copy(update=params)

    def _holds(self, settings: TrialSettings) -> bool:
        """Return whether some settings lie within what is searched."""
        named = [(getattr(settings, name), one) for name, one in self._space.items()]
        return all(
            value is not None and (value in one.values if one.values else one.low <= value <= one.high)
            for value, one in named
        )

    def _sampler(self, n_asked: int) -> Any:  # noqa: ANN401
        """Return a sampler whose draws follow from the seed and the number of the trial alone."""
        from optuna.samplers import TPESampler

        return TPESampler(seed=int(hash_json([self._search.seed, n_asked])[:7], 16))

    def _opened(self, config: FinetuneConfig) -> Any:  # noqa: ANN401  (an optional package)
        """Open the study, in its journal where one is kept."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        after, first = self._search.prune_after, self._search.unpruned
        pruner = (
            optuna.pruners.NopPruner()
            if after is None
            else optuna.pruners.MedianPruner(n_startup_trials=first, n_warmup_steps=after)
        )
        data = {**config.choices(), "search": self._search.model_dump(mode="json", exclude={"n_trials"})}
        with self._asking():
            return optuna.create_study(
                storage=None if self._place.folder is None else _journal(self._place.folder, self._place.name),
                study_name=f"{self._place.name}-{hash_json(data)[:12]}",
                direction="minimize",
                pruner=pruner,
                load_if_exists=True,
            )

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Hold what tells other processes that this one lives."""
        if self._place.folder is None:
            yield
            return
        path = self._lock_of(self._worker)
        with lock(path):
            yield
        path.unlink(missing_ok=True)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Let one process at a time look at the trials and ask for the next."""
        if self._place.folder is None:
            yield
            return
        with lock(self._place.folder / f"{self._place.name}.asking.lock"):
            yield

    def _lock_of(self, worker: str) -> Path:
        if self._place.folder is None:
            raise ValueError("a search that is not kept has one process")
        return self._place.folder / f"worker-{worker}.lock"


class EpochReporter:
    """Tells Optuna the mean tuning loss of the parts so far after every epoch, and stops the hopeless.

    Args:
        trial: Optuna's trial.
        most_epochs: Length of the longest schedule that is searched.
        last: Last part and epoch of the trial, after which there is nothing to stop.
    """

    def __init__(self, trial: Any, most_epochs: int, last: tuple[int, int]) -> None:  # noqa: ANN401
        self._trial, self._most_epochs, self._last = trial, most_epochs, last
        self._losses: dict[tuple[int, int], float] = {}

    def epoch_done(self, part: int, epoch: int, loss: float) -> None:
        """Report an epoch of one part; parts follow each other on Optuna's axis of steps."""
        self._losses[part, epoch] = loss
        so_far = float(np.mean([self._losses[one, epoch] for one in range(part + 1)]))
        self._trial.report(so_far, part * self._most_epochs + epoch)
        if (part, epoch) != self._last and self._trial.should_prune():
            raise TrialStoppedError


def _distribution(name: str, one: SearchRange) -> Any:  # noqa: ANN401
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.values:
        return CategoricalDistribution([int(value) if name in WHOLE else value for value in one.values])
    if name in WHOLE:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _journal(folder: Path, name: str) -> Any:  # noqa: ANN401
    """Open a journal after cutting off a line that a killed process left unfinished."""
    import filelock
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.journal"
    guard: Any = filelock.FileLock(folder / f"{name}.journal.lock")  # the operating system frees it
    with guard:
        written = path.read_bytes() if path.is_file() else b""
        whole = written[: written.rfind(b"\n") + 1]
        if whole != written:
            path.write_bytes(whole)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=guard))
