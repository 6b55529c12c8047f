"""How much memory a training step takes, and the micro-batch, checkpointing and precision that fit.

On a card the largest micro-batch is found by taking steps; elsewhere, bytes are counted and the plan says so. A plan
changes how a step is computed, not what it computes: gradients of micro-batches add up.
"""

# B batch, C channels, S side of the input

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from histotune.finetune.config import gib_of
from histotune.finetune.footprint import (
    ByteLine,
    ParameterBytes,
    SavedBytes,
    TrialModel,
    count_parameters,
    count_saved,
    trial_model,
)
from histotune.finetune.loop import SCORED_AT_ONCE, n_ranks
from histotune.finetune.methods import MethodChoice
from histotune.finetune.workbench import chosen_method, largest_method
from histotune.tools.devices import find_device, out_of_memory
from histotune.tools.errors import UserError
from histotune.tools.provenance import memory_gib
from histotune.tools.table import ShownAsTables, Table, columns_of, rows_of

if TYPE_CHECKING:
    from histotune.finetune.config import FinetuneConfig, LoopConfig
    from histotune.finetune.workbench import TuningBench


LOG = logging.getLogger(__name__)
How = Literal["measured", "computed, not measured"]
USED_SHARE = 0.9  # of the limit: what the allocator and the libraries take besides is not known beforehand
CPU_SHARE = 0.5  # of a machine's memory, where there is no card
KEPT_WEIGHTS = 2  # copies of what trains that a training keeps in the machine's memory: the start and the best so far
ENOUGH_TILES = 8  # fewer in a micro-batch, and checkpointing is the smaller loss of time
SMALL_RANK = 4
GIB = 2**30
PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class MemoryPlan(ShownAsTables):
    """How a training step fits into memory.

    Attributes:
        micro_batch: Tiles per forward pass.
        n_accumulate: Forward passes whose gradients make one step.
        checkpointing: Whether blocks keep their inputs alone and are computed again.
        precision: Of the matrix products.
        weights_gib: The model's weights, and those of the frozen blocks beside it.
        gradients_gib: Gradients, the optimiser's two moments, and further copies of what trains.
        activations_gib: What one tile adds.
        total_gib: A whole step at the micro-batch, or the scoring of tiles where that takes more.
        limit_gib: What may be taken.
        how: Whether the total was measured on the card.
    """

    micro_batch: int
    n_accumulate: int
    checkpointing: bool
    precision: str
    weights_gib: float
    gradients_gib: float
    activations_gib: float
    total_gib: float
    limit_gib: float
    how: How

    @property
    def words(self) -> str:
        """The plan in one sentence."""
        several = f", {self.n_accumulate} to a step" if self.n_accumulate > 1 else ", which is the whole step"
        kept = ", with blocks computed again in the backward pass" if self.checkpointing else ""
        total = f"{size_words(self.total_gib)} of {size_words(self.limit_gib)} ({self.how})"
        return f"a step takes {total}: micro-batches of {self.micro_batch}{several}, in {self.precision}{kept}"

    def tables(self) -> tuple[Table, ...]:
        """Return what takes how much, and what was chosen."""
        rows = (
            ("weights", size_words(self.weights_gib)),
            ("gradients, moments and copies of what trains", size_words(self.gradients_gib)),
            ("activations, per tile", size_words(self.activations_gib)),
            (f"a step with micro-batches of {self.micro_batch}", size_words(self.total_gib)),
            ("limit", size_words(self.limit_gib)),
        )
        notes = (
            f"{self.words[0].upper()}{self.words[1:]}.",
            f"At most {USED_SHARE:.0%} of the limit are planned for.",
        )
        return (Table(f"Memory ({self.how})", columns_of(("what", "size"), right=("size",)), rows_of(rows), notes),)

    def applied(self, loop: LoopConfig) -> LoopConfig:
        """Return the settings of a loop with the plan's."""
        return loop.model_copy(update={"micro_batch": self.micro_batch, "checkpointing": self.checkpointing})


def size_words(size_gib: float) -> str:
    """Return a size for people.

    Example:
        >>> size_words(13.97), size_words(0.0123)
        ('14.0 GiB', '12.6 MiB')
    """
    return f"{size_gib:.1f} GiB" if size_gib >= 1 else f"{1024 * size_gib:.1f} MiB"


