"""Why a linear head says what it says of a tile: its logit as an exact sum over the places of the image.

With a linear head on averaged tokens (or on average pooling) the logit is a bias, a term of the class token and one
term per patch token: nothing is approximated and nothing is trained. It says what the head adds up where, not what the
network looked at: a token has seen the whole tile through attention, a place of a CNN its receptive field (the linear
case of class activation maps, Zhou et al., CVPR 2016).
"""

# K classes, D columns of the head's pooling, B windows (network inputs) of a tile, h rows and w columns of a map

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.backbones.grid import grid_outputs
from histotune.heads.head import class_probabilities, column_logits
from histotune.images.views import place, view_inputs
from histotune.tools.errors import UserError, closest_name
from histotune.tools.streams import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.figure import Figure as Picture
    from numpy.typing import NDArray

    from histotune.backbones.grid import GridOutputs
    from histotune.backbones.spec import Backbone
    from histotune.heads.head import Head
    from histotune.images.config import ViewConfig
    from histotune.images.views import Placement

    Float = NDArray[np.float64]


COLOURS = "RdBu_r"
STRONGEST = 0.85
"""Opacity of the strongest place of a map; places that add nothing are transparent and show the tile."""
CARD_INCHES, DPI = (9.6, 4.6), 150
TERM_COLUMNS = ("window", "row", "column", "left_px", "top_px", "right_px", "bottom_px", "term")


@dataclass(frozen=True)
class WindowMap:
    """The terms of one network input, and where it lies in the image.

    Attributes:
        terms_hw: float64; what each place adds to the logit.
        box_px: Left, top, right and bottom edge in pixels of the stored image; beyond it where the view pads.
    """

    terms_hw: Float
    box_px: tuple[float, float, float, float]


@dataclass(frozen=True)
class TileExplanation:
    """A tile's logit as a sum: ``baseline + cls_term + all terms of all windows``.

    Attributes:
        class_name: The class that the logit speaks for.
        against: The classes whose mean logit is subtracted; of two classes the other one.
        logit: Calibrated logit of the class less the mean of the others'; of two classes the log-odds.
        probability: Calibrated probability of the class.
        baseline: The logit of the mean training tile; of heads without a record of it, of an embedding of zeros.
        cls_term: What the class token adds, which belongs to no place; 0 where the head reads none.
        windows: The map, a part per network input.
        source_px: Width and height of the stored image.
        from_training_mean: Whether terms are counted from the mean training tile.
        note: What is taken as a number of this tile; empty where nothing is.
    """

    class_name: str
    against: tuple[str, ...]
    logit: float
    probability: float
    baseline: float
    cls_term: float
    windows: tuple[WindowMap, ...]
    source_px: tuple[int, int]
    from_training_mean: bool
    note: str = ""

    @property
    def map_sum(self) -> float:
        """What all places together add."""
        return float(sum(window.terms_hw.sum() for window in self.windows))

    @property
    def cls_share(self) -> float:
        """Share of the class token in what is added to the baseline, signs left aside: what no map can show."""
        whole = abs(self.cls_term) + abs(self.map_sum)
        return abs(self.cls_term) / whole if whole else 0.0

    def words(self) -> str:
        """Return the sum in one line."""
        start = "mean training tile" if self.from_training_mean else "bias"
        token = f", class token {self.cls_term:+.2f}" if self.cls_term else ""
        return f"logit {self.logit:+.2f} = {start} {self.baseline:+.2f}{token}, places {self.map_sum:+.2f}"


def explain_tile(
    head: Head,
    backbone: Backbone,
    image_HWC: NDArray[np.uint8],
    view: ViewConfig,
    *,
    class_name: str | None = None,
    resized_px: tuple[int, int] | None = None,
) -> TileExplanation:
    """Take the logit of a tile apart, place by place.

    Args:
        head: A linear head on the mean of patch tokens, with or without the class token, or on average pooling.
        backbone: Its backbone, loaded in fp32 for the view's ``size_px``.
        image_HWC: uint8 (H, W, 3), the stored image.
        view: How the image becomes the network's input.
        class_name: Whose logit; None takes class 1 of two classes, and of several the one that the head says.
        resized_px: Width and height after resizing, where the view has a ``target_mpp``.

    Returns:
        The terms, which add up to the logit.

    Raises:
        UserError: A head or a backbone whose logit is no such sum, or an unknown class.

    Example:
        >>> backbone = load_backbone(spec, find_device("cpu"), "fp32")  # doctest: +SKIP
        >>> found = explain_tile(head, backbone, image_HWC, view)  # doctest: +SKIP
        >>> round(found.baseline + found.cls_term + found.map_sum - found.logit, 6)  # doctest: +SKIP
        0.0
    """
    require_explainable(head)
    placement = place(image_HWC.shape[1], image_HWC.shape[0], view, resized_px)
    outputs = grid_outputs(backbone, view_inputs(image_HWC, view, placement.resized_px))
    blocks = _blocks(head, backbone, outputs)
    x_D = np.concatenate([(outputs.fixed.get(name, outputs.pooled_BD)).mean(axis=0) for name in head.pooling])
    logit_1K = column_logits(head, x_D[None])
    probability_K = class_probabilities(head, logit_1K)[0]
    chosen = _class_index(head, class_name, probability_K)
    weight_D, bias = _difference(head, chosen)
    mean_D = np.zeros(len(x_D)) if head.train_mean_D is None else head.train_mean_D
    cls_terms = [weight_D[blocks[name]] @ (x_D - mean_D)[blocks[name]] for name in outputs.fixed if name in blocks]
    others = tuple(name for name in head.class_names if name != head.class_names[chosen])
    return TileExplanation(
        class_name=head.class_names[chosen],
        against=others,
        logit=float(weight_D @ x_D + bias),
        probability=float(probability_K[chosen]),
        baseline=float(weight_D @ mean_D + bias),
        cls_term=float(sum(cls_terms)),
        windows=tuple(
            _windows(
                outputs,
                weight_D[blocks[outputs.averaged]],
                mean_D[blocks[outputs.averaged]],
                _boxes(placement, view, image_HWC),
            )
        ),
        source_px=(image_HWC.shape[1], image_HWC.shape[0]),
        from_training_mean=head.train_mean_D is not None,
        note=outputs.note,
    )


