"""What a served head answers, as records that the OpenAPI description is made from."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from histotune import __version__
from histotune.backbones.merged_folder import licence_of, shown_name
from histotune.deploy.predict import JOINT
from histotune.heads.reference import SCALE_FACTOR

if TYPE_CHECKING:
    from histotune.deploy.live_head import LiveHead, LiveImage
    from histotune.evaluation.findings import Findings


class Answer(BaseModel):
    """A record that goes to a client."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestRefusal(Answer):
    """Why a request is not answered."""

    error: str = Field(description="A sentence.")


class Health(Answer):
    """That a server answers."""

    status: Literal["ok"]
    head: str
    version: str


class TrainingData(Answer):
    """A data set of the run that a head belongs to."""

    name: str
    licence: str
    synthetic: bool = Field(description="Rendered by a program: no tissue.")

    @classmethod
    def of(cls, findings: Findings | None) -> tuple[TrainingData, ...]:
        """Return the data sets of a run; none where there is no run."""
        known = findings.datasets if findings else ()
        return tuple(cls(name=one.name, licence=one.licence, synthetic=one.synthetic) for one in known)


class ModelFacts(Answer):
    """What is served."""

    title: str = Field(description="Backbone and classes.")
    version: str = Field(description="Of histotune.")
    head_id: str
    backbone: str
    licence: str = Field(description="Of the backbone.")
    class_names: tuple[str, ...]
    family: str = Field(description="Of the head.")
    threshold: float | None = Field(description="Probability from which the second of two classes is said.")
    view: str = Field(description="How an image becomes the network's input.")
    target_mpp: float | None = Field(description="The view needs the scale of each image where this is a number.")
    precision: str
    device: str
    n_tiles: int = Field(description="Tiles that trained the head.")
    n_groups: int = Field(description="Cases that trained the head.")
    data: tuple[TrainingData, ...] = Field(description="Data sets of its run; empty where there is no run.")
    synthetic: bool = Field(description="The head learned from rendered tissue, not from patients.")
    sets: str = Field(description="What the sets of classes are worth, or why there are none.")
    far: str = Field(description="From where on an image counts as far from training, or that this is unknown.")
    no_map: str = Field(description="Why no map can be drawn; empty where one can.")
    use: str = "Research use only: not a medical device, not for diagnosis."

    @classmethod
    def of(cls, live: LiveHead, data: tuple[TrainingData, ...] = ()) -> ModelFacts:
        """Return the facts of a head, with the data sets of its run."""
        head, reference, sets = live.bundle.head, live.bundle.reference, live.predictor.sets
        name = shown_name(live.spec)
        return cls(
            title=f"{name}: {' or '.join(head.class_names)}",
            version=__version__,
            head_id=head.head_id,
            backbone=name,
            licence=licence_of(live.spec).name,
            class_names=head.class_names,
            family=head.family,
            threshold=_finite(head.threshold) if len(head.class_names) == 2 else None,
            view=live.bundle.view.words,
            target_mpp=live.bundle.view.target_mpp,
            precision=live.precision,
            device=live.device,
            n_tiles=head.n_tiles,
            n_groups=head.n_groups,
            data=data,
            synthetic=any(one.synthetic for one in data),
            sets=f"No sets of classes: {reference.reason}." if sets is None else sets.words(head.class_names),
            far=_far_words(live),
            no_map=live.no_map,
        )


class NearestTile(Answer):
    """A training tile that lies near, known by its hash: its picture is not part of a head."""

    sha256: str = Field(description="SHA-256 of its file; empty where it is unknown.")
    distance: float
    group: int = Field(description="Tiles of one number are of one case.")


