"""The terms of a map add up to the logit, for every family of backbone; a planted object lights up."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histotune.backbones.catalog import find_backbone
from histotune.backbones.engine import load_backbone
from histotune.backbones.entries import BackboneConfig
from histotune.backbones.grid import NORM_CONSTANT, grid_outputs
from histotune.backbones.spec import Backbone
from histotune.evaluation.explain import TileExplanation, draw_explanation, explain_tile, term_table
from histotune.heads.head import Calibration, Head, HiddenLayer, calibrated_logits, column_logits
from histotune.images.config import ViewConfig
from histotune.images.views import view_inputs
from histotune.tools.devices import ComputeDevice
from histotune.tools.errors import UserError

CPU = ComputeDevice("cpu", "test", "", float("nan"), fast_bf16=False)
TOKENS = ("random/timm/test_vit", "random/timm/vit_tiny_patch16_224")
AVERAGED = ("random/timm/test_resnet", "random/timm/test_efficientnet", "random/timm/test_byobnet", "colour-histogram")
NORMED = ("random/timm/test_convnext", "random/timm/test_vit2")  # a ViT with a register token and fc_norm, for one
REFUSED = ("random/timm/mobilenetv3_small_050", "random/timm/test_vit3")  # an activation, or attention, pools
HUGGING = ("dinov2", "registers", "resnet", "convnext", "swin")
SIZE_PX = 96


@lru_cache
def load(name: str, size_px: int = SIZE_PX) -> Backbone:
    return load_backbone(replace(find_backbone(BackboneConfig(name=name)), size_px=size_px), CPU, "fp32")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return tiny models of transformers, saved in the real format."""
    import torch
    import transformers as hf

    token = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 96, "patch_size": 16}
    wide = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    swin = {"image_size": 96, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 6}
    made = {
        "dinov2": hf.Dinov2Model(hf.Dinov2Config(**token)),
        "registers": hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**token, num_register_tokens=4)),
        "resnet": hf.ResNetModel(hf.ResNetConfig(**wide)),
        "convnext": hf.ConvNextModel(hf.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2)),
        "swin": hf.SwinModel(hf.SwinConfig(**swin)),
    }
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(5)
    for name, model in made.items():
        for tensor in model.parameters():  # zero-initialised tokens and norms that change nothing would hide a lost one
            torch.nn.init.normal_(tensor, std=0.2)
        model.save_pretrained(folder / name)
        text = '{"size": {"height": 96, "width": 96}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}'
        (folder / name / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return {name: folder / name for name in made}


def random_head(backbone: Backbone, rng: np.random.Generator, n_classes: int = 2, **changes: object) -> Head:
    """Return a head on all blocks of a backbone, with a record of made-up training tiles."""
    pooling = tuple(block.name for block in backbone.blocks)
    n_columns = backbone.total_dim
    weight_KD = rng.normal(size=(n_classes, n_columns))
    if n_classes == 2:
        weight_KD[0] = 0.0
    head = Head(
        weight_KD, rng.normal(size=n_classes), pooling, tuple(range(n_columns)),
        tuple(f"class {number}" for number in range(n_classes)), backbone.spec.name, "space", "meaning", 0.1,
        calibration=Calibration(temperature=float(rng.uniform(0.5, 3))),
        train_mean_D=rng.normal(size=n_columns), train_std_D=np.ones(n_columns),
    )  # fmt: skip
    return replace(head, **changes)  # type: ignore[arg-type]


def image(rng: np.random.Generator, height_px: int = 90, width_px: int = 140) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def check_sum(head: Head, backbone: Backbone, view: ViewConfig, image_HWC: NDArray[np.uint8]) -> TileExplanation:
    """Hold a tile's terms against the logit of its embedding as the engine gives it."""
    found = explain_tile(head, backbone, image_HWC, view)
    inputs_BSSC = view_inputs(image_HWC, view)
    embedded_D = np.mean([backbone.embed(np.array(one[None]))[0] for one in inputs_BSSC], axis=0, dtype=np.float64)
    logit_K = calibrated_logits(head.calibration, column_logits(head, embedded_D[None]))[0]
    chosen = head.class_names.index(found.class_name)
    expected = logit_K[chosen] - np.delete(logit_K, chosen).mean()
    size = max(1.0, float(np.abs(logit_K).max()), abs(found.baseline), abs(found.cls_term))
    assert found.logit == pytest.approx(expected, abs=1e-4 * size)
    assert found.baseline + found.cls_term + found.map_sum == pytest.approx(found.logit, abs=1e-5 * size)
    assert term_table(found)["term"].sum() == pytest.approx(found.map_sum, abs=1e-9 * size)
    return found


@pytest.mark.parametrize("name", (*TOKENS, *AVERAGED, *NORMED))
@pytest.mark.parametrize("n_classes", [2, 4])
def test_terms_add_up_to_the_logit(name: str, n_classes: int) -> None:
    rng = np.random.default_rng(1)
    backbone = load(name)
    found = check_sum(random_head(backbone, rng, n_classes), backbone, ViewConfig(size_px=SIZE_PX), image(rng))
    assert (found.cls_term != 0) == (name in TOKENS)
    assert bool(found.note) == (name in NORMED)
    assert len(found.windows) == 1
    assert len(found.against) == n_classes - 1


@pytest.mark.parametrize("name", HUGGING)
def test_terms_add_up_to_the_logit_of_models_of_transformers(name: str, saved: dict[str, Path]) -> None:
    rng = np.random.default_rng(2)
    backbone = load(str(saved[name]))
    found = check_sum(random_head(backbone, rng), backbone, ViewConfig(size_px=SIZE_PX), image(rng))
    assert found.windows[0].terms_hw.shape[0] == found.windows[0].terms_hw.shape[1] > 1
    assert found.note == (NORM_CONSTANT if name == "convnext" else "")


def test_registers_have_no_place_in_the_map(saved: dict[str, Path]) -> None:
    backbone = load(str(saved["registers"]))
    pixels_BSSC = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8)
    assert grid_outputs(backbone, pixels_BSSC).grid_BhwD.shape == (1, 6, 6, 32)