def plan_memory(bench: TuningBench) -> MemoryPlan:
    """Choose micro-batch and checkpointing so that a step fits.

    Where a search varies what moves, a step of the largest method that it may draw fits. Where several processes share
    every batch, a step is that of one process: its share of the tiles.

    Args:
        bench: The frozen network, the tiles and the settings. ``loop.micro_batch`` and ``loop.checkpointing`` are
            kept where they are set.

    Returns:
        The plan: measured on a card, counted elsewhere.

    Raises:
        UserError: Not even one tile fits, or more is asked for than the card has.

    Example:
        >>> plan_memory(bench).words  # doctest: +SKIP
        'a step takes 2.1 GiB of 14.0 GiB (measured): micro-batches of 32, which is the whole step, in fp32'
    """
    limit_gib = memory_limit(bench.config, bench.device)
    meter = meter_of(bench)
    share = math.ceil(bench.config.loop.batch_size / n_ranks())
    loop = bench.config.loop.model_copy(update={"batch_size": share})
    found = choose(meter, loop, USED_SHARE * limit_gib * GIB)
    if found is None:
        raise _refusal(bench, meter, limit_gib)
    parameters = meter.parameters
    return MemoryPlan(
        micro_batch=found.micro_batch,
        n_accumulate=math.ceil(share / found.micro_batch),
        checkpointing=found.checkpointing,
        precision=PRECISIONS[bench.product_type],
        weights_gib=parameters.weights / GIB,
        gradients_gib=(parameters.total - parameters.weights) / GIB,
        activations_gib=found.per_tile / GIB,
        total_gib=meter.peak(found.micro_batch, found.checkpointing) / GIB,
        limit_gib=limit_gib,
        how=meter.how,
    )


def apply_plan(bench: TuningBench, plan: MemoryPlan | None = None) -> MemoryPlan:
    """Let the trainings of a fine-tuning follow a plan; without one it is made, and said."""
    if plan is None:
        plan = plan_memory(bench)
        LOG.info("memory: %s", plan.words)
    bench.config = bench.config.model_copy(update={"loop": plan.applied(bench.config.loop)})
    return plan


def memory_limit(config: FinetuneConfig, device: torch.device) -> float:
    """Return how much memory may be taken, GiB: as asked for, else the card's, else half of the machine's.

    Without a card more may be asked for than there is: the plan is then one for another machine.
    """
    card_gib = find_device().memory_gib if device.type == "cuda" else float("nan")
    if config.fit is None:
        return card_gib if device.type == "cuda" else CPU_SHARE * memory_gib()
    asked_gib = gib_of(config.fit)
    if asked_gib > card_gib:
        raise UserError(
            "more memory is asked for than the card has",
            value=config.fit,
            allowed=f"up to {size_words(card_gib)}",
            fix="leave out --fit",
        )
    return asked_gib


# ---- What a step takes ----


class Meter(Protocol):
    """Says what a training step takes."""

    @property
    def how(self) -> How:
        """Whether it takes the step."""
        ...

    @property
    def parameters(self) -> ParameterBytes:
        """What does not depend on the tiles."""
        ...

    def peak(self, n_tiles: int, checkpointing: bool) -> float:
        """Return the most bytes that are held at once; infinite where they are not there."""
        ...


@dataclass(frozen=True)
class CountedMeter:
    """Counts bytes.

    Attributes:
        parameters: Of the model and the frozen blocks beside it.
        plain: What autograd keeps.
        checkpointed: The same with the inputs of blocks alone, and one block computed again.
        widest: Input and output of the widest layer, whose gradients are there for a moment.
    """

    parameters: ParameterBytes
    plain: ByteLine
    checkpointed: ByteLine
    widest: ByteLine

    @property
    def how(self) -> How:
        """Nothing is measured."""
        return "computed, not measured"

    def peak(self, n_tiles: int, checkpointing: bool) -> float:
        """Return weights, gradients and moments, and the larger of a step's activations and a scoring's."""
        step = (self.checkpointed if checkpointing else self.plain).at(n_tiles) + self.widest.at(n_tiles)
        return self.parameters.total + max(step, self.widest.at(SCORED_AT_ONCE))


