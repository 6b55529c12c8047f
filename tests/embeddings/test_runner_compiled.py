"""Compiled rows live in a space of their own, and a run finds it by what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.backbones import engine
from histotune.backbones.catalog import colour_histogram, find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.spec import ColumnBlock
from histotune.embeddings.embed import embed
from histotune.embeddings.estimate import request_space, tile_contents
from histotune.embeddings.runner import chosen_space, compiled_space, is_compiled
from histotune.embeddings.space import EmbeddingSpace, EmbedRequest, embedding_space
from histotune.embeddings.store import RunFacts, ShardPlan, Store
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError
from histotune.tools.ranks import ProcessRank
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]
CPU = ComputeDevice("cpu", "", "", float("nan"), fast_bf16=False)
T4 = ComputeDevice("cuda", "Tesla T4", "7.5", 15.0, fast_bf16=False)


def keys(n: int, first: int = 0) -> tuple[str, ...]:
    return tuple(f"{number:064x}" for number in range(first, first + n))


def hold(request: EmbedRequest, space: EmbeddingSpace, content: tuple[str, ...]) -> None:
    """Write rows for some content into a space."""
    plan = ShardPlan(content, len(content))
    facts = RunFacts((ColumnBlock("pooled", 0, 2),), plan.batch_sizes, 0, 1)
    Store(request.cache, space).write_shard(plan, np.zeros((len(content), 2), np.float32), facts)


@pytest.fixture
def network(request_for: Requests) -> EmbedRequest:
    return request_for(find_backbone(BackboneConfig(name="random/timm/resnet10t")), size_px=32)


@pytest.fixture
def plain(network: EmbedRequest) -> EmbeddingSpace:
    return embedding_space(network.spec, network.view, T4, "fp32")


def test_long_runs_on_a_gpu_are_compiled(network: EmbedRequest, plain: EmbeddingSpace) -> None:
    compiled = compiled_space(plain)
    assert compiled.key != plain.key and is_compiled(compiled) and not is_compiled(plain)
    assert compiled.compatibility_key == plain.compatibility_key  # heads are carried between them
    assert chosen_space(network, T4, plain, keys(20_001)) == compiled
    assert chosen_space(network, T4, plain, keys(20_000)) == plain
    assert chosen_space(network, CPU, plain, keys(20_001)) == plain
    assert not network.cache.exists()


def test_several_processes_compile_only_for_what_is_compiled(network: EmbedRequest, plain: EmbeddingSpace) -> None:
    ranked = replace(network, rank=ProcessRank(1, 2, 1))
    assert chosen_space(ranked, T4, plain, keys(20_001)) == plain  # they would have to find the same, each alone
    hold(network, compiled_space(plain), keys(100))
    assert chosen_space(ranked, T4, plain, keys(100)) == compiled_space(plain)
    assert chosen_space(ranked, T4, plain, keys(110)) == plain


def test_a_rank_that_can_not_compile_stops(
    tmp_path: Path, network: EmbedRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise engine.CompilationError("no compiler")

    monkeypatch.setattr(engine.Engine, "compile", fail)
    wish = network.embedding.model_copy(update={"compile": "on", "wait_s": 0.1})
    request = replace(network, embedding=wish, rank=ProcessRank(0, 2, 0))
    with pytest.raises(UserError, match=r"(?s)torch.compile failed on rank 0 of 2.*embedding.compile=off"):
        embed(write_tiles(tmp_path / "tiles", 5), request)


def test_a_wish_is_obeyed(network: EmbedRequest, plain: EmbeddingSpace) -> None:
    def wish(value: str) -> EmbedRequest:
        return replace(network, embedding=network.embedding.model_copy(update={"compile": value}))

    assert chosen_space(wish("off"), T4, plain, keys(20_001)) == plain
    assert chosen_space(wish("on"), CPU, plain, keys(3)) == compiled_space(plain)
    assert chosen_space(replace(wish("on"), spec=colour_histogram()), CPU, plain, keys(3)) == plain


def test_what_the_spaces_hold_decides(
    network: EmbedRequest, plain: EmbeddingSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.embeddings.runner.COMPILE_TILES", 20)  # compiling costs as much as 4 tiles
    compiled = compiled_space(plain)
    hold(network, compiled, keys(100))
    assert chosen_space(network, T4, plain, keys(100)) == compiled  # a warm run
    assert chosen_space(network, T4, plain, keys(110)) == compiled  # ten more tiles
    assert chosen_space(network, T4, plain, keys(10, first=200)) == plain  # another small data set
    assert chosen_space(network, T4, plain, keys(3)) == compiled
    hold(network, plain, keys(10, first=200))
    assert chosen_space(network, T4, plain, keys(10, first=200)) == plain
    hold(network, plain, keys(100))
    assert chosen_space(network, T4, plain, keys(100)) == plain  # both hold everything


def test_a_compiled_run_is_cold_once(tmp_path: Path, network: EmbedRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(engine, "COMPILER", "eager")
    tiles = write_tiles(tmp_path / "tiles", 5)
    plain = embed(tiles, network)
    compiled = replace(network, embedding=network.embedding.model_copy(update={"compile": "on"}))
    cold, warm = embed(tiles, compiled), embed(tiles, compiled)
    assert (plain.n_computed, cold.n_computed, warm.n_computed) == (5, 5, 0)
    assert is_compiled(cold.space) and cold.space.key == warm.space.key != plain.space.key
    np.testing.assert_allclose(cold.matrix_ND, plain.matrix_ND, rtol=1e-4, atol=1e-5)
    found = request_space(compiled, tile_contents(tiles, network.cache, network.loader))
    assert found.key == cold.space.key


def test_where_compilation_fails_the_run_goes_on_and_says_so(
    tmp_path: Path, network: EmbedRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise OSError("no C++ compiler")

    torch.compiler.reset()
    monkeypatch.setattr(engine, "COMPILER", broken)
    tiles = write_tiles(tmp_path / "tiles", 5)
    wish = replace(network, embedding=network.embedding.model_copy(update={"compile": "on"}))
    result = embed(tiles, wish)
    assert result.n_computed == 5 and not is_compiled(result.space)
    assert "the network can't be compiled here, going on without" in caplog.text and "no C++ compiler" in caplog.text
    assert "not compiled: BackendCompilerFailed" in result.precision_reason
    abandoned = Store(network.cache, compiled_space(result.space))
    assert abandoned.read_plan() == () and not (abandoned.folder / "space.json").exists()
