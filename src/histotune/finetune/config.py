"""Settings of the finetune room."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from histotune.finetune.methods import Method
from histotune.images.config import AugmentConfig
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

TrainPrecision = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
PrefixStorage = Literal["auto", "fp32", "fp16", "off"]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
IN_LOOP = ("lr", "head_lr", "weight_decay", "epochs")
IN_METHOD = ("rank", "n_blocks", "layer_decay")
READ_BY: dict[str, tuple[Method, ...]] = {
    "rank": ("lora", "dora"),
    "n_blocks": ("last-blocks", "lora", "dora"),
    "layer_decay": ("last-blocks", "full"),
}
"""Settings that some methods alone read."""
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])(I?)B", re.IGNORECASE)
POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
ASIDE = ("micro_batch", "checkpointing", "save_minutes")
"""Settings of the loop that change a result by rounding alone."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodConfig(_Config):
    """Which parameters of the backbone move.

    Attributes:
        name: ``lora`` and ``dora`` add low-rank updates beside frozen weights (Hu et al. 2022, arXiv 2106.09685; Liu et
            al. 2024, arXiv 2402.09353); ``last-blocks`` trains the last blocks and what follows them; ``full`` trains
            every weight; ``norm`` trains the normalisation layers alone.
        n_blocks: How many of the last blocks move; None: one for ``last-blocks``, all others for ``lora`` and ``dora``.
        rank: Rank of the low-rank updates.
        alpha: Their scale is ``alpha / rank``.
        dropout: Share of their inputs that is left out while training.
        targets: Layers that they change, such as ``q`` and ``v``; empty takes the default of the backbone's family.
        layer_decay: Factor of the learning rate from one block to the one before it, for ``last-blocks`` and ``full``
            (Bao et al. 2022, arXiv 2106.08254).
    """

    name: Method = "last-blocks"
    n_blocks: int | None = Field(None, ge=1)
    rank: int = Field(16, ge=1)
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ()
    layer_decay: float = Field(0.75, gt=0, le=1)


class LoopConfig(_Config):
    """How a network is trained.

    Attributes:
        epochs: Passes over as many tiles as there are to train on.
        batch_size: Tiles per step.
        micro_batch: Tiles per forward pass; the gradients of a step are added up. None takes as many as fit.
        lr: Learning rate of the backbone's parameters at its peak.
        head_lr: Learning rate of the head, in standardised columns.
        weight_decay: Decay of the backbone's weights (Loshchilov & Hutter 2019); norms, biases and the head have none.
        warmup: Share of the steps over which the rate rises; it then falls along half a cosine.
        clip: Largest norm of a step's gradient.
        label_smoothing: As torch's cross-entropy means it.
        sampling: ``class-group`` draws the classes equally often, and within a class its groups; ``tiles`` takes every
            tile once per epoch.
        precision: Of the matrix products; ``auto`` takes bf16 where it is fast, fp16 with a scaled loss on Turing, fp32
            on a processor.
        checkpointing: Keep the inputs of blocks alone and compute the rest again: less memory, about a third more time.
            Also where too few tiles would fit without it.
        save_minutes: Minutes between two checkpoints.
        seed: Seed of sampling, augmentation and dropout.
    """

    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    lr: Rate = 3e-4
    head_lr: Rate = 1e-3
    weight_decay: float = Field(0.05, ge=0)
    warmup: float = Field(0.1, ge=0, le=1)
    clip: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    sampling: Literal["class-group", "tiles"] = "class-group"
    precision: TrainPrecision = "auto"
    checkpointing: bool = False
    save_minutes: float = Field(10.0, gt=0)
    seed: int = Field(0, ge=0)


class PrefixConfig(_Config):
    """How the output of the frozen blocks is kept.

    Attributes:
        storage: ``fp16`` halves the room and is taken only where the first logits stay within 1e-3; ``auto`` tries it;
            ``off`` computes the frozen blocks again in every step.
        max_gib: Room that may be taken; more is announced and refused before anything is computed.
    """

    storage: PrefixStorage = "auto"
    max_gib: float = Field(50.0, gt=0)