def require_explainable(head: Head) -> None:
    """Refuse heads whose logit is no sum over places, before anything is read.

    Args:
        head: Any head.

    Raises:
        UserError: An MLP, or a head on the class token alone; with what to train instead.
    """
    if head.hidden is not None:
        raise UserError(
            "the logit of an MLP is no sum over the places of a tile, so no exact map can be drawn",
            value=f"{head.family} head with {len(head.hidden.bias_H)} hidden units",
            allowed="linear heads: logistic, ridge, sgd without hidden units",
            fix="train a linear head beside it: histotune sweep ... --set sweep.family=logistic",
        )
    if set(head.pooling) == {"cls"}:
        raise UserError(
            "this head reads the class token alone, which belongs to no place of the tile: the map would be empty",
            value="+".join(head.pooling),
            allowed="heads that read patch_mean or pooled",
            fix='train it on both: histotune sweep ... --set \'sweep.poolings=[["cls","patch_mean"]]\'',
        )


def _blocks(head: Head, backbone: Backbone, outputs: GridOutputs) -> dict[str, slice]:
    """Return where each block of the head's pooling lies among its columns."""
    width = {block.name: block.stop - block.start for block in backbone.blocks}
    known, blocks, start = {*outputs.fixed, outputs.averaged}, {}, 0
    for name in head.pooling:
        if name not in known:
            raise UserError(
                "this head reads a block of columns that belongs to no place",
                value=name,
                allowed=", ".join(sorted(known)),
                fix="pass the backbone that the head was trained on",
            )
        blocks[name] = slice(start, start + width[name])
        start += width[name]
    if start != len(head.columns):
        raise ValueError(f"the head has {len(head.columns)} columns and this backbone gives {start}")
    return blocks


def _class_index(head: Head, name: str | None, probability_K: Float) -> int:
    if name is None:
        return 1 if len(head.class_names) == 2 else int(np.argmax(probability_K))
    if name not in head.class_names:
        raise UserError(
            "the head has no such class",
            value=name,
            allowed=", ".join(head.class_names),
            closest=closest_name(name, head.class_names),
            fix=f"--class {head.class_names[-1]}",
        )
    return head.class_names.index(name)


def _difference(head: Head, chosen: int) -> tuple[Float, float]:
    """Return weights and bias of the calibrated logit of a class less the mean of the others'."""
    # a_K: 1 for the class, -1 / (K - 1) for the others. The calibrated logit is s_K z_K + t_K, with s = 1 / T and t = 0
    # for a temperature; sum over K of a (s (w x + b) + t) is again linear in x.
    n_classes, calibration = len(head.class_names), head.calibration
    a_K = np.full(n_classes, -1.0 / (n_classes - 1))
    a_K[chosen] = 1.0
    scale_K = np.array(calibration.scale_K) if calibration.scale_K else np.full(n_classes, 1 / calibration.temperature)
    shift_K = np.array(calibration.shift_K) if calibration.scale_K else np.zeros(n_classes)
    return np.asarray((a_K * scale_K) @ head.weight_KD), float(a_K @ (scale_K * head.bias_K + shift_K))


def _windows(
    outputs: GridOutputs, weight_D: Float, mean_D: Float, boxes_px: Sequence[tuple[float, float, float, float]]
) -> Iterator[WindowMap]:
    """Yield the terms of every network input."""
    # The block is the mean over B inputs and h w places of grid + shift, and counts from the training mean: a place
    # adds weight . (grid + shift - mean) / (B h w).
    n_inputs, n_rows, n_columns, _ = outputs.grid_BhwD.shape
    even_B = (outputs.shift_BD - mean_D) @ weight_D
    terms_Bhw = (outputs.grid_BhwD @ weight_D + even_B[:, None, None]) / (n_inputs * n_rows * n_columns)
    for terms_hw, box_px in zip(terms_Bhw, boxes_px, strict=True):
        yield WindowMap(terms_hw, box_px)


