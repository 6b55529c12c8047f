"""PatchCamelyon: lymph-node patches, in whichever of its published copies lies in a folder."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets import pcam_copies, pcam_files
from histotune.datasets.cells import CellRules, read_ids
from histotune.datasets.dataset_spec import choose_scale, tiles_of
from histotune.datasets.disk import Listing, image_batches, list_files, open_parquet
from histotune.datasets.pcam_files import SIDE_PX, SPEC, Copy, keep_rows, opened_hdf5, part_table
from histotune.tools.errors import UserError, raise_together
from histotune.tools.files import hash_json, read_json, unsealed, user_dir, write_sealed
from histotune.tools.progress import track
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.pcam_files import Part
    from histotune.datasets.tileset import TileSet

# N tiles; a digest is two 64-bit words


def read_patch_camelyon(config: DatasetConfig) -> TileSet:
    """Read the parts of PatchCamelyon that a folder holds; pixels are not loaded.

    Three copies are known: the original HDF5 files, the images and the table of Kaggle's
    ``histopathologic-cancer-detection``, and parquet files of the Hugging Face hub. The folder shows which it is.
    """
    scheme = SPEC.scheme("binary")
    listing = list_files(config.path)
    copy = _which_copy(listing, config)(listing)
    parts, notes = copy.parts, list(copy.notes)
    if config.slides_from is not None:
        joined = join_slides(parts, config.slides_from)
        parts, notes = joined.parts, [*notes, *joined.notes]
    parts, asked = _read_slide_ids(parts, config)
    notes += [*asked, *_slide_notes(parts)]
    scale = choose_scale(SPEC, config)
    tables = []
    for part in parts:
        rows_N, kept = keep_rows(
            part.labels_N, part.slides, scheme.class_names, config.max_tiles_per_split, config.seed
        )
        notes += [f"{part.words.capitalize()}: {kept}"] if kept else []
        tables.append(part_table(part, rows_N, scale))
    table = pl.concat(tables).sort("tile_id")
    tiles = tiles_of(SPEC, table, scheme.class_names, (scale.note, *notes), synthetic=listing.synthetic)
    return replace(tiles, asked=asked)


def _read_slide_ids(parts: Sequence[Part], config: DatasetConfig) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """Read the slides of all parts as the ids of one column, since a slide may lie in several."""
    named = [slide for part in parts for slide in part.slides or ()]
    read = read_ids(pl.Series(named, dtype=pl.String), "slide", CellRules.of(config))
    raise_together(read.errors)
    rest = iter(read.values.to_list())
    known = (None if part.slides is None else [next(rest) for _ in part.slides] for part in parts)
    return tuple(replace(part, slides=slides) for part, slides in zip(parts, known, strict=True)), read.notes


def _which_copy(listing: Listing, config: DatasetConfig) -> Callable[[Listing], Copy]:
    """Return the reader of the one copy that lies below the folder."""
    found = [
        (words, claimed, read)
        for words, claim, read in (
            ("the HDF5 files", pcam_files.claim_hdf5, pcam_files.read_hdf5),
            (
                "the images of Kaggle",
                pcam_copies.claim_kaggle,
                partial(pcam_copies.read_kaggle, on_bad_image=config.on_bad_image),
            ),
            ("parquet files", pcam_copies.claim_parquet, pcam_copies.read_hub),
        )
        if (claimed := claim(listing)) is not None
    ]
    if len(found) > 1:
        places = ", ".join(f"{words} ({listing.relative(claimed)})" for words, claimed, _ in found)
        raise UserError(
            f"{len(found)} copies of PatchCamelyon lie in this folder: {places}",
            value=listing.root,
            fix="point --data to the folder of one of them",
        )
    return found[0][2] if found else pcam_files.read_hdf5  # which says what it would have accepted


def _slide_notes(parts: Sequence[Part]) -> list[str]:
    notes = []
    nameless = [part for part in parts if part.slides is None]
    if nameless:
        named = [part.name for part in nameless if part.name]
        start = f"No meta.csv for {', '.join(named)}" if named else "This copy names no slides"
        notes.append(
            f"{start}: the slides of these tiles are unknown, so no grouped split or interval can be made on them."
        )
    known = [{slide for slide in part.slides if slide} for part in parts if part.slides]
    shared = sorted(slide for slide, n in Counter(slide for slides in known for slide in slides).items() if n > 1)
    if shared:
        notes.append(f"{len(shared)} slides lie in more than one official part, such as {shared[0]}: the parts leak.")
    return notes


# ---- Slides by equal pixels ----


LOG = logging.getLogger(__name__)
FORMAT = 1  # raised when the rules of the join change, so that kept answers are not used
FRESH_NS = 2_000_000_000  # a file this new may change again within the clock tick that its mtime shows
WORDS = ["high", "low"]  # the two halves of a digest


@dataclass(frozen=True)
class _Reference:
    """The HDF5 copy by pixels.

    Attributes:
        part: The part.
        digests: uint64 (N, 2).
    """

    part: Part
    digests: NDArray[np.uint64]


def join_slides(parts: Sequence[Part], folder: Path) -> Copy:
    """Give tiles the slide of the reference tile with the same pixels.

    A part is joined only where the pixels of all its tiles are found in the reference: row by row where the order is
    the same, by content otherwise. Where equal pixels come from several slides, the slide stays unknown. Only digests
    of the pixels are held in memory, and the answer is kept in the cache under the state of every file involved.
    """
    wanted = [part for part in parts if part.slides is None]
    if not wanted:
        return Copy(tuple(parts), ("slides_from was not needed: this copy has a meta.csv of its own.",))
    reference = [part for part in pcam_files.read_hdf5(list_files(folder)).parts if part.slides is not None]
    if not reference:
        raise UserError(
            "this copy can't lend its slides: it has no meta.csv",
            value=folder,
            fix="put the *_meta.csv files beside the HDF5 files",
        )
    states = _file_states([*wanted, *reference])
    kept = user_dir("cache") / "slides" / f"{hash_json([FORMAT, states])}.json"
    answers = _recall(kept)
    if answers is None:
        known = [_Reference(part, pixel_digests(part, f"hashing reference {part.words}")) for part in reference]
        answers = [_join_part(part, known) for part in wanted]
        _remember(kept, states, answers)
    by_part = {id(part): answer for part, answer in zip(wanted, answers, strict=True)}
    joined = [replace(part, slides=by_part[id(part)].slides) if id(part) in by_part else part for part in parts]
    return Copy(tuple(joined), tuple(note for answer in answers for note in answer.notes))


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
        return _Answer(
            None,
            [
                f"Slides of {part.words} stay unknown: {len(missing):,} of {len(part):,} tiles, such as "
                f"{part.tile_ids[missing[0]]}, have no tile of the same pixels in the reference, so nothing was joined."
            ],
        )
    unclear = found.filter(pl.col("slide").is_null())
    notes = [f"Slides of {part.words}: taken from meta.csv; all {len(part):,} tiles have their pixels there."]
    if len(unclear):
        example = part.tile_ids[unclear["place"][0]]
        notes.append(
            f"{len(unclear):,} tiles, such as {example}, have pixels that several slides share, or whose "
            "slide meta.csv leaves open: it stays unknown."
        )
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
        data = unsealed(read_json(path), ("answers",))
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
        write_sealed(path, {"answers": [{"slides": answer.slides, "notes": answer.notes} for answer in answers]})
    except UserError as error:
        LOG.warning("the join of slides can't be kept: %s", error)


# ---- Digests of pixels ----


DIGEST_BYTES = 16
ROWS_PER_READ = 256


def pixel_digests(part: Part, words: str) -> NDArray[np.uint64]:
    """Return a 128-bit digest of each tile's decoded pixels: equal pixels, equal digest, whatever the file format."""
    found = b"".join(track(_digests(part), words, total=len(part)))
    return np.frombuffer(found, dtype=np.uint64).reshape(-1, 2)