class SearchRange(_Config):
    """What one setting may be: a number between two bounds, or one of some values.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        log: Whether the logarithm is drawn evenly.
        values: The values alone; the bounds are their ends.
    """

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    values: tuple[float, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _read_values(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("values"):
            return {**data, "low": min(data["values"]), "high": max(data["values"]), "log": False}
        return data

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.values and not self.low < self.high:
            raise ValueError("low must lie below high")
        if self.log and self.low <= 0:
            raise ValueError("the lower bound of a logarithm lies above 0")
        return self


def _pair(*, log: bool) -> BeforeValidator:
    """Read two bounds, such as [1e-5, 1e-3], as a range."""

    def read(data: object) -> object:
        """Return the fields of a range for two bounds; anything else is for pydantic to judge."""
        if isinstance(data, list | tuple) and len(data) == 2:
            return {"low": data[0], "high": data[1], "log": log}
        return {"log": log, **data} if isinstance(data, dict) else data

    return BeforeValidator(read)


Spread = Annotated[SearchRange, _pair(log=False)]
LogSpread = Annotated[SearchRange, _pair(log=True)]


class SearchSpace(_Config):
    """What a search varies; two bounds are a range, ``{"values": [...]}`` names all values.

    Attributes:
        lr: Learning rate of the backbone; bounds are those of its logarithm, as for every rate, decay and rank.
        head_lr: Learning rate of the head.
        weight_decay: Decay of the backbone's weights.
        epochs: Length of the schedule.
        rank: Rank of low-rank updates.
        n_blocks: How many of the last blocks move; every number keeps an output of frozen blocks of its own.
        layer_decay: Factor of the rate from one block to the one before it.
        augmentation: Strength of the config's augmentation: 1 as it stands, 0.5 half of its stain, blur and so on.
            Choices alone, since every strength keeps an output of frozen blocks of its own.
    """

    lr: LogSpread | None = SearchRange(low=3e-5, high=3e-3, log=True)
    head_lr: LogSpread | None = None
    weight_decay: LogSpread | None = SearchRange(low=1e-3, high=0.3, log=True)
    epochs: Spread | None = None
    rank: LogSpread | None = None
    n_blocks: Spread | None = None
    layer_decay: Spread | None = None
    augmentation: Spread | None = None

    def varied(self) -> dict[str, SearchRange]:
        """Return the range of every setting that varies."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in named.items() if one is not None}


class TuningSearch(_Config):
    """A search by Optuna (Akiba et al. 2019) over more than learning rates; trials see the tuning groups alone.

    Attributes:
        n_trials: Trials per training set, those of all processes that work on it together.
        space: What varies.
        seed: Seed of the sampler: the tree-structured Parzen estimator (Bergstra et al. 2011).
        prune_after: Epochs after which a trial is stopped whose tuning loss is worse than the median of the finished
            ones at the same epoch; None stops none.
        unpruned: Trials that finish before any is stopped.
    """

    n_trials: int = Field(20, ge=1)
    space: SearchSpace = Field(default_factory=SearchSpace)
    seed: int = Field(0, ge=0)
    prune_after: int | None = Field(2, ge=1)
    unpruned: int = Field(5, ge=1)


class FinetuneConfig(_Config):
    """How a backbone is fine-tuned beside its probe.

    Attributes:
        method: Which parameters move.
        loop: How they are trained.
        prefix: How the output of frozen blocks is kept.
        augment: How tiles are varied while training.
        views: Variations of each tile that are drawn once and used in turn; 0 draws a new one in every epoch, which
            leaves nothing to keep.
        rates: Learning rates to choose from on the tuning groups; empty tries ``loop.lr`` alone.
        search: A search over more than learning rates in place of ``rates``.
        inner: ``folds``: every training group is a tuning group in turn, where a kept prefix makes that cheap;
            ``hold-out``: a quarter of them once; ``auto`` takes folds where the prefix is kept.
        inner_folds: Number of inner folds.
        tuning_share: Share of the groups that a hold-out takes for tuning.
        standard_errors: By how many standard errors the tuned model must be better on tuning groups, in log-loss or in
            AUROC, to be returned in place of the probe; worse by as many in the other one keeps the probe.
        least_groups: Fewer tuning groups than these, and the last step is taken: a best one can't be told.
        keep_tuned: Return the tuned model whatever the tuning groups say; every result says so.
        fit: Memory that a step may take, such as ``15GB``; None takes the card's, or half of the machine's without one.
    """

    method: MethodConfig = Field(default_factory=MethodConfig)
    loop: LoopConfig = Field(default_factory=LoopConfig)
    prefix: PrefixConfig = Field(default_factory=PrefixConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    views: int = Field(8, ge=0)
    rates: tuple[Rate, ...] = ()
    search: TuningSearch | None = None
    inner: Literal["auto", "folds", "hold-out"] = "auto"
    inner_folds: int = Field(4, ge=2)
    tuning_share: float = Field(0.25, gt=0, lt=1)
    standard_errors: float = Field(1.0, ge=0)
    least_groups: int = Field(10, ge=2)
    keep_tuned: bool = False
    fit: str | None = None

    @field_validator("fit", mode="before")
    @classmethod
    def _check_fit(cls, fit: object) -> object:
        if fit is not None:
            gib_of(str(fit))  # a bare number, which is no text to --set, has no unit
        return fit

    @model_validator(mode="after")
    def _check_views(self) -> Self:
        if self.views == 0 and self.prefix.storage in ("fp32", "fp16"):
            raise ValueError(
                "a new view of every tile in every epoch (views=0) leaves nothing to keep; set views=8, or "
                "prefix.storage=off"
            )
        return self

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if self.search is None:
            return self
        if self.rates:
            raise ValueError("rates and search both say what is tried; leave one of them out")
        if self.search.space.augmentation is not None and not self.search.space.augmentation.values:
            raise ValueError('search.space.augmentation takes choices, such as {"values": [0, 0.5, 1]}')
        for name, value in _ends(self.search.space):
            if self.method.name not in READ_BY.get(name, (self.method.name,)):
                raise ValueError(f"search.space.{name} varies nothing: the method {self.method.name} does not read it")
            try:
                TrialSettings.of(self).model_copy(update={name: value}).applied(self)
            except ValidationError as error:
                raise ValueError(f"search.space.{name} reaches {value}: {error.errors()[0]['msg']}") from error
        return self

    def choices(self) -> dict[str, Any]:
        """Return what a result depends on beyond rounding: all but the memory that may be taken, and what follows."""
        data = self.model_dump(mode="json", exclude={"fit"})
        for name in ASIDE:
            data["loop"].pop(name)
        return data


def _ends(space: SearchSpace) -> Iterator[tuple[str, Any]]:
    """Yield the ends of every range and all values of every choice, with the setting's name."""
    for name, one in space.varied().items():
        yield from ((name, value) for value in one.values or (one.low, one.high))


class TrialSettings(_Config):
    """What differs between the candidates of one fine-tuning.

    Attributes:
        lr: Learning rate of the backbone.
        head_lr: Learning rate of the head.
        weight_decay: Decay of the backbone's weights.
        epochs: Length of the schedule.
        rank: Rank of low-rank updates.
        n_blocks: How many of the last blocks move, as in the method.
        layer_decay: Factor of the rate from one block to the one before it.
        augmentation: Strength of the augmentation; 1 as the config has it.
    """

    lr: float
    head_lr: float
    weight_decay: float
    epochs: int
    rank: int
    n_blocks: int | None
    layer_decay: float
    augmentation: float = 1.0

    @classmethod
    def of(cls, config: FinetuneConfig) -> TrialSettings:
        """Return the settings that a config has."""
        loop = {name: getattr(config.loop, name) for name in IN_LOOP}
        return cls(**loop, **{name: getattr(config.method, name) for name in IN_METHOD})

    def applied(self, config: FinetuneConfig) -> FinetuneConfig:
        """Return a config with these settings, and nothing left to search for.

        Raises:
            ValidationError: A value that its setting does not take.
        """
        loop = {**config.loop.model_dump(), **{name: getattr(self, name) for name in IN_LOOP}}
        method = {**config.method.model_dump(), **{name: getattr(self, name) for name in IN_METHOD}}
        augment = scaled_augmentation(config.augment, self.augmentation).model_dump()
        own = {"loop": loop, "method": method, "augment": augment, "rates": (), "search": None}
        return FinetuneConfig.model_validate({**config.model_dump(), **own})


def scaled_augmentation(augment: AugmentConfig, strength: float) -> AugmentConfig:
    """Return an augmentation of another strength; symmetries have none.

    Example:
        >>> scaled_augmentation(AugmentConfig(stain=0.1, crop=0.5), 0.5).identity()
        {'dihedral': True, 'crop': 0.75, 'stain': 0.05}
    """
    if strength == 1.0:
        return augment
    return AugmentConfig.model_validate(
        {
            **augment.model_dump(),
            "crop": 1.0 - (1.0 - augment.crop) * strength,
            "stain": augment.stain * strength,
            "magnification": augment.magnification**strength,
            "blur": augment.blur * strength,
        }
    )


def gib_of(text: str) -> float:
    """Return a size in GiB (2^30 bytes).

    Args:
        text: A number and its unit: GB is 10^9 bytes, GiB is 2^30 bytes.

    Returns:
        The size.

    Raises:
        UserError: No number, no unit, or nothing.

    Example:
        >>> round(gib_of("15GB"), 2), gib_of("15 GiB")
        (13.97, 15.0)
    """
    found = SIZE.fullmatch(text.strip())
    size_gib = 0.0
    if found is not None:
        power = POWERS[found[2].upper()]
        size_gib = float(found[1]) * (1024.0**power if found[3] else 1000.0**power) / 2**30
    if size_gib <= 0:
        raise UserError(
            "this is no amount of memory",
            value=text,
            allowed="a number and its unit: 15GB (10^9 bytes each), 14.5 GiB (2^30 bytes each), 800MB",
            fix="--fit 15GB",
        )
    return size_gib
