"""What all trainings of one fine-tuning share: the frozen network, the tiles' pixels or tokens, and the start."""

# N tiles, n rows, B batch, S side of the input

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from histotune.backbones.network import Network, build_network, seeded
from histotune.finetune.batches import Inputs, Normalisation, PixelInputs, TilePixels
from histotune.finetune.config import READ_BY
from histotune.finetune.cut import Prefix, cut_network, recompute_blocks
from histotune.finetune.loop import tile_logits, training_dtype
from histotune.finetune.methods import (
    MethodChoice,
    Trainable,
    check_method,
    frozen_norms,
    layer_decay_scale,
    make_trainable,
    rest_before,
)
from histotune.finetune.prefix import HalfOverflowError, PrefixPlace, PrefixTokens, token_keys
from histotune.finetune.sections import find_sections
from histotune.finetune.tuned_model import TunedModel, head_of_probe
from histotune.images.augment import check_augmentation
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.backbones.spec import BackboneSpec
    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings
    from histotune.finetune.config import FinetuneConfig
    from histotune.finetune.sections import Sections
    from histotune.finetune.tuned_model import LinearHead
    from histotune.heads.head import Head
    from histotune.images.config import LoaderConfig, ViewConfig

    Int = NDArray[np.int64]


LOG = logging.getLogger(__name__)
FP16_LIMIT = 1e-3
"""Tokens kept in half precision may move a logit by this much at the start."""
CUT_LIMIT = 1e-2
"""What a network that is cut rightly moves no logit by, as a share of the largest."""
CHECKED_TILES = 32
DECAYED = ("last-blocks", "full")
"""Methods whose learning rate falls from block to block; adapters and norms have one rate."""


@dataclass(frozen=True)
class TunedTiles:
    """The tiles of a fine-tuning and how a backbone sees them.

    Attributes:
        tiles: The tiles; rows in the order of the embeddings.
        embeddings: What the frozen backbone makes of them; the probe is trained on these.
        spec: The backbone.
        view: How an image becomes its input.
        loader: How pixels are read.
        cache: Root folder of the cache.
    """

    tiles: TileSet
    embeddings: Embeddings
    spec: BackboneSpec
    view: ViewConfig
    loader: LoaderConfig
    cache: Path


@dataclass(frozen=True)
class StartingPoint:
    """A model at its probe, and how fast each of its parameters may move.

    Attributes:
        model: The backbone and the probe's head.
        trainable: Which parameters of the backbone move.
        rate_of: Factor of the learning rate per parameter of the backbone.
        inputs: What the model takes.
    """

    model: TunedModel
    trainable: Trainable
    rate_of: Mapping[str, float]
    inputs: Inputs


