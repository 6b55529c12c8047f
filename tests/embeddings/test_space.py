"""Every component of a space changes its key; nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import polars as pl
import pytest

from histotune.backbones.catalog import colour_histogram, find_backbone, random_twin
from histotune.backbones.entries import BackboneConfig
from histotune.embeddings import space as space_module
from histotune.embeddings.embed import embed
from histotune.embeddings.space import EmbeddingSpace, EmbedRequest, embedding_space, with_key
from histotune.embeddings.store import Store
from histotune.images.config import ViewConfig, ViewName
from histotune.tools.devices import ComputeDevice
from tests.embeddings.conftest import write_tiles

CPU = ComputeDevice("cpu", "one", "", float("nan"), fast_bf16=True)
LITE0 = find_backbone(BackboneConfig())


def key(**changes: object) -> str:
    settings = {"spec": LITE0, "view": ViewConfig(), "device": CPU, "precision": "fp32", **changes}
    return embedding_space(**settings).key


@pytest.mark.parametrize(
    "changes",
    [
        {"spec": random_twin(LITE0)},
        {"spec": random_twin(LITE0, seed=1)},
        {"spec": replace(LITE0, mean=(0.4, 0.5, 0.5))},
        {"spec": replace(LITE0, std=(0.4, 0.5, 0.5))},
        {"view": ViewConfig(size_px=192)},
        {"view": ViewConfig(interpolation="bilinear")},
        {"precision": "bf16"},
        {"device": ComputeDevice("cuda", "T4", "7.5", 16.0, fast_bf16=False)},
    ],
    ids=["random", "seed", "mean", "std", "size", "interpolation", "precision", "device"],
)
def test_settings_that_change_an_embedding_change_the_key(changes: dict[str, object]) -> None:
    assert key(**changes) != key()


def test_every_field_but_the_name_changes_the_key() -> None:
    space = embedding_space(LITE0, ViewConfig(), CPU, "fp32")
    for name in EmbeddingSpace.__dataclass_fields__:
        changed = with_key(replace(space, **{name: "other"}))
        assert (changed.key == space.key) == (name in ("key", "backbone")), name


@pytest.mark.parametrize("library", ["torch", "timm", "transformers", "pillow"])
def test_a_new_library_major_changes_the_key(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    before = key()
    monkeypatch.setattr("histotune.tools.devices.library_version", lambda name: "99.1" if name == library else "2.1")
    first = key()
    monkeypatch.setattr("histotune.tools.devices.library_version", lambda name: "99.7" if name == library else "2.9")
    assert first == key() != before


def test_the_pipeline_number_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(space_module, "PIPELINE", "next")
    assert key() != before


def test_names_and_processors_of_one_kind_share_a_space() -> None:
    assert key(spec=replace(LITE0, name="mine")) == key()
    assert key(device=replace(CPU, name="another CPU", fast_bf16=False)) == key()


def test_the_colour_histogram_depends_on_the_view_alone() -> None:
    gpu = ComputeDevice("cuda", "T4", "7.5", 16.0, fast_bf16=False)
    assert key(spec=colour_histogram()) == key(spec=colour_histogram(), device=gpu, precision="fp16")
    assert key(spec=colour_histogram()) != key(spec=colour_histogram(), view=ViewConfig(size_px=192))


ANOTHER = {"name": "square", "size_px": 192, "interpolation": "bilinear", "target_mpp": 0.5}


@pytest.mark.parametrize("field", list(ANOTHER))
def test_every_field_that_changes_pixels_changes_the_key(field: str) -> None:
    spec = replace(LITE0, size_px=224)
    before = embedding_space(spec, ViewConfig(), CPU, "fp32")
    other = ViewConfig(**{**ViewConfig().model_dump(), field: ANOTHER[field]})
    assert embedding_space(spec, other, CPU, "fp32").key != before.key


@pytest.mark.parametrize("component", ["weights", "adapter", "view", "precision", "signature", "normalisation"])
def test_another_component_finds_no_row(
    tmp_path: Path, request_for: Callable[..., EmbedRequest], monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    spec = find_backbone(BackboneConfig(name="random/timm/resnet10t"))
    tiles, request = write_tiles(tmp_path / "tiles", 2), request_for(spec, size_px=32)
    cold = embed(tiles, request)
    if component == "adapter":
        other = with_key(replace(cold.space, adapter_hash="a" * 64))
        assert Store(request.cache, other).manifests() == {}
        return
    if component == "signature":
        monkeypatch.setattr("histotune.tools.devices.library_version", lambda _: "99.0")
    changed = {
        "weights": request_for(replace(spec, seed=1), size_px=32),
        "view": replace(request, view=request.view.model_copy(update={"interpolation": "bilinear"})),
        "precision": request_for(spec, size_px=32, precision="bf16"),
        "signature": request,
        "normalisation": request_for(replace(spec, mean=(0.1, 0.2, 0.3)), size_px=32),
    }[component]
    assert embed(tiles, changed).n_computed == 2
    monkeypatch.undo()
    labels = tiles.table.with_columns(pl.lit(1, pl.Int32).alias("label"), pl.lit("g").alias("group_id"))
    assert embed(replace(tiles, table=labels), request).n_computed == 0  # labels and groups are no component


def test_settings_that_came_later_change_no_earlier_key() -> None:
    space = embedding_space(LITE0, ViewConfig(), CPU, "fp32")
    assert space.view == '{\n  "interpolation": "bicubic",\n  "name": "short-side-crop",\n  "size_px": 224\n}'
    assert key(view=ViewConfig(pad_rgb=(0, 0, 0), allow_moved_label=True)) == key()
    assert key(view=ViewConfig(name="tiles", pad_rgb=(0, 0, 0))) == key(view=ViewConfig(name="tiles"))


def test_every_view_has_a_key_of_its_own() -> None:
    views = [ViewConfig(name=name, target_mpp=mpp) for name in get_args(ViewName) for mpp in (None, 0.5, 0.25)]
    views += [replace_view(view, pad_rgb=(0, 0, 0)) for view in views if view.name == "letterbox" or view.target_mpp]
    assert len({key(view=view) for view in views}) == len(views)


def replace_view(view: ViewConfig, **changes: object) -> ViewConfig:
    return ViewConfig(**{**view.model_dump(), **changes})
