"""A head kept ready with its network: what it says of images that arrive one by one, in memory alone.

The pixels take the way that they take in ``predict``, by the same functions; only the cache is left out, so that
nothing of an image is kept or written anywhere.
"""

# B images of a batch, K classes, D columns, S side of the view, H height, W width, C channels

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.backbones.engine import load_backbone
from histotune.datasets.tileset import TileSet, tile_table
from histotune.deploy.predict import Predictor
from histotune.embeddings.precision import remembered_choice
from histotune.embeddings.runner import BatchRunner, compute_threads
from histotune.embeddings.space import Embeddings, EmbedRequest, embedding_space
from histotune.evaluation.explain import draw_explanation, explain_tile, require_explainable
from histotune.heads.distance import nearest_tiles
from histotune.images.decode import content_hash, decode_image
from histotune.images.loader import Views
from histotune.images.view_checks import check_view
from histotune.images.views import view_inputs
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.backbones.spec import Backbone, BackboneSpec
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.predict import PredictSettings
    from histotune.evaluation.explain import TileExplanation

LOG = logging.getLogger(__name__)
CPU_BATCH, NEAREST = 16, "nearest"


@dataclass(frozen=True)
class LiveImage:
    """An image on its way to the network.

    Attributes:
        name: As its sender calls it, for messages alone.
        inputs: The network's inputs of this image.
        source_px: Width and height as sent.
        mpp: Its scale, um/px; None where unknown.
        resized_px: Width and height after resizing, where the view has a target scale.
        pixels_HWC: uint8 (H, W, 3), kept where a map is to be drawn over it; None otherwise.
    """

    name: str
    inputs: Views
    source_px: tuple[int, int]
    mpp: float | None
    resized_px: tuple[int, int] | None = None
    pixels_HWC: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class LiveMap:
    """Where in an image a logit comes from, and that as a picture."""

    explanation: TileExplanation
    png: bytes


