"""What a fine-tuning will take: how many trainings, how long, how much memory, disk and money, before it starts.

A few steps are timed on real tiles, on this machine; a time on another one is never guessed.
"""

# N tiles, B batch, C channels, S side of the input

from __future__ import annotations

import math
import time
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.finetune.footprint import TrialModel, autocast, trial_model
from histotune.finetune.tuning import tuning_parts
from histotune.tools.devices import find_device
from histotune.tools.files import readable_bytes
from histotune.tools.progress import time_words
from histotune.tools.table import ShownAsTables, Table, columns_of, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.finetune.config import FinetuneConfig
    from histotune.finetune.memory import MemoryPlan
    from histotune.finetune.workbench import TuningBench

    Int = NDArray[np.int64]
    Bools = NDArray[np.bool_]


LONG_S = 2.0  # a step that takes longer is timed with fewer tiles
MIN_TIMED, MAX_TIMED = 3, 12
PRICES: list[dict[str, Any]] = tomllib.loads(
    resources.files(__package__).joinpath("prices.toml").read_text(encoding="utf-8")
)["machine"]


@dataclass(frozen=True)
class TuningWork:
    """How much there is to train, counted.

    Attributes:
        n_sets: Training sets that are fine-tuned on: one per outer fold, and that of the final model.
        n_trials: Trainings that tuning groups judge, over all sets.
        n_refits: Trainings on a whole set, at most: a set whose probe is kept has none.
        n_trial_steps: Steps of the trials.
        n_refit_steps: Steps of the refits, at most.
        n_scored: Tiles that are scored between epochs.
        n_tiles: Tiles that train or are scored.
    """

    n_sets: int
    n_trials: int
    n_refits: int
    n_trial_steps: int
    n_refit_steps: int
    n_scored: int
    n_tiles: int

    @property
    def n_trainings(self) -> int:
        """Trainings, at most."""
        return self.n_trials + self.n_refits

    @property
    def n_steps(self) -> int:
        """Steps, at most."""
        return self.n_trial_steps + self.n_refit_steps


@dataclass(frozen=True)
class TimedSteps:
    """How fast this machine is.

    Attributes:
        steps_s: Seconds per step, one per timed step.
        n_timed: Tiles in a timed step; fewer than in a step where that would take long.
        scored_s: Seconds to score a tile.
        prefix_s: Seconds for the frozen blocks of a tile in one view, reading included; 0 where they are not kept.
        device: What it was timed on.
    """

    steps_s: tuple[float, ...]
    n_timed: int
    scored_s: float
    prefix_s: float
    device: str


@dataclass(frozen=True)
class MachinePrice:
    """What a rented machine costs.

    Attributes:
        name: As its provider calls it.
        card: As CUDA names it.
        n_cards: How many it has; a fine-tuning without torchrun uses one.
        card_gib: Memory of a card.
        usd_per_hour: On demand.
        region: Where.
        date: Day of the price.
        source: Where it was read.
        spot_usd_per_hour: As a spot machine, on that day; NaN where it was not read.
    """

    name: str
    card: str
    n_cards: int
    card_gib: float
    usd_per_hour: float
    region: str
    date: str
    source: str
    spot_usd_per_hour: float = math.nan

    def words(self, hours: float, device: str) -> str:
        """Return the price of some hours where they were timed on such a card, and that of an hour anywhere else."""
        cards = f"{self.n_cards} x " if self.n_cards > 1 else ""
        own = f"{self.name} ({cards}{self.card}, {self.region}) costs {self.usd_per_hour:.3f} USD an hour"
        if self.card == device:
            own += f": about {self.usd_per_hour * hours:.2f} USD"
        return f"{own} (as of {self.date})"


