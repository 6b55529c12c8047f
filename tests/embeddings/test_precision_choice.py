"""A faster precision is checked once on the data's own tiles, remembered, and refused where it changes embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from histotune.backbones.catalog import colour_histogram, find_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.embeddings import embed as embed_module
from histotune.embeddings import estimate
from histotune.embeddings import precision as precision_module
from histotune.embeddings.embed import embed
from histotune.embeddings.estimate import request_space
from histotune.embeddings.space import EmbedRequest
from histotune.tools.devices import ComputeDevice
from tests.embeddings.conftest import write_tiles

Requests = Callable[..., EmbedRequest]


@pytest.fixture(autouse=True)
def a_processor_with_fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine is: bf16 is worth trying."""
    device = ComputeDevice("cpu", "one", "", float("nan"), fast_bf16=True)
    for module in (embed_module, estimate):
        monkeypatch.setattr(module, "find_device", lambda _: device)


@pytest.fixture
def request_auto(request_for: Requests) -> EmbedRequest:
    return request_for(find_backbone(BackboneConfig(name="random/timm/resnet10t")), size_px=32, precision="auto",
                       batch_size=8)  # fmt: skip


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the precisions that a network was loaded in."""
    from histotune.backbones import engine

    original, precisions = engine.load_backbone, []

    def counting(spec: object, device: object, precision: str, *more: object) -> object:
        precisions.append(precision)
        return original(spec, device, precision, *more)

    monkeypatch.setattr(engine, "load_backbone", counting)
    return precisions


def records(request: EmbedRequest) -> list[dict[str, object]]:
    paths = sorted((request.cache / "precision").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_bf16_of_a_convolutional_network_is_refused_once_and_for_all(
    tmp_path: Path, request_auto: EmbedRequest, loaded: list[str]
) -> None:
    tiles = write_tiles(tmp_path / "tiles", 20)
    cold = embed(tiles, request_auto)
    assert loaded == ["fp32", "bf16", "fp32"]
    assert cold.space.precision == "fp32"
    assert "bf16 refused: on 20 tiles" in cold.precision_reason
    (record,) = records(request_auto)
    assert record["precision"] == "fp32" and record["checks"][0]["median_error"] > 0.01
    more = write_tiles(tmp_path / "tiles", 3, seed=1)
    warm = embed(more, request_auto)
    assert loaded[3:] == ["fp32"]
    assert warm.precision_reason == cold.precision_reason
    assert request_space(request_auto).key == cold.space.key


def test_what_the_check_found_is_said_plainly_and_its_figures_are_details(
    tmp_path: Path, request_auto: EmbedRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = write_tiles(tmp_path / "tiles", 20)
    caplog.set_level("DEBUG", "histotune.embeddings.precision")
    embed(tiles, request_auto)
    told = {record.levelname: record.getMessage() for record in caplog.records}
    assert told["INFO"] == (
        "Using fp32: bf16 would change this network's embeddings too much (checked on 20 tiles; --debug shows how much)"
    )
    assert "bf16 refused: on 20 tiles the error is" in told["DEBUG"]
    caplog.clear()
    embed(write_tiles(tmp_path / "tiles", 3, seed=1), request_auto)  # what was checked earlier
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert "bf16 refused: on 20 tiles the error is" in caplog.text
    for name in ("MEDIAN_LIMIT", "P99_LIMIT", "PROBE_LIMIT"):
        monkeypatch.setattr(f"histotune.embeddings.precision.{name}", 100.0)
    caplog.clear()
    embed(tiles, replace(request_auto, cache=tmp_path / "other"))
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert said.startswith("Using bf16: it changes this network's embeddings less than matters (checked on 20 tiles")


def test_a_precision_that_passes_is_used(
    tmp_path: Path, request_auto: EmbedRequest, loaded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.embeddings.precision.MEDIAN_LIMIT", 1.0)
    monkeypatch.setattr("histotune.embeddings.precision.P99_LIMIT", 100.0)
    monkeypatch.setattr("histotune.embeddings.precision.PROBE_LIMIT", 10.0)
    result = embed(write_tiles(tmp_path / "tiles", 20), request_auto)
    assert loaded == ["fp32", "bf16", "bf16"]
    assert result.space.precision == "bf16"
    assert "bf16 kept" in result.precision_reason


def test_too_few_tiles_take_fp32_and_decide_nothing_for_later(
    tmp_path: Path, request_auto: EmbedRequest, loaded: list[str]
) -> None:
    few = embed(write_tiles(tmp_path / "few", 15), request_auto)
    assert few.space.precision == "fp32" and "too few" in few.precision_reason
    assert loaded == ["fp32"] and records(request_auto) == []
    embed(write_tiles(tmp_path / "more", 20, seed=1), request_auto)
    assert loaded[1:3] == ["fp32", "bf16"] and len(records(request_auto)) == 1


def test_an_explicit_wish_is_granted_with_a_warning(
    tmp_path: Path, request_auto: EmbedRequest, caplog: pytest.LogCaptureFixture
) -> None:
    embedding = request_auto.embedding.model_copy(update={"precision": "bf16"})
    result = embed(write_tiles(tmp_path / "tiles", 20), replace(request_auto, embedding=embedding))
    assert result.space.precision == "bf16"
    assert "bf16 as asked for" in result.precision_reason
    assert "using bf16 as asked for, though it changes this network's embeddings more than it should" in caplog.text
    assert "(checked on 16 tiles; --debug shows how much)" in caplog.text


def test_a_damaged_record_is_made_anew(tmp_path: Path, request_auto: EmbedRequest, loaded: list[str]) -> None:
    tiles = write_tiles(tmp_path / "tiles", 20)
    cold = embed(tiles, request_auto)
    path = next((request_auto.cache / "precision").glob("*.json"))
    path.write_text("{", encoding="utf-8")
    again = embed(tiles, request_auto)
    assert loaded[3:] == ["fp32", "bf16"]
    assert again.n_computed == 0 and np.array_equal(again.matrix_ND, cold.matrix_ND)
    assert len(records(request_auto)) == 1


def test_other_weights_views_and_devices_are_other_questions(tmp_path: Path, request_auto: EmbedRequest) -> None:
    tiles = write_tiles(tmp_path / "tiles", 20)
    for request in (
        request_auto,
        replace(request_auto, spec=replace(request_auto.spec, seed=5)),
        replace(request_auto, view=request_auto.view.model_copy(update={"interpolation": "bilinear"})),
    ):
        embed(tiles, request)
    assert len(records(request_auto)) == 3


def test_nothing_is_checked_where_there_is_no_choice(
    tmp_path: Path, request_for: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_module, "checked_choice", lambda *_: pytest.fail("a check without a choice"))
    tiles = write_tiles(tmp_path / "tiles", 3)
    assert embed(tiles, request_for(colour_histogram(), precision="auto")).space.precision == "fp32"
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    assert embed(tiles, request_for(spec, size_px=32, precision="fp32")).space.precision == "fp32"


def test_bad_tiles_of_the_check_are_left_out_like_others(tmp_path: Path, request_auto: EmbedRequest) -> None:
    tiles = write_tiles(tmp_path / "tiles", 20)
    (tmp_path / "tiles" / "0-003.png").write_bytes(b"broken")
    result = embed(tiles, replace(request_auto, on_bad_image="skip"))
    assert list(result.unreadable) == ["0-003.png"]
    assert "on 19 tiles" in result.precision_reason


def test_a_record_that_cannot_be_kept_is_no_obstacle(
    tmp_path: Path, request_auto: EmbedRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from histotune.tools.errors import UserError

    def refused(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(precision_module, "write_sealed", refused)
    assert embed(write_tiles(tmp_path / "tiles", 20), request_auto).n_computed == 20
    assert "can't be kept (the disk is full)" in caplog.text