@dataclass(frozen=True)
class CardMeter:
    """Takes steps on a card and reads how much was allocated at most.

    Attributes:
        bench: What models are made from.
        choice: What moves in them.
        parameters: Of the model and the frozen blocks beside it.
        trials: The model that takes the steps, by checkpointing; one at a time, lest two are measured.
        known: What was measured, by tiles and checkpointing.
    """

    bench: TuningBench
    choice: MethodChoice
    parameters: ParameterBytes
    trials: dict[bool, TrialModel] = field(default_factory=dict, repr=False)
    known: dict[tuple[int, bool], float] = field(default_factory=dict, repr=False)

    @property
    def how(self) -> How:
        """Everything is measured."""
        return "measured"

    def peak(self, n_tiles: int, checkpointing: bool) -> float:
        """Return the most bytes that a step and a scoring allocate, after a first step that makes the moments.

        The copies that such a step does not make, those of a training among several processes, are added.
        """
        if (n_tiles, checkpointing) not in self.known:
            self.known[n_tiles, checkpointing] = self._tried(n_tiles, checkpointing) + self.parameters.copies
            torch.cuda.empty_cache()
        return self.known[n_tiles, checkpointing]

    def _tried(self, n_tiles: int, checkpointing: bool) -> float:
        try:
            return self._measured(self._trial(checkpointing), n_tiles)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        return math.inf

    def _trial(self, checkpointing: bool) -> TrialModel:
        if checkpointing not in self.trials:
            self.trials.clear()
            trial = trial_model(self.bench, self.choice)
            if checkpointing:
                trial.recompute()
            self.trials[checkpointing] = trial
        self.trials[checkpointing].model.zero_grad(set_to_none=True)  # those of a step that did not fit
        return self.trials[checkpointing]

    def _measured(self, trial: TrialModel, n_tiles: int) -> float:
        trained = [one for one in trial.model.parameters() if one.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=0.0)
        x = _blank_batch(self.bench, trial, n_tiles)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            trial.loss(x).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step = torch.cuda.max_memory_allocated()
        del x
        with torch.no_grad():
            trial.loss(_blank_batch(self.bench, trial, SCORED_AT_ONCE))
        return float(max(step, torch.cuda.max_memory_allocated()))


def meter_of(bench: TuningBench, other: MethodChoice | None = None) -> Meter:
    """Return what says how much a step takes: counted for another method than the config's, or without a card."""
    choice = other or largest_method(bench.config)
    trial, on_cpu = trial_model(bench, choice), bench.device.type == "cpu"
    own, beside = count_parameters(trial.model), 0
    if trial.prefix is not None or on_cpu:
        beside = count_parameters(bench.base.module).weights
    n_copies = (KEPT_WEIGHTS if on_cpu else 0) + (1 if n_ranks() > 1 else 0)
    parameters = ParameterBytes(own.weights + beside, own.gradients, own.moments, n_copies * own.gradients)
    if not on_cpu and other is None:
        return CardMeter(bench, choice, parameters)
    return count_meter(bench, trial, parameters)


def count_meter(bench: TuningBench, trial: TrialModel, parameters: ParameterBytes) -> CountedMeter:
    """Count the activations of one tile and of two, without checkpointing and with it; the trial keeps that."""
    plain = [_saved(bench, trial, n_tiles) for n_tiles in (1, 2)]
    trial.recompute()
    sparse = [_saved(bench, trial, n_tiles) for n_tiles in (1, 2)]
    # While blocks are computed again one of them holds what it would have kept.
    again = [few.total + whole.block for few, whole in zip(sparse, plain, strict=True)]
    return CountedMeter(
        parameters,
        ByteLine.through(*(one.total for one in plain)),
        ByteLine.through(*again),
        ByteLine.through(*(one.widest for one in plain)),
    )


def _saved(bench: TuningBench, trial: TrialModel, n_tiles: int) -> SavedBytes:
    return count_saved(trial.model, trial.blocks, _blank_batch(bench, trial, n_tiles), trial.loss)


def _blank_batch(bench: TuningBench, trial: TrialModel, n_tiles: int) -> torch.Tensor:
    """Return blank inputs of a model, made one by one."""
    one = trial.taken(bench.pixels.blank())
    return one.expand(n_tiles, *one.shape[1:]).contiguous()


# ---- The choice ----


@dataclass(frozen=True)
class FittingBatch:
    """What fits.

    Attributes:
        micro_batch: Tiles per forward pass.
        checkpointing: Whether blocks are computed again.
        per_tile: Bytes that a tile adds.
    """

    micro_batch: int
    checkpointing: bool
    per_tile: float


def choose(meter: Meter, loop: LoopConfig, allowed_bytes: float) -> FittingBatch | None:
    """Return the largest micro-batch that fits, with checkpointing where few tiles fit without; None where none does.

    Args:
        meter: What a step takes.
        loop: Its batch size; a micro-batch and checkpointing that are set are kept.
        allowed_bytes: What may be taken.
    """
    asked = loop.micro_batch
    most, enough = (loop.batch_size, min(ENOUGH_TILES, loop.batch_size)) if asked is None else (asked, asked)
    found: dict[bool, int] = {}
    for checkpointing in (True,) if loop.checkpointing else (False, True):
        n_tiles = _largest(meter, checkpointing, most, allowed_bytes)
        found[checkpointing] = n_tiles if asked is None or n_tiles == asked else 0
        if found[checkpointing] >= enough:
            break
    checkpointing = max(found, key=lambda one: (found[one], not one))
    n_tiles = found[checkpointing]
    if n_tiles == 0:
        return None
    # as even as can be: 20 of 32 tiles fit, two times 16 are taken
    micro_batch = n_tiles if asked is not None else math.ceil(loop.batch_size / math.ceil(loop.batch_size / n_tiles))
    return FittingBatch(micro_batch, checkpointing, _per_tile(meter, checkpointing, micro_batch))