@dataclass(frozen=True)
class TuningEstimate(ShownAsTables):
    """What a fine-tuning will take.

    Attributes:
        work: How much there is to train.
        timed: How fast this machine is.
        memory: How a step fits into memory.
        n_prefix: Outputs of the frozen blocks that are kept, one per tile and view; 0 where they are not.
        prefix_bytes: Room for one of them.
        notes: What was assumed, one sentence each.
        prices: Of rented machines.
    """

    work: TuningWork
    timed: TimedSteps
    memory: MemoryPlan
    n_prefix: int
    prefix_bytes: int
    notes: tuple[str, ...] = ()
    prices: tuple[MachinePrice, ...] = field(default=(), repr=False)

    @property
    def hours(self) -> float:
        """Time of everything at the mean speed, every set refitted, hours."""
        return self._hours(self.work.n_steps, float(np.mean(self.timed.steps_s)))

    @property
    def hours_between(self) -> tuple[float, float]:
        """The same if every step were the fastest and no set refitted, and if every step were the slowest."""
        steps_s = self.timed.steps_s
        return self._hours(self.work.n_trial_steps, min(steps_s)), self._hours(self.work.n_steps, max(steps_s))

    @property
    def disk_bytes(self) -> int:
        """Room that the kept output of the frozen blocks takes."""
        return self.n_prefix * self.prefix_bytes

    @property
    def words(self) -> str:
        """How many trainings, and how long, in one sentence."""
        low, high = self.hours_between
        n = self.work.n_trainings
        return (
            f"up to {n:,} training{'s' if n != 1 else ''} of {self.work.n_steps:,} steps in all, about "
            f"{time_words(self.hours)} ({time_words(low)} to {time_words(high)}) on {self.timed.device}"
        )

    def tables(self) -> tuple[Table, ...]:
        """Return what it takes, how it fits into memory, and what an hour costs."""
        columns = columns_of(("what", "how much"), right=("how much",))
        price_rows = [
            (one.name, f"{one.n_cards} x {one.card}", f"{one.usd_per_hour:.3f}", one.date, one.source)
            for one in self.prices
        ]
        names = ("machine", "cards", "USD an hour", "as of", "read at")
        notes = (f"{self.words[0].upper()}{self.words[1:]}.", *self.notes)
        return (
            Table("Fine-tuning", columns, rows_of(self._rows()), notes),
            *self.memory.tables(),
            Table("Prices", columns_of(names, right=("USD an hour",)), rows_of(price_rows), self.price_lines()),
        )

    def price_lines(self) -> tuple[str, ...]:
        """Return what machines cost: for the whole where it was timed on such a card, else for an hour."""
        here = f"On this machine ({self.timed.device}) about {time_words(self.hours)}; time elsewhere is not guessed."
        lines = (f"{one.words(self.hours, self.timed.device)}." for one in self.prices)
        return (here, *lines, "Prices change: ask your provider.")

    def _hours(self, n_steps: int, step_s: float) -> float:
        scoring_s = self.work.n_scored * self.timed.scored_s
        return (n_steps * step_s + scoring_s + self.n_prefix * self.timed.prefix_s) / 3600

    def _rows(self) -> list[tuple[str, str]]:
        work, timed = self.work, self.timed
        rows = [
            ("training sets", f"{work.n_sets:,}"),
            ("trainings, at most", f"{work.n_trainings:,}"),
            ("steps, at most", f"{work.n_steps:,}"),
            ("a step", f"{np.mean(timed.steps_s):.3g} s ({min(timed.steps_s):.3g} to {max(timed.steps_s):.3g})"),
            ("tiles scored between epochs", f"{work.n_scored:,} at {1 / timed.scored_s:,.1f} a second"),
        ]
        if self.n_prefix:
            rows.append(("frozen blocks, tiles in views", f"{self.n_prefix:,} at {1 / timed.prefix_s:,.1f} a second"))
            rows.append(("room for their output", readable_bytes(self.disk_bytes)))
        low, high = self.hours_between
        return [*rows, ("in all", f"{time_words(self.hours)} ({time_words(low)} to {time_words(high)})")]


def machine_prices() -> tuple[MachinePrice, ...]:
    """Return the prices that are known, cheapest first."""
    return tuple(sorted((MachinePrice(**row) for row in PRICES), key=lambda one: one.usd_per_hour))


def estimate_tuning(
    bench: TuningBench, train_sets: Sequence[Bools], memory: MemoryPlan, budget_s: float = 20.0
) -> TuningEstimate:
    """Count the trainings and time a few steps; nothing is kept.

    Args:
        bench: The network and the tiles, with the memory plan applied.
        train_sets: Tiles that may train, per model: of every outer fold, and of the final one.
        memory: The plan.
        budget_s: About how long the timing may take, seconds.

    Returns:
        Numbers, hours, room and prices.
    """
    work = count_work(bench, train_sets)
    trial = trial_model(bench)
    if memory.checkpointing:
        trial.recompute()
    rows = np.flatnonzero(np.any(np.stack(train_sets), axis=0))
    timed = time_steps(bench, trial, rows, memory.micro_batch, budget_s)
    n_prefix, prefix_bytes, notes = 0, 0, []
    if trial.prefix is not None:
        n_prefix = work.n_tiles * min(bench.n_views, bench.config.loop.epochs)
        halved = bench.config.prefix.storage != "fp32" and bench.number_type != torch.float64
        prefix_bytes = trial.taken(bench.pixels.blank()).numel() * (2 if halved else 4)
        notes.append("What was kept of the frozen blocks before is free; here all of it counts as missing.")
    batch_size = bench.config.loop.batch_size
    if timed.n_timed < batch_size:
        notes.append(f"A step of {batch_size} tiles takes long here: timed with {timed.n_timed}, and scaled.")
    notes.append("Embedding (histotune embed --estimate) and the probes come on top.")
    notes.append("A set whose probe is kept is not refitted, and one with too few groups is not trained at all.")
    return TuningEstimate(work, timed, memory, n_prefix, prefix_bytes, tuple(notes), machine_prices())