class ImageAnswer(Answer):
    """What the head says of an image: the columns of ``histotune predict``."""

    name: str
    predicted: str
    probabilities: dict[str, float] = Field(description="Calibrated, by class.")
    threshold: float | None
    decision: str = Field(description="How the probabilities decide.")
    set: tuple[str, ...] | None = Field(description="Conformal set of classes; null where the head gives none.")
    abstains: bool | None = Field(description="Whether the set has several classes.")
    distance: float | None = Field(description="To the training tiles.")
    far: bool | None = Field(description="Whether that is beyond the limit.")
    input_mpp: float | None = Field(description="Scale at the network's input, um/px.")
    other_scale: bool | None = Field(description="Whether the training tiles had another.")
    width_px: int
    height_px: int
    nearest: tuple[NearestTile, ...] = Field(description="Nearest training tiles of the head's sample, nearest first.")
    warnings: tuple[str, ...] = Field(description="What to look at before this is used, a sentence each.")

    @classmethod
    def of(cls, image: LiveImage, row: dict[str, Any], live: LiveHead) -> ImageAnswer:
        """Return a row of the table as an answer."""
        found = row["set"]
        return cls(
            name=image.name,
            predicted=row["predicted"],
            probabilities={name: row[f"probability_{name}"] for name in live.bundle.head.class_names},
            threshold=_finite(row["threshold"]),
            decision=row["decision"],
            set=None if found is None else _members(found, live.bundle.head.class_names),
            abstains=row["abstains"],
            distance=_finite(row["distance"]),
            far=row["far"],
            input_mpp=_finite(row["input_mpp"]),
            other_scale=row["other_scale"],
            width_px=image.source_px[0],
            height_px=image.source_px[1],
            nearest=tuple(NearestTile(**asdict(one)) for one in row["nearest"]),
            warnings=tuple(_warnings(row, live)),
        )


class PredictAnswer(Answer):
    """What the head says of all images of a request, in their order."""

    images: list[ImageAnswer]
    model: ModelFacts


class MapWindow(Answer):
    """The terms of one network input."""

    box_px: tuple[float, float, float, float] = Field(description="Left, top, right, bottom in the image as sent.")
    terms: list[list[float]] = Field(description="Rows of what each place adds to the logit.")


class ExplainAnswer(Answer):
    """A logit as a sum: baseline, class token and all places add up to it."""

    image: ImageAnswer
    class_name: str
    against: tuple[str, ...]
    logit: float
    probability: float
    baseline: float
    cls_term: float
    map_sum: float
    cls_share: float = Field(description="Share of the class token in what is added, which no map can show.")
    words: str
    windows: list[MapWindow]
    picture_png_base64: str


def _members(text: str, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of a set, whatever their names hold."""
    rest, found = text, []
    for name in class_names:
        if rest == name or rest.startswith(name + JOINT):
            found.append(name)
            rest = rest[len(name) + len(JOINT) :]
    return tuple(found)


def _warnings(row: dict[str, Any], live: LiveHead) -> list[str]:
    """Return what is to be said of one image before anything is read off it."""
    scale, rule, said = live.bundle.reference.scale, live.predictor.far_rule, []
    if row["far"]:
        measured = "" if rule is None or row["distance"] is None else f" ({row['distance']:.2f}; {_limit(live)})"
        said.append(
            f"This image lies far from what trained this head{measured}: what the head says rests on no example. "
            "Blank, blurred, another stain, organ or scale?"
        )
    if row["abstains"]:
        said.append("The head abstains: its set holds several classes. Don't decide this one by the head.")
    if scale is None:
        return said
    trained = f"{scale.low_mpp:.3g} to {scale.high_mpp:.3g} um/px at the network's input"
    if row["other_scale"]:
        said.append(
            f"The network sees this image at {row['input_mpp']:.3g} um/px, and the training tiles had {trained} "
            f"(a factor of {SCALE_FACTOR * scale.factor:.3g} is allowed)."
        )
    elif row["input_mpp"] is None:
        said.append(f"The scale of this image is unknown, so it is not compared with the training's ({trained}).")
    return said


def _limit(live: LiveHead) -> str:
    rule = live.predictor.far_rule
    assert rule is not None
    return f"far is beyond {rule.limit:.2f}, as {100 * rule.measured:.1f} % of images like its training groups are"


def _far_words(live: LiveHead) -> str:
    rule = live.predictor.far_rule
    if rule is None:
        return "Distances from training are not known for this head."
    return (
        f"Distance to the {live.bundle.reference.sample.k if live.bundle.reference.sample else 0}th nearest training "
        f"tile; {_limit(live)} (measured on {rule.n_groups:,} groups held out in turn, {rule.n_tiles:,} tiles)."
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