@pytest.mark.parametrize("view", ["short-side-crop", "square", "letterbox", "tiles"])
@pytest.mark.parametrize("name", ["random/timm/test_vit", "random/timm/test_resnet"])
def test_every_view_is_mapped_back_to_the_stored_image(name: str, view: str) -> None:
    rng = np.random.default_rng(3)
    backbone, config = load(name), ViewConfig(name=view, size_px=SIZE_PX)  # type: ignore[arg-type]
    found = check_sum(random_head(backbone, rng), backbone, config, image(rng, 100, 150))
    boxes = np.array([window.box_px for window in found.windows])
    whole = {
        "short-side-crop": [[25, 0, 125, 100]], "square": [[0, 0, 150, 100]], "letterbox": [[0, -25, 150, 125]],
        "tiles": [[0, 0, 100, 100], [50, 0, 150, 100]],
    }  # fmt: skip
    np.testing.assert_allclose(boxes, whole[view], atol=1.0)
    table = term_table(found)
    assert table["left_px"].min() == pytest.approx(boxes[:, 0].min())
    assert table["bottom_px"].max() == pytest.approx(boxes[:, 3].max())


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.booleans(), st.booleans())
def test_random_heads_add_up(seed: int, n_classes: int, vector: bool, knows_training: bool) -> None:
    rng = np.random.default_rng(seed)
    backbone = load("random/timm/test_vit")
    head = random_head(backbone, rng, n_classes)
    if vector:
        scale, shift = (tuple(rng.uniform(0.1, 2, n_classes)) for _ in range(2))
        head = replace(head, calibration=Calibration(scale_K=scale, shift_K=shift))
    if not knows_training:
        head = replace(head, train_mean_D=None, train_std_D=None)
    found = check_sum(head, backbone, ViewConfig(size_px=SIZE_PX), image(rng))
    assert found.from_training_mean == knows_training
    assert 0 <= found.cls_share <= 1