def _largest(meter: Meter, checkpointing: bool, most: int, allowed_bytes: float) -> int:
    """Return the largest number of tiles that fits: doubled while it does, then halved between; 0 where none does."""
    fits, too_many = 0, most + 1
    n_tiles = 1
    while fits + 1 < too_many:
        if meter.peak(n_tiles, checkpointing) <= allowed_bytes:
            fits = n_tiles
        else:
            too_many = n_tiles
        n_tiles = min(2 * fits, most) if too_many > most else (fits + too_many) // 2
    return fits


def _per_tile(meter: Meter, checkpointing: bool, micro_batch: int) -> float:
    """Return what a tile adds, from a step with one tile more or less."""
    if isinstance(meter, CountedMeter):
        return (meter.checkpointed if checkpointing else meter.plain).per_tile
    if micro_batch == 1:
        return max(meter.peak(1, checkpointing) - meter.parameters.total, 0.0)
    return (meter.peak(micro_batch, checkpointing) - meter.peak(1, checkpointing)) / (micro_batch - 1)


# ---- Where nothing fits ----


def _refusal(bench: TuningBench, meter: Meter, limit_gib: float) -> UserError:
    """Say what one tile takes and what would fit instead."""
    loop = bench.config.loop
    n_tiles = loop.micro_batch or 1
    needed_gib = min(meter.peak(n_tiles, checkpointing) for checkpointing in (False, True)) / GIB
    what = "not even one tile" if n_tiles == 1 else f"no micro-batch of {n_tiles} tiles"
    if isinstance(meter, CardMeter):
        meter.trials.clear()  # room for counting others
    needed = f"the least is {size_words(needed_gib)}" if math.isfinite(needed_gib) else "the card's memory ran out"
    own = meter.parameters
    return UserError(
        f"{what} of {bench.of.spec.name} fits under {_method_words(bench.config)}: {needed} with blocks computed "
        f"again, of that weights {size_words(own.weights / GIB)}, gradients and moments "
        f"{size_words((own.total - own.weights) / GIB)} ({meter.how})",
        value=bench.config.fit or size_words(limit_gib),
        allowed=f"{USED_SHARE:.0%} of the limit, {size_words(USED_SHARE * limit_gib)}",
        fix=_what_fits(bench, USED_SHARE * limit_gib * GIB),
    )


def _method_words(config: FinetuneConfig) -> str:
    """Return the name of the method, with the most that a search may draw of it."""
    largest = largest_method(config)
    if largest == chosen_method(config):
        return largest.name
    drawn = f"{largest.n_blocks} blocks" if largest.n_blocks is not None else "all blocks"
    rank = f", rank {largest.rank}" if largest.name in ("lora", "dora") else ""
    return f"{largest.name} (the most that the search may draw: {drawn}{rank})"


def _narrower(config: FinetuneConfig) -> str:
    """Return what keeps a search at the config's own size of the method; empty where nothing else is drawn."""
    varied = {} if config.search is None else config.search.space.varied()
    drawn = [name for name in ("n_blocks", "rank") if name in varied]
    return " ".join(f"--set finetune.search.space.{name}=null" for name in drawn)


def _what_fits(bench: TuningBench, allowed_bytes: float) -> str:
    """Return what to change, with what one tile then takes."""
    loop = bench.config.loop
    if loop.micro_batch is not None and loop.micro_batch > 1:
        return "leave out finetune.loop.micro_batch: the largest that fits is taken"
    own = chosen_method(bench.config)
    narrower = _narrower(bench.config)
    offers = {words: own for words in (narrower,) if words} | {
        f"--method lora --set finetune.method.rank={SMALL_RANK}": MethodChoice("lora", None, SMALL_RANK),
        "--method last-blocks --set finetune.method.n_blocks=1": MethodChoice("last-blocks", 1),
        "--method norm": MethodChoice("norm"),
    }
    fitting, least = [], math.inf
    for words, choice in offers.items():
        if choice == own and words != narrower:
            continue
        try:
            taken = meter_of(bench, choice).peak(1, True)
        except UserError:  # a method that this network does not take
            continue
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            continue
        least = min(least, taken)
        if taken <= allowed_bytes:
            fitting.append(f"{words} ({size_words(taken / GIB)})")
    if fitting:
        return " or ".join(fitting)
    least_words = f", since every other method takes {size_words(least / GIB)} or more" if math.isfinite(least) else ""
    return f"choose a smaller --backbone{least_words}"