@dataclass
class TuningBench:
    """Makes models that start at a probe, all over one frozen network and one set of kept tokens.

    Attributes:
        of: The tiles.
        config: How the backbone is fine-tuned.
    """

    of: TunedTiles
    config: FinetuneConfig
    _base: Network = field(init=False, repr=False)
    _tokens: dict[str, PrefixTokens] = field(init=False, repr=False, default_factory=dict)
    # What follows the frozen blocks, before any training, by method: a start copies it, and asks the network no more.
    _cut: dict[tuple[MethodChoice, bool], Trainable] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Build the network once, and find its blocks."""
        check_method(self.of.spec, chosen_method(self.config))
        check_augmentation(self.of.tiles, self.of.view, self.config.augment)
        device = find_device()
        self._dtype = training_dtype(self.config.loop, device)
        self._device = torch.device("cuda" if device.kind == "cuda" else "cpu")
        self._float = torch.float64 if self._dtype == torch.float64 else torch.float32
        self._base = build_network(self.of.spec)
        self._sections = find_sections(self._base, self.of.view.size_px)
        self._decoded = TilePixels(self.of.tiles, self.of.view, self.of.loader, self.of.cache)
        self._keys = self._decoded.keys
        self.pixels = self._varied_pixels()

    def with_config(self, config: FinetuneConfig) -> TuningBench:
        """Return a bench of other settings over the same network and tiles; it keeps tokens of its own where they vary.

        Args:
            config: A candidate's settings; precision, seed and the way tokens are stored are those of this bench.
        """
        if config == self.config:
            return self
        other = copy.copy(self)
        other.config = config
        if config.augment != self.config.augment:
            check_augmentation(self.of.tiles, self.of.view, config.augment)
            other.pixels, other._tokens = other._varied_pixels(), {}
        return other

    def _varied_pixels(self) -> PixelInputs:
        like = torch.empty(0, device=self._device, dtype=self._float)
        seed = self.config.loop.seed
        return PixelInputs(self._decoded, Normalisation.of(self.of.spec), self.config.augment, seed, like)

    @property
    def base(self) -> Network:
        """The frozen network; whoever changes it copies it first."""
        return self._base

    @property
    def sections(self) -> Sections:
        """Its blocks."""
        return self._sections

    @property
    def device(self) -> torch.device:
        """Where models are trained."""
        return self._device

    @property
    def number_type(self) -> torch.dtype:
        """Type of the models' parameters."""
        return self._float

    @property
    def product_type(self) -> torch.dtype:
        """Type that matrix products are computed in."""
        return self._dtype

    @property
    def n_views(self) -> int:
        """Views of a tile that a training shows in turn; 1 where nothing is varied, 0 where each epoch draws anew."""
        return 1 if self.config.augment.is_off else self.config.views

    @property
    def keeps_prefix(self) -> bool:
        """Whether the output of frozen blocks is kept."""
        return self.config.prefix.storage != "off" and self.n_views > 0

    @property
    def cuts(self) -> bool:
        """Whether the method leaves blocks at the beginning frozen, so that there is an output to keep."""
        choice = chosen_method(self.config)
        if choice.name not in READ_BY["n_blocks"] or choice.n_blocks is None:
            return False
        return self.keeps_prefix and choice.n_blocks < len(self._sections.names)

    def start(self, probe: Head, choice: MethodChoice | None = None) -> StartingPoint:
        """Return a model that says what a probe says, with the method's parameters set free.

        Args:
            probe: The probe's head, on embeddings of the frozen backbone.
            choice: Which parameters move; None takes the config's.

        Returns:
            The model on its device. Where blocks before the first trained parameter are frozen and their output is
            kept, the model takes tokens in place of pixels.
        """
        choice, head = choice or chosen_method(self.config), head_of_probe(probe)
        names = self._sections.names
        key = (choice, self.config.loop.checkpointing)
        if key in self._cut and names[self._cut[key].first] in self._tokens:
            cut = copy.deepcopy(self._cut[key])
            model = self._placed(cut.network, head)
            return StartingPoint(model, cut, self._rates(cut, choice), self._tokens[names[cut.first]])
        trainable = self._set_free(choice)
        first = trainable.first
        rate_of = self._rates(trainable, choice)
        if not self.keeps_prefix or not 1 <= first < len(names):
            return StartingPoint(self._placed(trainable.network, head), trainable, rate_of, self.pixels)
        block = names[first]
        plain_nK = None if block in self._tokens else self._first_logits(trainable.network, head)
        cut = replace(trainable, network=cut_network(trainable.network, names, first, self.of.view.size_px))
        cut.network.module.to("cpu", torch.float32)
        self._cut[key] = copy.deepcopy(cut)
        model = self._placed(cut.network, head)
        if plain_nK is not None:
            self._tokens[block] = self._kept_tokens(block, model, plain_nK)
        return StartingPoint(model, cut, rate_of, self._tokens[block])

    def _set_free(self, choice: MethodChoice) -> Trainable:
        """Return a copy of the network with the method's parameters set free; what is frozen is at rest."""
        network = copy.deepcopy(self._base)
        network.module.to("cpu", torch.float32)  # the base may have moved to the device for its tokens
        with seeded(self.config.loop.seed):  # peft draws A from torch's own generator
            trainable = make_trainable(network, self.of.spec, choice)
        frozen_norms(trainable.network.module)
        rest_before(trainable)
        if self.config.loop.checkpointing:
            recompute_blocks(trainable.network.module, self._sections.names[max(trainable.first, 0) :])
        return trainable

    def _rates(self, trainable: Trainable, choice: MethodChoice) -> dict[str, float]:
        """Return the factor of the learning rate per parameter."""
        return layer_decay_scale(trainable, self.config.method.layer_decay if choice.name in DECAYED else 1.0)

    def prepare(self, inputs: Inputs, rows: Int, scored: Int) -> int:
        """Compute and keep the tokens of tiles that will be trained on or scored; nothing to do for pixels."""
        if not isinstance(inputs, PrefixTokens):
            return 0
        n_used = min(self.n_views, self.config.loop.epochs)
        return inputs.prepare(rows, range(n_used), scored)

    def _placed(self, network: Network, head: LinearHead) -> TunedModel:
        model = TunedModel(network, head, self._float).to(self._device)
        model.backbone.to(self._float)
        return model

    def _kept_tokens(self, block: str, model: TunedModel, plain_nK: NDArray[np.float64]) -> PrefixTokens:
        """Return the tokens before a block; in half precision where that moves no first logit beyond its limit."""
        if self._float != torch.float64 and self.config.prefix.storage != "fp32":
            halves = self._tokens_in(block, "fp16")
            try:
                moved = self._moved(model, halves, plain_nK)
            except HalfOverflowError:
                moved = float("inf")
            if moved <= FP16_LIMIT:
                return halves
            LOG.info("Keeping the frozen part in fp32: fp16 would change what the head says (--debug shows how much)")
            LOG.debug("in fp16 a first logit would move by %.2g, allowed %g", moved, FP16_LIMIT)
        whole = self._tokens_in(block, "fp32")
        moved = self._moved(model, whole, plain_nK)
        limit = CUT_LIMIT * max(1.0, float(np.abs(plain_nK).max()))
        if not moved <= limit:
            raise UserError(
                f"this network can't be cut before {block}: its first logits move by {moved:.2g}",
                value=self.of.spec.name,
                allowed=f"{limit:.2g}",
                fix="--set finetune.prefix.storage=off",
            )
        return whole

    def _moved(self, model: TunedModel, tokens: PrefixTokens, plain_nK: NDArray[np.float64]) -> float:
        """Return by how much kept tokens move a first logit at most."""
        return float(np.abs(tile_logits(model, tokens, self._checked_rows) - plain_nK).max())

    def _first_logits(self, network: Network, head: LinearHead) -> NDArray[np.float64]:
        """Return the first logits of some tiles without kept tokens."""
        return tile_logits(self._placed(network, head), self.pixels, self._checked_rows)

    @property
    def _checked_rows(self) -> Int:
        n = len(self.of.tiles)
        return np.linspace(0, n - 1, min(CHECKED_TILES, n)).astype(np.int64)

    def _tokens_in(self, block: str, storage: str) -> PrefixTokens:
        self._base.module.to(self._device, self._float)
        place = PrefixPlace(
            self.of.cache, self.of.embeddings.space, block, "fp16" if storage == "fp16" else "fp32",
            self.config.prefix.max_gib,
        )  # fmt: skip
        if self._float == torch.float64:
            place = replace(place, space=replace(place.space, precision="fp64"))
        variation = canonical_json({"augment": self.config.augment.identity(), "seed": self.config.loop.seed})
        return PrefixTokens(Prefix(self._base, block), self.pixels, place, token_keys(self._keys, variation))


def chosen_method(config: FinetuneConfig) -> MethodChoice:
    """Return which parameters a config trains."""
    method = config.method
    n_blocks = 1 if method.name == "last-blocks" and method.n_blocks is None else method.n_blocks
    return MethodChoice(method.name, n_blocks, method.rank, method.alpha, method.dropout, method.targets)


def largest_method(config: FinetuneConfig) -> MethodChoice:
    """Return the method that moves the most parameters of all that a config may try: what memory must be there for.

    Example:
        >>> from histotune.finetune.config import FinetuneConfig
        >>> search = {"space": {"n_blocks": [1, 4]}}
        >>> largest_method(FinetuneConfig.model_validate({"search": search})).n_blocks
        4
    """
    own = chosen_method(config)
    varied = {} if config.search is None else config.search.space.varied()
    n_blocks = int(varied["n_blocks"].high) if "n_blocks" in varied else own.n_blocks
    return replace(own, n_blocks=n_blocks, rank=int(varied["rank"].high) if "rank" in varied else own.rank)