def test_of_two_classes_the_logit_is_the_log_odds_of_the_probability() -> None:
    rng = np.random.default_rng(4)
    backbone = load("colour-histogram")
    head, picture = random_head(backbone, rng), image(rng)
    one = explain_tile(head, backbone, picture, ViewConfig(size_px=SIZE_PX))
    other = explain_tile(head, backbone, picture, ViewConfig(size_px=SIZE_PX), class_name="class 0")
    assert one.class_name == "class 1"
    assert one.logit == pytest.approx(np.log(one.probability / (1 - one.probability)))
    assert other.logit == pytest.approx(-one.logit)
    np.testing.assert_allclose(other.windows[0].terms_hw, -one.windows[0].terms_hw)


def test_poolings_in_another_order_and_of_one_block_add_up() -> None:
    rng = np.random.default_rng(5)
    backbone = load("random/timm/test_vit")
    cls, mean = backbone.blocks
    both = (*range(mean.start, mean.stop), *range(cls.start, cls.stop))
    for pooling, columns in ((("patch_mean", "cls"), both), (("patch_mean",), both[: mean.stop - mean.start])):
        n = len(columns)
        head = random_head(backbone, rng, pooling=pooling, columns=columns, weight_KD=rng.normal(size=(2, n)),
                           train_mean_D=rng.normal(size=n))  # fmt: skip
        found = explain_tile(head, backbone, image(rng), ViewConfig(size_px=SIZE_PX))
        assert found.baseline + found.cls_term + found.map_sum == pytest.approx(found.logit, abs=1e-6)
        assert (found.cls_share == 0) == ("cls" not in pooling)


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_behind_the_pooling_is_refused(name: str) -> None:
    rng = np.random.default_rng(6)
    backbone = load(name, 160)
    with pytest.raises(UserError, match="no average over the places"):
        explain_tile(random_head(backbone, rng), backbone, image(rng), ViewConfig(size_px=160))


def test_heads_whose_logit_is_no_sum_over_places_are_refused() -> None:
    rng = np.random.default_rng(7)
    backbone = load("random/timm/test_vit")
    head = random_head(backbone, rng)
    hidden = HiddenLayer(rng.normal(size=(8, backbone.total_dim)), np.zeros(8))
    mlp = replace(head, hidden=hidden, weight_KD=rng.normal(size=(2, 8)))
    with pytest.raises(UserError, match="MLP is no sum") as refused:
        explain_tile(mlp, backbone, image(rng), ViewConfig(size_px=SIZE_PX))
    assert "sweep.family=logistic" in str(refused.value)
    alone = replace(head, pooling=("cls",))
    with pytest.raises(UserError, match="class token alone"):
        explain_tile(alone, backbone, image(rng), ViewConfig(size_px=SIZE_PX))
    with pytest.raises(UserError, match="no such class"):
        explain_tile(head, backbone, image(rng), ViewConfig(size_px=SIZE_PX), class_name="class 2")