def _digests(part: Part) -> Iterator[bytes]:
    if part.rows is None:
        yield from _images(part.paths.to_list())
        return
    for path, group in groupby(zip(part.paths.to_list(), part.rows.tolist(), strict=True), key=lambda pair: pair[0]):
        n_tiles = sum(1 for _ in group)  # every tile of a file, in order, is how readers make parts
        yield from _parquet(path) if path.lower().endswith(".parquet") else _hdf5(path, n_tiles)


def _hdf5(path: str, n_tiles: int) -> Iterator[bytes]:
    with opened_hdf5(path) as file:
        for start in range(0, n_tiles, ROWS_PER_READ):
            for row_HWC in np.asarray(file["x"][start : start + ROWS_PER_READ]):
                yield _digest(row_HWC)


def _parquet(path: str) -> Iterator[bytes]:
    file = open_parquet(path)
    first = 0
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="digest") as pool:
        for group in range(file.metadata.num_row_groups):
            for cells in image_batches(file, path, group):
                places = [f"{path}, row {row}" for row in range(first, first + len(cells))]
                yield from pool.map(_encoded, cells, places)
                first += len(cells)


def _images(paths: Sequence[str]) -> Iterator[bytes]:
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="digest") as pool:
        for start in range(0, len(paths), ROWS_PER_READ):
            yield from pool.map(_image_file, paths[start : start + ROWS_PER_READ])


def _image_file(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            return _encoded(stream.read(), path)
    except OSError as error:
        raise UserError(f"the image can't be read ({error.strerror})", value=path, fix="check the file") from error


def _encoded(data: bytes | None, place: str) -> bytes:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b""), formats=("PNG", "TIFF", "JPEG")) as image:
            size, mode = image.size, image.mode
            if size == (SIDE_PX, SIDE_PX) and mode == "RGB":
                return _digest(np.asarray(image))
    except Exception as error:  # Pillow's plugins raise many types on damaged files
        raise UserError(f"the image is truncated or damaged ({error})", value=place, fix="download it again") from error
    raise UserError(
        f"this is no patch of PatchCamelyon ({size[0]} x {size[1]} pixels, {mode})",
        value=place,
        allowed=f"{SIDE_PX} x {SIDE_PX} pixels, RGB",
        fix="download it again",
    )


def _digest(pixels_HWC: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels_HWC).tobytes(), digest_size=DIGEST_BYTES).digest()