def _boxes(
    placement: Placement, view: ViewConfig, image_HWC: NDArray[np.uint8]
) -> list[tuple[float, float, float, float]]:
    """Return where each network input lies in the stored image."""
    x, y = image_HWC.shape[1] / placement.resized_px[0], image_HWC.shape[0] / placement.resized_px[1]
    size = view.size_px
    return [(left * x, top * y, (left + size) * x, (top + size) * y) for left, top in placement.corners_px]


def term_table(explanation: TileExplanation) -> pl.DataFrame:
    """Return a row per place: its window, row, column, edges in pixels of the stored image, and its term.

    Args:
        explanation: A tile's terms.

    Returns:
        Columns ``window, row, column, left_px, top_px, right_px, bottom_px, term``.
    """
    parts = []
    for number, window in enumerate(explanation.windows):
        n_rows, n_columns = window.terms_hw.shape
        left, top, right, bottom = window.box_px
        x, y = np.linspace(left, right, n_columns + 1), np.linspace(top, bottom, n_rows + 1)
        row, column = (part.ravel() for part in np.indices(window.terms_hw.shape))
        edges = (x[column], y[row], x[column + 1], y[row + 1], window.terms_hw.ravel())
        values = (np.full(row.size, number), row, column, *edges)
        parts.append(pl.DataFrame(dict(zip(TERM_COLUMNS, values, strict=True))))
    return pl.concat(parts)


# ---- The map as a picture ----


def draw_explanation(explanation: TileExplanation, image_HWC: NDArray[np.uint8], title: str = "") -> Picture:
    """Draw a tile beside its map: places that speak for the class in red, against it in blue, in logit units.

    Args:
        explanation: The terms.
        image_HWC: uint8 (H, W, 3), the stored image.
        title: Above the tile, such as its file name.

    Returns:
        A matplotlib figure; ``savefig`` writes it as PNG or SVG.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure as Picture

    largest = max(float(np.abs(window.terms_hw).max()) for window in explanation.windows) or 1.0
    scale = Normalize(-largest, largest)
    picture = Picture(figsize=CARD_INCHES, dpi=DPI, layout="constrained")
    tile, over = picture.subplots(1, 2)
    height, width = image_HWC.shape[:2]
    for axes in (tile, over):
        axes.imshow(image_HWC, extent=(0, width, height, 0), interpolation="nearest")
        axes.set_axis_off()
    for window in explanation.windows:
        left, top, right, bottom = window.box_px
        over.imshow(
            _coloured(window.terms_hw, scale), extent=(left, right, bottom, top), interpolation="nearest", zorder=2
        )
    boxes = np.array([window.box_px for window in explanation.windows])
    for axes in (tile, over):
        axes.set_xlim(min(0.0, boxes[:, 0].min()), max(width, boxes[:, 2].max()))
        axes.set_ylim(max(height, boxes[:, 3].max()), min(0.0, boxes[:, 1].min()))
    _frame_windows(tile, boxes)
    bar = picture.colorbar(ScalarMappable(scale, COLOURS), ax=over, fraction=0.046, pad=0.02)
    bar.set_label(f"logit units for {_plain(explanation.class_name)} (sum: {explanation.map_sum:+.2f})")
    tile.set_title(_plain(title), fontsize=9, loc="left", wrap=True)
    over.set_title(
        _plain(f"{explanation.class_name}: probability {explanation.probability:.3f}"), fontsize=9, loc="left"
    )
    picture.supxlabel("\n".join(map(_plain, _caption(explanation).splitlines())), fontsize=8)
    return picture


def _coloured(terms_hw: Float, scale: object) -> Float:
    """Return the colours of a map, the more opaque the larger a term is."""
    from matplotlib import colormaps

    share_hw = scale(terms_hw)  # type: ignore[operator]  # a Normalize
    rgba_hw4 = colormaps[COLOURS](share_hw)
    rgba_hw4[..., 3] = STRONGEST * np.abs(2.0 * np.asarray(share_hw) - 1.0)
    return np.asarray(rgba_hw4)


def _frame_windows(axes: object, boxes: Float) -> None:
    """Draw a frame around what the network sees of the tile."""
    from matplotlib.patches import Rectangle

    for left, top, right, bottom in boxes:
        frame = Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="black", linewidth=0.8)
        axes.add_patch(frame)  # type: ignore[attr-defined]  # matplotlib's axes


def _caption(explanation: TileExplanation) -> str:
    """Return the sum, and what the map can't show."""
    against = explanation.against[0] if len(explanation.against) == 1 else "the mean of the other classes"
    share = (
        f"the class token holds {100 * explanation.cls_share:.0f} % of what is added, which no map can show"
        if explanation.cls_term
        else "the map shows all that is added"
    )
    note = f"; {explanation.note}" if explanation.note else ""
    return f"{explanation.class_name} against {against}: {explanation.words()}\n{share}{note}"


def _plain(text: str) -> str:
    """Return text that matplotlib takes as it is: a dollar sign begins a formula, a control sign has no picture."""
    return one_line(text).replace("$", r"\$")