def count_work(bench: TuningBench, train_sets: Sequence[Bools]) -> TuningWork:
    """Count trainings, steps and scored tiles of a fine-tuning, as ``tuning.tune_set`` will do them.

    Args:
        bench: The tiles and the settings.
        train_sets: Tiles that may train, per model.

    Returns:
        The numbers.
    """
    loop, n_tried = bench.config.loop, n_candidates(bench.config)
    n_trials = n_refits = n_trial_steps = n_refit_steps = n_scored = 0
    for train_N in train_sets:
        parts, _ = tuning_parts(bench, train_N)
        n_trials += n_tried * len(parts)
        for part in parts:
            n_trial_steps += n_tried * _steps(int(part.train_N.sum()), bench)
            n_scored += n_tried * (loop.epochs + 1) * len(part.rows)
        if len(parts) > 1:  # of a hold-out the judged weights are returned
            n_refits += 1
            n_refit_steps += _steps(int(train_N.sum()), bench)
    n_tiles = int(np.any(np.stack(train_sets), axis=0).sum())
    return TuningWork(len(train_sets), n_trials, n_refits, n_trial_steps, n_refit_steps, n_scored, n_tiles)


def n_candidates(config: FinetuneConfig) -> int:
    """Return how many settings are tried on every training set; a search may stop some of them early."""
    return config.search.n_trials if config.search is not None else len(config.rates) or 1


def _steps(n_tiles: int, bench: TuningBench) -> int:
    loop = bench.config.loop
    return loop.epochs * math.ceil(n_tiles / loop.batch_size)


# ---- Timing ----


@dataclass(frozen=True)
class _Timer:
    """A model that takes steps on real tiles.

    Attributes:
        bench: The tiles.
        trial: The model; its weights stay as they are.
        rows: Tiles to show it.
        micro_batch: Tiles per forward pass.
    """

    bench: TuningBench
    trial: TrialModel
    rows: Int
    micro_batch: int

    def seconds(self, work: Callable[[int], None], n_tiles: int) -> float:
        """Return the time of some work on some tiles."""
        start = time.perf_counter()
        work(n_tiles)
        if self.bench.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def step(self, n_tiles: int) -> None:
        """Take a step of rate 0; what the frozen blocks make of a tile is at hand, pixels are read."""
        trained = [one for one in self.trial.model.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=0.0)
        for start in range(0, n_tiles, self.micro_batch):
            x = self._inputs(min(self.micro_batch, n_tiles - start))
            self.trial.loss(x).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def score(self, n_tiles: int) -> None:
        """Compute logits."""
        with torch.no_grad(), autocast(self.bench.device, self.trial.product_type):
            self.trial.model(self._inputs(n_tiles))

    def freeze(self, n_tiles: int) -> None:
        """Read tiles, vary them and run the frozen blocks."""
        self.trial.taken(self._pixels(n_tiles))

    def _inputs(self, n_tiles: int) -> torch.Tensor:
        if self.trial.prefix is None:
            return self._pixels(n_tiles)
        blank = self.trial.taken(self.bench.pixels.blank())
        return blank.expand(n_tiles, *blank.shape[1:]).contiguous()

    def _pixels(self, n_tiles: int) -> torch.Tensor:
        return self.bench.pixels.tensor(np.resize(self.rows, n_tiles), 1)


def time_steps(bench: TuningBench, trial: TrialModel, rows: Int, micro_batch: int, budget_s: float) -> TimedSteps:
    """Time steps, scoring and frozen blocks, one after another.

    Args:
        bench: The tiles.
        trial: The model.
        rows: Tiles to show it, those that train.
        micro_batch: Tiles per forward pass.
        budget_s: About how long it may take, seconds; at least three steps are timed.

    Returns:
        Seconds of each.
    """
    timer, batch_size = _Timer(bench, trial, rows, micro_batch), bench.config.loop.batch_size
    n_tiles = _size(timer, batch_size, min(LONG_S, budget_s / MIN_TIMED))
    steps_s: list[float] = []
    while len(steps_s) < MIN_TIMED or (len(steps_s) < MAX_TIMED and sum(steps_s) < budget_s):
        steps_s.append(timer.seconds(timer.step, n_tiles))
    shown = min(n_tiles, micro_batch)
    scored_s = min(timer.seconds(timer.score, shown) for _ in range(2)) / shown
    prefix_s = 0.0 if trial.prefix is None else timer.seconds(timer.freeze, shown) / shown
    scale = batch_size / n_tiles
    return TimedSteps(tuple(scale * one for one in steps_s), n_tiles, scored_s, prefix_s, find_device().name)


def _size(timer: _Timer, most: int, long_s: float) -> int:
    """Return how many tiles a timed step takes: a whole batch, or fewer where that takes long."""
    sizes = accumulate(range(most.bit_length()), lambda size, _: min(2 * size, most), initial=1)
    for n_tiles in sizes:
        if n_tiles == most or 2 * timer.seconds(timer.step, n_tiles) > long_s:
            return n_tiles
    return most