def test_a_network_in_half_precision_is_refused() -> None:
    spec = replace(find_backbone(BackboneConfig(name="random/timm/test_resnet")), size_px=SIZE_PX)
    backbone = load_backbone(spec, CPU, "bf16")
    with pytest.raises(ValueError, match="fp32"):
        grid_outputs(backbone, np.zeros((1, SIZE_PX, SIZE_PX, 3), np.uint8))


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_map_is_drawn_with_its_scale_and_what_it_cannot_show(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    backbone, picture = load("random/timm/test_vit"), image(rng)
    found = explain_tile(random_head(backbone, rng), backbone, picture, ViewConfig(name="letterbox", size_px=SIZE_PX))
    drawn = draw_explanation(found, picture, "odd $name_1$.png")
    over, bar = drawn.axes[1], drawn.axes[2]
    assert "logit units" in bar.get_ylabel()
    low, high = bar.get_ylim()
    assert low == pytest.approx(-high)
    assert high == pytest.approx(np.abs(found.windows[0].terms_hw).max())
    assert len(over.images) == 2
    assert f"the class token holds {100 * found.cls_share:.0f} %" in drawn.get_supxlabel()
    drawn.savefig(tmp_path / f"map.{kind}")
    assert (tmp_path / f"map.{kind}").stat().st_size > 2000


def object_tile(rng: np.random.Generator, centre_px: tuple[int, int] | None) -> NDArray[np.uint8]:
    """Return a rendered tile of soft pink texture, with or without a dark violet ring of nuclei at a place."""
    side = 224
    coarse = rng.normal(0, 14, (14, 14, 3)).repeat(16, axis=0).repeat(16, axis=1)
    tile = np.array([222.0, 180.0, 200.0]) + coarse + rng.normal(0, 6, (side, side, 3))
    if centre_px is not None:
        y, x = np.indices((side, side))
        for angle in np.linspace(0, 2 * np.pi, 9):
            cy, cx = centre_px[0] + 20 * np.sin(angle), centre_px[1] + 20 * np.cos(angle)
            tile[(y - cy) ** 2 + (x - cx) ** 2 < 64] = (70, 40, 120)
    return tile.clip(0, 255).astype(np.uint8)


def test_a_planted_object_lights_up() -> None:
    """With the real weights of EfficientNet-Lite0: the head is trained on whether a tile holds the object at all."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(9)
    backbone, view = load("lite0", 224), ViewConfig(size_px=224)
    places = [None if number % 2 else tuple(rng.integers(40, 184, 2).tolist()) for number in range(80)]
    tiles = np.stack([object_tile(rng, place) for place in places])
    x_ND = np.concatenate([backbone.embed(tiles[start : start + 16]) for start in range(0, 80, 16)]).astype(np.float64)
    y_N = np.array([place is not None for place in places]).astype(int)
    mean_D, std_D = x_ND[:60].mean(axis=0), x_ND[:60].std(axis=0) + 0.1
    fit = LogisticRegression(C=0.1, max_iter=500).fit((x_ND[:60] - mean_D) / std_D, y_N[:60])
    weight_D = fit.coef_[0] / std_D
    head = random_head(
        backbone, rng, weight_KD=np.stack([np.zeros_like(weight_D), weight_D]), calibration=Calibration(),
        bias_K=np.array([0.0, fit.intercept_[0] - weight_D @ mean_D]), train_mean_D=mean_D, train_std_D=std_D,
    )  # fmt: skip
    n_right, shares = 0, []
    for place, tile in list(zip(places, tiles, strict=True))[60:]:
        found = explain_tile(head, backbone, tile, view)
        assert (found.logit > 0) == (place is not None)
        if place is None:
            continue
        terms_hw = found.windows[0].terms_hw
        cell = 224 / terms_hw.shape[0]
        row, column = np.unravel_index(np.argmax(terms_hw), terms_hw.shape)
        n_right += bool(max(abs((row + 0.5) * cell - place[0]), abs((column + 0.5) * cell - place[1])) <= 1.5 * cell)
        near_hw = np.zeros(terms_hw.shape, bool)
        r, c = int(place[0] // cell), int(place[1] // cell)
        near_hw[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2] = True
        shares.append(terms_hw[near_hw].clip(min=0).sum() / terms_hw.clip(min=0).sum() / near_hw.mean())
    assert n_right >= 9, f"the strongest place lies on the object in {n_right} of 10 tiles"
    assert np.median(shares) > 2.0, f"the object's places hold {np.median(shares):.1f} times their share of the area"
