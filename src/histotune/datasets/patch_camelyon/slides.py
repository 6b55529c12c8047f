"""Slides for copies without them: from the HDF5 copy's meta.csv, where pixels prove that tiles are the same."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.disk import list_files
from histotune.datasets.patch_camelyon import hdf5
from histotune.datasets.patch_camelyon.pixels import pixel_digests
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json, user_dir, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.patch_camelyon.part import Part

LOG = logging.getLogger(__name__)
FORMAT = 1  # raised when the rules of the join change, so that kept answers are not used
FRESH_NS = 2_000_000_000  # a file this new may change again within the clock tick that its mtime shows
WORDS = ["high", "low"]  # the two halves of a digest
# N tiles


@dataclass(frozen=True)
class Joined:
    """Parts with slides where the join held.

    Attributes:
        parts: The parts, in order.
        notes: What was joined, and what was not and why.
    """

    parts: tuple[Part, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Reference:
    """The HDF5 copy by pixels.

    Attributes:
        part: The part.
        digests: uint64 (N, 2).
    """

    part: Part
    digests: NDArray[np.uint64]


def join_slides(parts: Sequence[Part], folder: Path) -> Joined:
    """Give tiles the slide of the reference tile with the same pixels.

    A part is joined only where the pixels of all its tiles are found in the reference: row by row where the order is
    the same, by content otherwise. Where equal pixels come from several slides, the slide stays unknown. Only digests
    of the pixels are held in memory, and the answer is kept in the cache under the state of every file involved.

    Args:
        parts: Parts of any copy; those that know their slides are left as they are.
        folder: The HDF5 files with ``meta.csv``.

    Returns:
        The parts and a note on each.

    Raises:
        UserError: The reference holds no HDF5 copy with slides, or a tile can't be decoded.
    """
    wanted = [part for part in parts if part.slides is None]
    if not wanted:
        return Joined(tuple(parts), ("slides_from was not needed: this copy has a meta.csv of its own.",))
    reference = [part for part in hdf5.read_hdf5(list_files(folder)).parts if part.slides is not None]
    if not reference:
        raise UserError("this copy can't lend its slides: it has no meta.csv", value=folder,
                        fix="put the *_meta.csv files beside the HDF5 files")  # fmt: skip
    states = _file_states([*wanted, *reference])
    kept = user_dir("cache") / "slides" / f"{hash_json([FORMAT, states])}.json"
    answers = _recall(kept)
    if answers is None:
        known = [_Reference(part, pixel_digests(part, f"hashing reference {part.words}")) for part in reference]
        answers = [_join_part(part, known) for part in wanted]
        _remember(kept, states, answers)
    by_part = {id(part): answer for part, answer in zip(wanted, answers, strict=True)}
    joined = [replace(part, slides=by_part[id(part)].slides) if id(part) in by_part else part for part in parts]
    return Joined(tuple(joined), tuple(note for answer in answers for note in answer.notes))


@dataclass(frozen=True)
class _Answer:
    """Slides of one part (None where the join did not hold) and what to say about it."""

    slides: list[str | None] | None
    notes: list[str]


def _join_part(part: Part, known: Sequence[_Reference]) -> _Answer:
    digests = pixel_digests(part, f"hashing {part.words}")
    same = next((other for other in known if other.part.name == part.name), None)
    if same is not None and np.array_equal(same.digests, digests):
        note = f"Slides of {part.words}: taken from meta.csv; the pixels of all {len(part):,} tiles match row by row."
        return _Answer(same.part.slides, [note, *_label_note(part, same.part.labels_N)])
    own = pl.DataFrame(digests, schema=WORDS).with_row_index("place")
    found = own.join(_by_pixels(known), on=WORDS, how="left", maintain_order="left")
    missing = found.filter(pl.col("n").is_null())["place"]
    if len(missing):
        return _Answer(None, [
            f"Slides of {part.words} stay unknown: {len(missing):,} of {len(part):,} tiles, such as "
            f"{part.tile_ids[missing[0]]}, have no tile of the same pixels in the reference, so nothing was joined."
        ])  # fmt: skip
    unclear = found.filter(pl.col("slide").is_null())
    notes = [f"Slides of {part.words}: taken from meta.csv; all {len(part):,} tiles have their pixels there."]
    if len(unclear):
        example = part.tile_ids[unclear["place"][0]]
        notes.append(f"{len(unclear):,} tiles, such as {example}, have pixels that several slides share, or whose "
                     "slide meta.csv leaves open: it stays unknown.")  # fmt: skip
    labels_N = found["label"].fill_null(-1).to_numpy()
    return _Answer(found["slide"].to_list(), [*notes, *_label_note(part, labels_N)])


def _by_pixels(known: Sequence[_Reference]) -> pl.DataFrame:
    """One row per distinct pixels: how many tiles, their slide and label where these are unique."""
    table = pl.concat(
        pl.DataFrame(other.digests, schema=WORDS).with_columns(
            pl.Series("slide", other.part.slides, dtype=pl.String), pl.Series("label", other.part.labels_N)
        )
        for other in known
    )
    unique = [
        pl.when(pl.col(name).n_unique() == 1).then(pl.col(name).first()).alias(name) for name in ("slide", "label")
    ]
    return table.group_by(WORDS).agg(*unique, n=pl.len())


def _label_note(part: Part, reference_N: NDArray[np.int64]) -> list[str]:
    n_other = int(((reference_N >= 0) & (reference_N != part.labels_N)).sum())
    return [f"{n_other:,} tiles of {part.words} have another label than the same pixels have in the reference."] * (
        n_other > 0
    )


def _file_states(parts: Sequence[Part]) -> list[list[object]]:
    """Path, size and time of change of every file, and which part it belongs to."""
    states: list[list[object]] = []
    for part in parts:
        for path in part.paths.unique(maintain_order=True):
            status = os.stat(path)  # noqa: PTH116
            states.append([part.name, path, status.st_size, status.st_mtime_ns])
        slides = [] if part.slides is None else [hash_json(part.slides)]
        states.append([part.name, hash_json(part.labels_N.tolist()), *slides])
    return states


def _recall(path: Path) -> list[_Answer] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return [_Answer(answer["slides"], answer["notes"]) for answer in data["answers"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("a kept join of slides can't be read (%s); joining again: %s", error, path)
        return None


def _remember(path: Path, states: list[list[object]], answers: Sequence[_Answer]) -> None:
    """Keep the answer, unless a file is so new that its time of change says little."""
    newest = max(int(str(state[3])) for state in states if len(state) == 4)
    if time.time_ns() - newest < FRESH_NS:
        return
    try:
        write_json(path, {"answers": [{"slides": answer.slides, "notes": answer.notes} for answer in answers]})
    except UserError as error:
        LOG.warning("the join of slides can't be kept: %s", error)
