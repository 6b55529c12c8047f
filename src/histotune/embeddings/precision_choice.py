"""Which precision a backbone embeds in: remembered where it was checked, checked on the data's own tiles otherwise."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.embeddings.precision import (
    CHECK_TILES,
    MEDIAN_LIMIT,
    P99_LIMIT,
    PROBE_LIMIT,
    WISH_TILES,
    PrecisionCheck,
    PrecisionChoice,
    candidates,
    choose_by_check,
    spread_rows,
)
from histotune.embeddings.runner import BatchRunner, compute_threads
from histotune.embeddings.space import embedding_space, with_key
from histotune.images.loader import load_views
from histotune.tools.devices import Computed, choose_precision
from histotune.tools.errors import UserError
from histotune.tools.files import lock, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.embeddings.rows import Rows
    from histotune.embeddings.space import EmbedRequest
    from histotune.images.decode import PixelReader
    from histotune.images.hashes import HashIndex
    from histotune.images.loader import Views, Wanted
    from histotune.tools.devices import ComputeDevice

LOG = logging.getLogger(__name__)
WAIT_S = 24 * 3600.0  # another process may be checking a large network on a CPU
# N tiles, D columns


def remembered_choice(request: EmbedRequest, device: ComputeDevice, index: HashIndex) -> PrecisionChoice | None:
    """Return the precision without computing anything: where there is no choice, or where it was checked before.

    Args:
        request: Backbone, view, wanted precision, cache.
        device: Where the backbone runs.
        index: Remembers the hashes of weight files.

    Returns:
        The choice; None where it has to be checked on tiles first.

    Raises:
        UserError: A precision that the device does not have, or missing weights.
    """
    tried = _tried(request, device)
    if len(tried) == 1:
        return PrecisionChoice("fp32", (), "nothing faster than fp32 was asked for, or is there")
    try:
        data = json.loads(_record(request, device, index).read_text(encoding="utf-8"))
        checks = tuple(PrecisionCheck(**check) for check in data["checks"])
        return PrecisionChoice(data["precision"], checks, data["reason"])
    except (OSError, ValueError, KeyError, TypeError):  # never checked, or the record is damaged: check (again)
        return None


def checked_choice(
    request: EmbedRequest, device: ComputeDevice, index: HashIndex, reader: PixelReader, rows: Rows
) -> PrecisionChoice:
    """Check faster precisions against fp32 on tiles from all over a data set, and remember the answer.

    Of several processes that ask at once the first checks; the others wait and read its answer.

    Args:
        request: Backbone, view, wanted precision, cache.
        device: Where the backbone runs.
        index: Remembers the hashes of weight files.
        reader: Reads the tiles.
        rows: The rows of the data set.

    Returns:
        The fastest precision that passes. An explicit wish is granted in any case, with a warning where it fails.

    Raises:
        UnreadableTilesError: Tiles of the check that can't be read.
    """
    with _one_at_a_time(_record(request, device, index).with_suffix(".lock")):
        return remembered_choice(request, device, index) or _check(request, device, index, reader, rows)


def _check(
    request: EmbedRequest, device: ComputeDevice, index: HashIndex, reader: PixelReader, rows: Rows
) -> PrecisionChoice:
    tried = _tried(request, device)
    keys = list(dict.fromkeys(rows.keys))
    # an explicit wish is granted in any case: fewer tiles say whether to warn
    n_tiles = CHECK_TILES if request.embedding.precision == "auto" else WISH_TILES
    sample = [rows[keys[place]].wanted for place in spread_rows(len(keys), n_tiles)]
    batches = _views(request, reader, sample)
    choice = choose_by_check(tried, lambda precision: _embed(request, device, batches, precision), len(sample))
    if request.embedding.precision != "auto" and choice.precision != tried[0]:
        LOG.warning("%s as asked for, against the check: %s", tried[0], choice.reason)
        choice = replace(choice, precision=tried[0], reason=f"{tried[0]} as asked for; {choice.reason}")
    elif choice.checks:
        LOG.info(choice.reason)
    if choice.checks:
        _remember(choice, _record(request, device, index))
    return choice


def _tried(request: EmbedRequest, device: ComputeDevice) -> tuple[Computed, ...]:
    """Return the precisions to check, fp32 last; fp32 alone where nothing is to be checked."""
    if request.spec.kind in ("colour-histogram", "external"):
        return ("fp32",)
    if request.embedding.precision == "auto":
        return candidates(device)
    explicit = choose_precision(device, request.embedding.precision)
    return ("fp32",) if explicit == "fp32" else (explicit, "fp32")


def _record(request: EmbedRequest, device: ComputeDevice, index: HashIndex) -> Path:
    """Return where the answer is kept: by everything that decides it but the tiles."""
    space = embedding_space(request.spec, request.view, device, "fp32", index)
    question = f"check of {', '.join(_tried(request, device))} within {MEDIAN_LIMIT:g}, {P99_LIMIT:g}, {PROBE_LIMIT:g}"
    return request.cache / "precision" / f"{with_key(replace(space, precision=question)).key[:32]}.json"


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock for the block; where the cache can't be written nobody else could read an answer either."""
    with ExitStack() as stack:
        with suppress(UserError):
            stack.enter_context(lock(path, timeout_s=WAIT_S))
        yield


def _remember(choice: PrecisionChoice, path: Path) -> None:
    try:
        write_json(path, choice.as_dict())
    except UserError as error:
        LOG.warning("the answer of the precision check can't be kept (%s): %s", error.what, path)


def _views(request: EmbedRequest, reader: PixelReader, sample: Sequence[Wanted]) -> list[Views]:
    size = request.embedding.first_batch_size
    sizes = [min(size, len(sample) - start) for start in range(0, len(sample), size)]
    find_all_bad = request.on_bad_image == "skip"
    return list(load_views(sample, sizes, request.view, reader, find_all_bad=find_all_bad))


def _embed(
    request: EmbedRequest, device: ComputeDevice, batches: Sequence[Views], precision: Computed
) -> NDArray[np.float32]:
    """Embed the tiles of the check in one precision."""
    from histotune.backbones.load import load_backbone

    with compute_threads(request):
        backbone = load_backbone(replace(request.spec, size_px=request.view.size_px), device, precision)
        runner = BatchRunner(backbone, request.embedding.first_batch_size)
        return np.concatenate([runner.run(views.pixels_BSSC, views.n_inputs) for views in batches])