class LiveHead:
    """A head whose network is loaded.

    Args:
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        settings: Device, how pixels are read, scale of the images where their sender does not say it.

    Example:
        >>> live = LiveHead(bundle, spec, settings)  # doctest: +SKIP
        >>> live.predict([live.read(data, "tile.png")])[0]["predicted"]  # doctest: +SKIP
        'malignant'
    """

    def __init__(self, bundle: Bundle, backbone: BackboneSpec, settings: PredictSettings) -> None:
        self.bundle, self.spec, self.settings = bundle, backbone, settings
        self.predictor = Predictor(bundle, backbone, settings)
        embedding = settings.embedding.model_copy(update={"precision": bundle.precision})
        self._request = EmbedRequest(backbone, bundle.view, embedding, settings.loader, settings.cache)
        self._device = find_device(embedding.device)
        # A precision that would have to be checked on tiles first is left out: fp32 needs no check.
        chosen = remembered_choice(self._request, self._device, self._request.hashes)
        self.precision = "fp32" if chosen is None else chosen.precision
        self._space = embedding_space(backbone, bundle.view, self._device, self.precision, self._request.hashes)
        self._backbone = self._loaded("fp32" if chosen is None else chosen.precision)
        self._full: Backbone | None = self._backbone if self.precision == "fp32" else None
        self._runner = BatchRunner(self._backbone, self.batch_size)
        self._starting, self._drawing = Lock(), Lock()
        self.no_map = self._why_no_map()

    @property
    def batch_size(self) -> int:
        """Most images that go through the network together; small batches, two at once, fill a processor better."""
        most = self._request.embedding.first_batch_size
        return min(most, CPU_BATCH) if self._device.kind == "cpu" else most

    @property
    def device(self) -> str:
        """Where the network runs."""
        return self._device.kind

    def _loaded(self, precision: Any) -> Backbone:  # noqa: ANN401  (fp32, bf16 or fp16)
        spec = replace(self.spec, size_px=self.bundle.view.size_px)
        return load_backbone(spec, self._device, precision, self._request.hashes)

    def _why_no_map(self) -> str:
        """Return why no map can be drawn for this head; empty where one can."""
        try:
            require_explainable(self.bundle.head)
            blank = self.read_pixels(np.full((64, 64, 3), 255, np.uint8), "a blank image", self._any_mpp, keep=True)
            self.explain(blank)
        except UserError as error:
            return error.what
        return ""

    @property
    def _any_mpp(self) -> float | None:
        return self.settings.mpp or self.bundle.view.target_mpp

    # ---- From bytes to the network's inputs: any thread ----

    def read(self, data: bytes, name: str, mpp: float | None = None, *, keep: bool = False) -> LiveImage:
        """Decode an image and make the network's inputs of it.

        Args:
            data: The bytes of an image file.
            name: For messages.
            mpp: Its scale, um/px; None takes the settings'.
            keep: Keep the pixels, for a map.

        Returns:
            The image.

        Raises:
            UserError: No image that can be read, too large, or not to be seen by the head's view.
        """
        pixels_HWC = decode_image(data, name, self.settings.loader.max_pixels)
        return self.read_pixels(pixels_HWC, name, mpp, content_hash(data), keep=keep)

    def read_pixels(
        self, pixels_HWC: NDArray[np.uint8], name: str, mpp: float | None = None, content: str = "", *, keep: bool
    ) -> LiveImage:
        """Make the network's inputs of pixels; see :meth:`read`."""
        source_px = (int(pixels_HWC.shape[1]), int(pixels_HWC.shape[0]))
        image = LiveImage(name, Views(pixels_HWC[:0], (content,), (1,)), source_px, mpp or self.settings.mpp)
        geometry = check_view(_tiles([image]), self.bundle.view)
        resized_px = None
        if self.bundle.view.target_mpp is not None:
            resized_px = int(geometry.resized_px_N2[0, 0]), int(geometry.resized_px_N2[0, 1])
        inputs_KSSC = view_inputs(pixels_HWC, self.bundle.view, resized_px)
        views = Views(inputs_KSSC, (content,), (len(inputs_KSSC),))
        return replace(image, inputs=views, resized_px=resized_px, pixels_HWC=pixels_HWC if keep else None)

    # ---- Through the network: images of two threads at once, a map alone ----

    def predict(self, images: Sequence[LiveImage]) -> list[dict[str, Any]]:
        """Return what the head says of images: a row each, with the columns of ``predict`` and the nearest tiles."""
        views = [image.inputs for image in images]
        together = Views(
            np.concatenate([one.pixels_BSSC for one in views]),
            tuple(one.content[0] for one in views),
            tuple(one.n_inputs[0] for one in views),
        )
        with self._starting, compute_threads(self._request):
            computed = self._runner.start(together)
        matrix_BD = computed()
        tiles = _tiles(images)
        embeddings = Embeddings(matrix_BD, self._backbone.blocks, tiles.tile_ids, self._space, len(images))
        with self._starting:
            self._runner.start_shard()  # its counts are of no use here, and grow
            rows = self.predictor.rows(tiles, embeddings).to_dicts()
        sample = self.bundle.reference.sample
        near = [()] * len(rows) if sample is None else nearest_tiles(self.bundle.head, sample, embeddings)
        return [{**row, NEAREST: found} for row, found in zip(rows, near, strict=True)]

    def explain(self, image: LiveImage, class_name: str | None = None) -> TileExplanation:
        """Take the logit of an image apart, in fp32; its pixels must have been kept."""
        if image.pixels_HWC is None:
            raise ValueError("the pixels of this image were not kept")
        if self._full is None:
            self._full = self._loaded("fp32")
        head, view = self.bundle.head, self.bundle.view
        with compute_threads(self._request):
            return explain_tile(
                head, self._full, image.pixels_HWC, view, class_name=class_name, resized_px=image.resized_px
            )

    # ---- A picture: any thread ----

    def draw(self, image: LiveImage, explanation: TileExplanation) -> LiveMap:
        """Draw a map over its image, as a PNG in memory."""
        if image.pixels_HWC is None:
            raise ValueError("the pixels of this image were not kept")
        out = io.BytesIO()
        with self._drawing:  # matplotlib keeps fonts and styles for all threads
            picture = draw_explanation(explanation, image.pixels_HWC, image.name)
            picture.savefig(out, format="png", metadata={"Software": None})
            picture.clear()
        return LiveMap(explanation, out.getvalue())


def _tiles(images: Sequence[LiveImage]) -> TileSet:
    """Return images as tiles; their names are numbers, since senders may call several the same."""
    names = [f"{number:06d}" for number in range(len(images))]
    known: dict[str, object] = {"tile_id": names, "path": names, "mpp": [image.mpp for image in images]}
    for axis, name in enumerate(("width_px", "height_px")):
        known[name] = [image.source_px[axis] for image in images]
    return TileSet("images", tile_table(known), (), licence="the sender's own", citation="")
