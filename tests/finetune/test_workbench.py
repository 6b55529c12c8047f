"""Every start is the probe; tokens are computed once for all of them; what is not kept is computed from pixels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from histotune.backbones.catalog import colour_histogram
from histotune.embeddings.store import Store
from histotune.finetune import workbench
from histotune.finetune.batches import PixelInputs
from histotune.finetune.config import FinetuneConfig, TrialSettings
from histotune.finetune.cut import Prefix
from histotune.finetune.loop import tile_logits, train
from histotune.finetune.methods import MethodChoice, Trainable, make_trainable
from histotune.finetune.prefix import PrefixTokens
from histotune.finetune.workbench import TunedTiles, TuningBench, chosen_method
from histotune.heads.head import calibrated_logits, head_logits
from histotune.tools.errors import UserError
from tests.finetune.families import FAMILIES
from tests.finetune.toys import bench_of, probe_of, task_of, tuned_tiles, weights_of

LOOP = {"precision": "fp32", "epochs": 1, "batch_size": 4}
VARIED, WHOLE = {"stain": 0.2, "blur": 1.0}, {"storage": "fp32"}
METHODS = ["lora", "dora", "last-blocks", "full", "norm", "none"]


@pytest.fixture
def tiles(tmp_path: Path) -> TunedTiles:
    return tuned_tiles(FAMILIES["timm-vit"].spec, tmp_path)


def all_rows(tiles: TunedTiles) -> np.ndarray:
    return np.arange(len(tiles.tiles))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_method_starts_at_the_probe(tiles: TunedTiles, method: str, checkpointing: bool) -> None:
    probe = probe_of(tiles.embeddings)
    bench = bench_of(tiles, {"method": {"name": method, "rank": 2}, "loop": {**LOOP, "checkpointing": checkpointing}})
    start = bench.start(probe)
    wanted_NK = calibrated_logits(probe.calibration, head_logits(probe, tiles.embeddings))
    np.testing.assert_allclose(tile_logits(start.model, start.inputs, all_rows(tiles)), wanted_NK, atol=1e-3)
    moving = {name for name, one in start.model.named_parameters() if one.requires_grad}
    assert moving == {"weight", "bias", *(f"backbone.{name}" for name in start.trainable.names)}
    head = start.model.head()
    np.testing.assert_allclose(head.weight_KD, probe.weight_KD / probe.calibration.temperature, rtol=1e-5, atol=1e-6)


def test_tokens_are_shared_between_starts(tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = Prefix._input

    def counted(self: Prefix, x_BCSS: torch.Tensor) -> torch.Tensor:
        seen.append(len(x_BCSS))
        return run(self, x_BCSS)

    monkeypatch.setattr(Prefix, "_input", counted)
    bench = bench_of(tiles, {"loop": LOOP, "views": 3})
    first = task_of(bench, probe_of(tiles.embeddings))
    n_seen = len(seen)
    second = task_of(bench, probe_of(tiles.embeddings))
    assert first.inputs is second.inputs
    assert len(seen) == n_seen > 0
    assert first.model.backbone is not second.model.backbone
    train(first, bench.config.loop)
    third = bench.start(probe_of(tiles.embeddings))
    assert all(torch.equal(one, weights_of(second.model)[name]) for name, one in weights_of(third.model).items())
    other = task_of(bench_of(tiles, {"loop": LOOP, "views": 3}), probe_of(tiles.embeddings))
    assert len(seen) == n_seen + 1  # the blank image that tells the shape of tokens
    train(other, bench.config.loop)
    assert all(torch.equal(one, weights_of(first.model)[name]) for name, one in weights_of(other.model).items())


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({}, True),
        ({"prefix": {"storage": "off"}}, False),
        ({"views": 0}, False),
        ({"views": 0, "augment": {"dihedral": False, "stain": 0.0}}, True),
        ({"method": {"name": "full"}}, False),
        ({"method": {"name": "lora"}}, False),
        ({"method": {"name": "lora", "n_blocks": 1}}, True),
        ({"method": {"name": "none"}}, False),
    ],
)
def test_tokens_are_kept_where_blocks_are_frozen(tiles: TunedTiles, config: dict[str, object], kept: bool) -> None:
    bench = bench_of(tiles, {"loop": LOOP, **config})
    start = bench.start(probe_of(tiles.embeddings))
    assert isinstance(start.inputs, PrefixTokens if kept else PixelInputs)
    assert (bench.prepare(start.inputs, all_rows(tiles)[:5], all_rows(tiles)[5:]) == 0) or kept


def test_every_strength_of_an_augmentation_has_tokens_of_its_own(tiles: TunedTiles) -> None:
    rows, probe, found = all_rows(tiles), probe_of(tiles.embeddings), {}
    config: dict[str, object] = {"loop": {**LOOP, "epochs": 2}, "views": 2, "augment": VARIED, "prefix": WHOLE}
    first = bench_of(tiles, config)
    for strength in (1.0, 0.5, 0.0, 1.0):
        settings = TrialSettings.of(first.config).model_copy(update={"augmentation": strength})
        bench = first.with_config(settings.applied(first.config))
        start = bench.start(probe)
        bench.prepare(start.inputs, rows, rows[:0])
        own = start.inputs.tensor(rows, 1)
        torch.testing.assert_close(own, Prefix(bench.base, "blocks.2")(bench.pixels.tensor(rows, 1)))
        assert torch.equal(start.inputs.tensor(rows, 0), first.start(probe).inputs.tensor(rows, 0))
        assert torch.equal(found.setdefault(strength, own), own)
        again = bench_of(tiles, {**config, "augment": bench.config.augment.model_dump()})
        assert torch.equal(again.start(probe).inputs.tensor(rows, 1), own)  # from the disk
    assert len(found) == 3 and not torch.equal(found[1.0], found[0.5]) and not torch.equal(found[0.5], found[0.0])


@pytest.mark.parametrize("method", ["last-blocks", "lora", "dora"])
def test_a_second_start_copies_the_first_and_asks_the_network_nothing_more(
    tiles: TunedTiles, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noting(*given: object) -> Trainable:
        asked.append(method)
        return make_trainable(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(workbench, "make_trainable", noting)
    bench = bench_of(tiles, {"method": {"name": method, "n_blocks": 1, "rank": 2}, "loop": LOOP, "views": 1})
    probe = probe_of(tiles.embeddings)
    first = task_of(bench, probe)
    start = weights_of(first.model)
    train(first, bench.config.loop)
    second = task_of(bench, probe)
    assert len(asked) == 1 and second.rate_of == first.rate_of and second.inputs is first.inputs
    assert weights_of(second.model).keys() == start.keys()
    assert all(torch.equal(one, start[name]) for name, one in weights_of(second.model).items())
    train(second, bench.config.loop)
    assert all(torch.equal(one, weights_of(first.model)[name]) for name, one in weights_of(second.model).items())
    again = bench.start(probe)  # what an outcome saves is what was trained
    assert dict(again.trainable.network.module.named_parameters()).keys() >= set(again.trainable.names)
    assert again.trainable.network.module is again.model.backbone
    peft = again.trainable.peft
    assert peft is None if method == "last-blocks" else peft.base_model.model is again.model.backbone


def test_views_beyond_the_last_epoch_are_not_computed(tiles: TunedTiles) -> None:
    bench = bench_of(tiles, {"loop": {**LOOP, "epochs": 2}, "views": 8})
    start = bench.start(probe_of(tiles.embeddings))  # all twelve tiles are looked at, as they are
    assert bench.prepare(start.inputs, all_rows(tiles)[:5], all_rows(tiles)[5:]) == 5
    assert bench.prepare(start.inputs, all_rows(tiles)[:5], all_rows(tiles)[5:]) == 0


@pytest.mark.parametrize("method", METHODS)
def test_rates_fall_from_block_to_block_where_whole_blocks_move(tiles: TunedTiles, method: str) -> None:
    bench = bench_of(tiles, {"method": {"name": method, "layer_decay": 0.5, "rank": 2}, "loop": LOOP})
    start = bench.start(probe_of(tiles.embeddings))
    assert set(start.rate_of) == set(start.trainable.names)
    if method == "full":
        assert start.rate_of["norm.weight"] == 1.0
        assert start.rate_of["blocks.2.attn.qkv.weight"] == 0.5
        assert start.rate_of["blocks.0.attn.qkv.weight"] == 0.125
    elif method == "last-blocks":
        assert set(start.rate_of.values()) == {0.5, 1.0}
    else:
        assert set(start.rate_of.values()) <= {1.0}


@pytest.mark.parametrize("storage", ["auto", "fp16"])
def test_tokens_too_coarse_in_half_precision_are_kept_whole(
    tiles: TunedTiles, storage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(workbench, "FP16_LIMIT", 1e-9)
    start = bench_of(tiles, {"loop": LOOP, "prefix": {"storage": storage}}).start(probe_of(tiles.embeddings))
    assert isinstance(start.inputs, PrefixTokens)
    assert start.inputs.bytes_per_tile == 4 * 5 * 32  # class token and four patches
    assert "Keeping the frozen part in fp32" in caplog.text


def test_tokens_beyond_half_precision_are_kept_whole(
    tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    build = workbench.build_network

    def loud(spec: object) -> object:
        network = build(spec)  # type: ignore[arg-type]
        with torch.no_grad():
            network.module.get_submodule("patch_embed.proj").weight.mul_(1e8)
        return network

    monkeypatch.setattr(workbench, "build_network", loud)
    start = bench_of(tiles, {"loop": LOOP}).start(probe_of(tiles.embeddings))
    assert isinstance(start.inputs, PrefixTokens)
    assert start.inputs.bytes_per_tile == 4 * 5 * 32
    assert "would move by inf" in caplog.text


def test_a_network_that_is_cut_wrongly_is_refused(tiles: TunedTiles, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Prefix._input
    monkeypatch.setattr(Prefix, "_input", lambda self, x_BCSS: run(self, x_BCSS).flip(1))
    bench = bench_of(tiles, {"loop": LOOP})
    with pytest.raises(UserError, match=r"can't be cut before blocks\.2") as told:
        bench.start(probe_of(tiles.embeddings))
    assert told.value.fix == "--set finetune.prefix.storage=off"


def test_a_start_leaves_torchs_generator_alone(tiles: TunedTiles) -> None:
    bench = bench_of(tiles, {"method": {"name": "lora"}, "loop": LOOP})
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first = weights_of(bench.start(probe_of(tiles.embeddings)).model)
    assert torch.equal(torch.rand(3), wanted)
    second = weights_of(bench.start(probe_of(tiles.embeddings)).model)
    assert all(torch.equal(one, second[name]) for name, one in first.items())


def test_tokens_lie_apart_from_the_embeddings(tiles: TunedTiles) -> None:
    own = Store(tiles.cache, tiles.embeddings.space)
    before = own.manifests().keys()
    task_of(bench_of(tiles, {"loop": LOOP}), probe_of(tiles.embeddings))
    assert own.manifests().keys() == before
    assert len([one for one in own.folder.parent.iterdir() if one.is_dir()]) == 2


def test_a_backbone_without_a_network_is_refused(tiles: TunedTiles) -> None:
    spec = colour_histogram()
    of = TunedTiles(tiles.tiles, tiles.embeddings, spec, tiles.view, tiles.loader, tiles.cache)
    with pytest.raises(UserError, match="can't be fine-tuned"):
        TuningBench(of, FinetuneConfig())


def test_the_method_of_a_config_trains_one_block_where_none_is_named() -> None:
    assert chosen_method(FinetuneConfig()) == MethodChoice("last-blocks", 1)
    config = FinetuneConfig.model_validate({"method": {"name": "lora", "rank": 4, "targets": ["q"]}})
    assert chosen_method(config) == MethodChoice("lora", None, 4, targets=("q",))
