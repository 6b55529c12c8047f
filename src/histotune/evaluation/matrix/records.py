"""The cross-magnification matrix as a record: cells, what they rest on, and what a view cost them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from histotune.statistics.predictions import Score  # noqa: TC001  (a saved record is read by its types)

Experiment = Literal["as the network sees it", "equal input_mpp", "equal field of view"]
TrainingSize = Literal["equal", "all data"]


@dataclass(frozen=True)
class MatrixCell:
    """Heads of one training set, scored at one magnification.

    Attributes:
        trained_on: "100X", "all but 100X" or "all".
        magnification: Of the scored tiles.
        scores: AUROC first; NaN with its reason where not estimable.
        differences: Each score less that of the heads trained at the scored magnification, on the same tiles, paired
            by group; empty on the diagonal and where either is not estimable.
        n_train_tiles: Median over folds.
        n_train_groups: Median over folds.
    """

    trained_on: str
    magnification: str
    scores: tuple[Score, ...]
    differences: tuple[Score, ...]
    n_train_tiles: int
    n_train_groups: int

    @property
    def on_diagonal(self) -> bool:
        """Whether the heads were trained at the scored magnification alone."""
        return self.trained_on == self.magnification


@dataclass(frozen=True)
class SeenScale:
    """What the network saw of one magnification's tiles.

    Attributes:
        magnification: Which.
        input_mpp: Median, um/px; NaN where unknown.
        seen_share: Median share of a tile that reaches the network.
        padded_share: Median share of the network's input that is padding.
        enlargement: Median of resized over stored pixels along a side; above 1 the network sees no more detail.
    """

    magnification: str
    input_mpp: float
    seen_share: float
    padded_share: float
    enlargement: float

    @property
    def lost(self) -> str:
        """What the view cost, in words; empty where nothing worth a word."""
        words = []
        if self.seen_share < 0.995:
            words.append(f"{1 - self.seen_share:.0%} of the tile is cut off")
        if self.padded_share > 0.005:
            words.append(f"{self.padded_share:.0%} of the input is padding")
        if self.enlargement > 1.005:
            words.append(f"enlarged {self.enlargement:.1f} x, without more detail")
        elif self.enlargement < 0.995:
            words.append(f"shrunk to {self.enlargement:.2f} of its pixels")
        return "; ".join(words)


@dataclass(frozen=True)
class MagnificationMatrix:
    """One experiment with one rule for the size of training sets.

    Attributes:
        experiment: The view: as it is, or matched.
        training_size: "equal": every group gives every training set as many tiles; "all data": all there are.
        view: The view in words.
        cells: Training sets in rows, magnifications in columns, row by row.
        scales: What the network saw, per magnification.
        notes: Caveats, one sentence each.
    """

    experiment: Experiment
    training_size: TrainingSize
    view: str
    cells: tuple[MatrixCell, ...]
    scales: tuple[SeenScale, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the training sets."""
        return tuple(dict.fromkeys(cell.trained_on for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Scored magnifications, lowest first."""
        return tuple(dict.fromkeys(cell.magnification for cell in self.cells))

    def cell(self, trained_on: str, magnification: str) -> MatrixCell:
        """Return one cell."""
        return next(c for c in self.cells if (c.trained_on, c.magnification) == (trained_on, magnification))


@dataclass(frozen=True)
class MatrixStudy:
    """All matrices of a data set.

    Attributes:
        data_set: Its name.
        backbone: The backbone.
        protocol: How the numbers were made, with the seeds.
        matrices: With equal training sizes first; the view as it is first.
        marks: Marks of every number: SYNTHETIC, TOO NARROW.
        answer: What the matrices say, in plain words.
        licence: Of the data.
        citation: Of the data.
        split_hash: Hash of the outer folds.
    """

    data_set: str
    backbone: str
    protocol: str
    matrices: tuple[MagnificationMatrix, ...]
    marks: tuple[str, ...]
    answer: str
    licence: str
    citation: str
    split_hash: str

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)
