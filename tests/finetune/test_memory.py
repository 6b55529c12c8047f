"""Bytes are counted right, a plan fits its limit, and what can't fit is refused in one message."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import pytest
import torch

from histotune.finetune import memory
from histotune.finetune.config import FinetuneConfig, LoopConfig, gib_of
from histotune.finetune.footprint import ByteLine, ParameterBytes, count_parameters, count_saved, trial_model
from histotune.finetune.memory import (
    GIB,
    USED_SHARE,
    CardMeter,
    CountedMeter,
    How,
    MemoryPlan,
    apply_plan,
    choose,
    memory_limit,
    meter_of,
    plan_memory,
)
from histotune.finetune.methods import MethodChoice
from histotune.finetune.workbench import TunedTiles
from histotune.tools.errors import UserError
from histotune.tools.provenance import memory_gib
from tests.finetune.small_benches import DEPTH, DIM, small_bench, small_tiles

FULL = MethodChoice("full")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> TunedTiles:
    """Return noise tiles and a ViT of six blocks."""
    return small_tiles(tmp_path_factory.mktemp("tiles"))


def counted(tiles: TunedTiles, method: str) -> CountedMeter:
    meter = meter_of(small_bench(tiles, method__name=method))
    assert isinstance(meter, CountedMeter)
    return meter


# ---- Counting ----


def test_weights_gradients_and_moments_are_counted_to_the_byte() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 3).double())
    network[0].requires_grad_(False)
    buffers = 4 * 2 * 20 + 8  # mean and variance of the norm, and its counter
    weights = 4 * (10 * 20 + 20) + 4 * (2 * 20) + 8 * (20 * 3 + 3) + buffers
    trained = 4 * (2 * 20) + 8 * (20 * 3 + 3)
    assert count_parameters(network) == ParameterBytes(weights, trained, 2 * trained)


def test_moments_are_those_that_adamw_keeps() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(3, 6)).sum().backward()
    gradients = sum(one.grad.nbytes for one in network.parameters() if one.grad is not None)
    optimiser.step()
    moments = sum(held[name].nbytes for held in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq"))
    found = count_parameters(network)
    assert (found.gradients, found.moments) == (gradients, moments)


def test_a_linear_layer_and_gelu_keep_the_input_and_what_goes_into_gelu() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(30, 50), torch.nn.GELU())
    found = [count_saved(network, (), torch.ones(n, 30), lambda x: network(x).sum()).total for n in (1, 2, 4)]
    per_tile = 4 * (30 + 50)
    assert found == [per_tile, 2 * per_tile, 4 * per_tile]
    assert ByteLine.through(found[0], found[1]) == ByteLine(0, per_tile)


def test_a_storage_counts_once_and_parameters_do_not() -> None:
    layer = torch.nn.Linear(8, 8)

    def loss(x: torch.Tensor) -> torch.Tensor:
        y = layer(x)
        return (y * y.view(2, 4, 2).reshape(2, 8)).sum()  # one storage, kept twice

    assert count_saved(layer, (), torch.ones(2, 8), loss).total == 4 * (2 * 8 + 2 * 8)


def test_activations_grow_along_the_line_of_one_and_two_tiles(tiles: TunedTiles) -> None:
    for method in ("full", "lora", "last-blocks"):
        bench = small_bench(tiles, method__name=method)
        trial = trial_model(bench)
        found = {n: memory._saved(bench, trial, n).total for n in (1, 2, 4)}
        assert ByteLine.through(found[1], found[2]).at(4) == pytest.approx(found[4], rel=0.02)


def test_checkpointing_keeps_less_of_every_tile(tiles: TunedTiles) -> None:
    meter = counted(tiles, "full")
    # of every block its input stays, and one block is computed again: two sevenths at the very most
    assert meter.checkpointed.per_tile < meter.plain.per_tile * 2 / 7
    assert meter.peak(32, True) < meter.peak(32, False)


def test_only_what_trains_has_gradients_and_moments(tiles: TunedTiles) -> None:
    head = 4 * (2 * DIM + 1)  # one logit on the class token and the mean of the patches
    lora = counted(tiles, "lora").parameters
    assert lora.gradients == 4 * DEPTH * (16 * DIM + 3 * DIM * 16) + head  # A and B on the fused query, key and value
    assert lora.moments == 2 * lora.gradients
    full, norm = counted(tiles, "full").parameters, counted(tiles, "norm").parameters
    assert norm.gradients == 4 * (2 * DEPTH + 1) * 2 * DIM + head
    assert lora.gradients < full.gradients < full.weights


def test_a_frozen_prefix_keeps_no_activations(tiles: TunedTiles) -> None:
    last, full = counted(tiles, "last-blocks"), counted(tiles, "full")
    assert last.plain.per_tile < full.plain.per_tile / (DEPTH - 1)


# ---- The choice ----


@dataclass(frozen=True)
class Weighed:
    """A step of 100 bytes, and 10 more for a tile; 2 with checkpointing."""

    parameters: ParameterBytes = ParameterBytes(60, 20, 20)  # noqa: RUF009  (frozen)

    @property
    def how(self) -> How:
        return "measured"

    def peak(self, n_tiles: int, checkpointing: bool) -> float:
        return 100 + n_tiles * (2 if checkpointing else 10)


@pytest.mark.parametrize(
    ("allowed", "micro_batch", "checkpointing"),
    [
        (1000, 32, False),  # the whole batch
        (100 + 319, 16, False),  # 31 would fit: two times 16 are as few passes
        (180, 8, False),
        (179, 32, True),  # seven would fit without
        (100 + 2 * 12, 11, True),  # three passes of 11
        (102, 1, True),
    ],
)
def test_the_largest_micro_batch_that_fits_is_taken(allowed: int, micro_batch: int, checkpointing: bool) -> None:
    found = choose(Weighed(), LoopConfig(), allowed)
    assert found is not None
    assert (found.micro_batch, found.checkpointing) == (micro_batch, checkpointing)
    assert found.per_tile == (2 if checkpointing else 10)


def test_what_is_set_is_kept() -> None:
    def chosen(allowed: int, **loop: object) -> tuple[int, bool] | None:
        found = choose(Weighed(), LoopConfig.model_validate(loop), allowed)
        return None if found is None else (found.micro_batch, found.checkpointing)

    assert chosen(1000, micro_batch=3) == (3, False)
    assert chosen(110, micro_batch=3) == (3, True)
    assert chosen(105, micro_batch=3) is None
    assert chosen(1000, checkpointing=True) == (32, True)
    assert chosen(1000, batch_size=4) == (4, False)
    assert chosen(101) is None


def test_a_plan_between_one_tile_and_the_batch_fits_its_limit(tiles: TunedTiles) -> None:
    meter = counted(tiles, "full")
    limit_bytes = math.ceil(meter.peak(11, False) / USED_SHARE)
    bench = small_bench(tiles, method__name="full", fit=f"{limit_bytes / 1024:.3f} KiB")
    plan = plan_memory(bench)
    assert (plan.micro_batch, plan.n_accumulate, plan.checkpointing) == (11, 3, False)
    assert plan.total_gib <= USED_SHARE * plan.limit_gib < meter.peak(12, False) / GIB
    assert (plan.how, plan.precision) == ("computed, not measured", "fp32")
    assert plan.weights_gib == pytest.approx(meter.parameters.weights / GIB)
    # gradients, two moments, and on a CPU the start and the best weights beside them
    assert plan.gradients_gib == pytest.approx(5 * meter.parameters.gradients / GIB)
    assert plan.activations_gib == pytest.approx(meter.plain.per_tile / GIB)
    little = small_bench(tiles, method__name="full", fit=f"{meter.peak(5, False) / USED_SHARE / 1024:.3f} KiB")
    assert plan_memory(little).checkpointing


def test_processes_that_share_a_batch_plan_for_their_share_and_the_gradients_they_send(
    tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = counted(tiles, "full").parameters
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    shared = counted(tiles, "full").parameters
    assert shared.copies - alone.copies == alone.gradients == shared.gradients  # DistributedDataParallel's buckets
    assert shared.total - alone.total == alone.gradients
    plan = plan_memory(small_bench(tiles, loop__batch_size=30))
    assert (plan.micro_batch, plan.n_accumulate) == (8, 1)  # 30 tiles among 4 processes


def test_a_search_is_planned_for_the_most_that_it_may_draw(tiles: TunedTiles) -> None:
    space = {"lr": [1e-4, 1e-2], "n_blocks": [1, 4], "rank": [2, 8]}
    searched: dict[str, object] = {"search": {"space": space}, "method": {"name": "lora", "rank": 4, "n_blocks": 1}}
    most = {"method": {"name": "lora", "rank": 8, "n_blocks": 4}}
    plan = plan_memory(small_bench(tiles, **searched))
    assert plan == plan_memory(small_bench(tiles, **most))
    own = plan_memory(small_bench(tiles, method=searched["method"]))
    assert plan.total_gib > own.total_gib and plan.gradients_gib > own.gradients_gib
    limit_gib = meter_of(small_bench(tiles, method=searched["method"])).peak(1, True) / GIB / USED_SHARE
    with pytest.raises(UserError, match="the most that the search may draw: 4 blocks, rank 8") as caught:
        plan_memory(small_bench(tiles, **searched, fit=f"{1.01 * 1024**2 * limit_gib:.3f}KiB"))
    fix = "--set finetune.search.space.n_blocks=null --set finetune.search.space.rank=null"
    assert fix in str(caught.value.fix)


def test_a_plan_is_applied_and_said_once(tiles: TunedTiles, caplog: pytest.LogCaptureFixture) -> None:
    bench = small_bench(tiles)
    with caplog.at_level(logging.INFO, "histotune"):
        plan = apply_plan(bench)
    assert bench.config.loop.micro_batch == plan.micro_batch == 32
    (said,) = [record.message for record in caplog.records if "memory" in record.message]
    assert said == f"memory: {plan.words}"
    assert "computed, not measured" in said and "micro-batches of 32" in said and "fp32" in said
    assert bench.config.choices() == small_bench(tiles).config.choices()


def test_a_plan_shows_what_takes_how_much() -> None:
    plan = MemoryPlan(8, 4, True, "fp16", 1.5, 0.25, 0.01, 3.0, 13.97, "measured")
    (table,) = plan.tables()
    assert dict(row.texts for row in table.rows) == {
        "weights": "1.5 GiB", "gradients, moments and copies of what trains": "256.0 MiB",
        "activations, per tile": "10.2 MiB", "a step with micro-batches of 8": "3.0 GiB", "limit": "14.0 GiB",
    }  # fmt: skip
    assert plan.words == (
        "a step takes 3.0 GiB of 14.0 GiB (measured): micro-batches of 8, 4 to a step, in fp16, with blocks computed "
        "again in the backward pass"
    )


# ---- Limits and refusals ----


def test_not_even_one_tile_is_one_message_that_says_what_fits(tiles: TunedTiles) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiles.cache.rglob("*")}
    fitting = counted(tiles, "norm").peak(1, True)
    assert fitting < counted(tiles, "full").peak(1, True)
    bench = small_bench(tiles, method__name="full", fit=f"{1.02 * fitting / USED_SHARE / 1024:.3f}KiB")
    with pytest.raises(UserError, match="not even one tile of small fits under full: the least is") as caught:
        plan_memory(bench)
    assert "--method norm (" in str(caught.value.fix)
    assert "gradients and moments" in caught.value.what
    with pytest.raises(UserError, match="not even one tile") as caught:
        plan_memory(small_bench(tiles, method__name="full", fit="10kB"))
    assert "choose a smaller --backbone, since every other method takes" in str(caught.value.fix)
    with pytest.raises(UserError, match="no micro-batch of 20 tiles") as caught:
        plan_memory(small_bench(tiles, method__name="full", fit="10kB", loop__micro_batch=20))
    assert "leave out finetune.loop.micro_batch" in str(caught.value.fix)
    assert {path: path.stat().st_mtime_ns for path in tiles.cache.rglob("*")} == before


def test_without_a_limit_half_of_the_machine_is_taken(tiles: TunedTiles) -> None:
    cpu = torch.device("cpu")
    assert memory_limit(FinetuneConfig(), cpu) == memory_gib() / 2
    assert memory_limit(FinetuneConfig(fit="100 TB"), cpu) > memory_gib()  # a plan for another machine


@pytest.mark.parametrize(
    ("text", "size_gib"),
    [("15GB", 15e9 / 2**30), ("15GiB", 15), ("14.5 GB", 14.5e9 / 2**30), (" 512 mib ", 0.5), ("1TiB", 1024)],
)
def test_sizes_are_read(text: str, size_gib: float) -> None:
    assert gib_of(text) == pytest.approx(size_gib)
    assert FinetuneConfig(fit=text).fit == text


@pytest.mark.parametrize("text", ["15", "GB", "", "-3GB", "0GB", "15 Gb/s", "1,5GB", "nanGB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="no amount of memory") as caught:
        FinetuneConfig(fit=text)
    assert "15GB" in str(caught.value.allowed)


# ---- On a card ----


@dataclass
class Card:
    """Stands for torch.cuda: one tile allocates 7 bytes, and four do not fit."""

    shown: int = 0
    n_resets: int = 0

    def taken(self, bench: object, trial: object, n_tiles: int) -> torch.Tensor:
        self.shown = n_tiles
        if n_tiles == 4:
            raise torch.OutOfMemoryError("no")
        return torch.zeros(min(n_tiles, 2), 3, 32, 32)

    def reset(self) -> None:
        self.n_resets += 1

    def allocated(self) -> int:
        return 7 * self.shown if self.shown != memory.SCORED_AT_ONCE else 0


def test_a_card_is_asked_by_taking_two_steps(tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", card.reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", card.allocated)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(memory, "_blank_batch", card.taken)
    meter = CardMeter(small_bench(tiles, method__name="full"), FULL, ParameterBytes(0, 0, 0))
    assert [meter.peak(n, False) for n in (1, 2, 4, 1)] == [7, 14, math.inf, 7]
    assert card.n_resets == 4  # the second step of each is what counts, and what is known is not measured again
    assert meter.peak(2, True) == 14
    assert list(meter.trials) == [True]
    found = choose(meter, LoopConfig(batch_size=8), 30)
    assert found is not None
    assert (found.micro_batch, found.per_tile) == (3, 7)
