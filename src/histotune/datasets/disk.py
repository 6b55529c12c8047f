"""Which files lie below a folder: one quick pass that links can't trap."""

from __future__ import annotations

import io
import os
import stat
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from histotune.tools.errors import UserError
from histotune.tools.stand_ins import START_BYTES, fix_of, refuse_stand_in, stand_in
from histotune.tools.streams import escaped, is_text, move_command, one_line, rename_command
from histotune.tools.tabular import TableError, parquet_file, read_csv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl


SYNTHETIC_MARK = "SYNTHETIC.json"
SYNTHETIC_NOTE = "SYNTHETIC: these tiles were rendered by a program and show no patient."
FETCH_RECORDS = ".fetch"  # what `histotune data fetch` keeps beside the data: its lock, its receipt, work in progress
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Attributes:
        root: The folder, absolute.
        paths: Every file below it, absolute, sorted.
        synthetic: Whether a ``SYNTHETIC.json`` below or just above marks the tiles as rendered.
    """

    root: str
    paths: tuple[str, ...]
    synthetic: bool

    def relative(self, path: str) -> str:
        """Return a path as a person reads it, below the root; bytes that are no UTF-8 are escapes."""
        return escaped(os.path.relpath(path, self.root))


def list_files(root: Path) -> Listing:
    """List all files below a folder, following links to folders once.

    Raises:
        UserError: The folder is missing, empty or can't be read, or names of files to be read are not UTF-8.
    """
    folder = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100  (resolve() would lose the user's own path)
    _require_folder(folder)
    paths = sorted(_walk(folder))
    files = tuple(path for path in paths if os.path.basename(path) != SYNTHETIC_MARK)  # noqa: PTH119  (thousands)
    _require_text(str(folder), files)
    if not files:
        raise UserError("this folder holds no files", value=folder, fix="check --data: the download may have failed")
    return Listing(str(folder), files, len(files) < len(paths) or _marked_above(folder))


def name_some(names: list[str], limit: int) -> str:
    """Return the names joined by commas, cut after ``limit`` with a count of the rest."""
    rest = len(names) - limit
    return ", ".join(map(one_line, names[:limit])) + (f" and {rest} more" if rest > 0 else "")


def is_hidden(name: str) -> bool:
    """Return whether a file below a folder, or a folder on the way to it, is hidden, as macOS's ``._`` files are."""
    return any(part.startswith(".") for part in Path(name).parts)


def marked_synthetic(folder: Path) -> bool:
    """Return whether a ``SYNTHETIC.json`` in a folder, or just above it, marks its tiles as rendered."""
    return (folder / SYNTHETIC_MARK).is_file() or _marked_above(folder)


def _walk(folder: Path) -> Iterator[str]:
    """Yield files depth first; a folder reached a second time through a link is not entered again."""
    seen: set[tuple[int, int]] = set()
    pending = [str(folder)]
    while pending:
        here = pending.pop()
        status = os.stat(here)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        entries = _entries(here)
        if not entries and here.lower().endswith(IMAGE_SUFFIXES):
            raise UserError(
                "this is an empty folder named like an image",
                value=here,
                fix="copy the image again from its source, or remove the folder",
            )
        for entry in entries:
            if _is_folder(entry):
                pending.append(entry.path)
            else:  # a broken link, a pipe or a device is reported by whoever would read it
                yield entry.path


def _require_text(folder: str, paths: Sequence[str]) -> None:
    """Refuse names that are not UTF-8 where files are read under them; other files are only counted."""
    if not is_text(folder):
        raise UserError(
            "the path of this folder is not UTF-8, and tables and reports can't hold it",
            value=escaped(folder),
            fix=f"rename it: {move_command(folder)}",
        )
    odd = [name for path in paths if not is_text(path) and _is_read(name := os.path.relpath(path, folder))]
    if odd:
        count = "a name is" if len(odd) == 1 else f"{len(odd):,} names are"
        raise UserError(
            f"{count} not UTF-8, and tables and reports can't hold such names",
            value=f"{folder}: {name_some([escaped(name) for name in odd], 20)}",
            fix=f"where they are Latin-1, rename them: {rename_command(folder)}",
        )


def _is_read(name: str) -> bool:
    """Whether a file is read for its name: an image or a table, in no hidden folder."""
    return name.lower().endswith(READ_SUFFIXES) and not is_hidden(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name != FETCH_RECORDS), key=lambda entry: entry.name)
    except PermissionError as error:
        raise UserError("this folder can't be read", value=folder, fix=f"chmod -R u+rX {folder}") from error
    except OSError as error:
        raise UserError(f"this folder can't be read ({error.strerror})", value=folder, fix="check its disk") from error


def _require_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.is_file():
        archive = folder.name.lower().endswith(ARCHIVES)
        raise UserError(
            "this is a file, and a folder is needed",
            value=folder,
            fix=f"unpack it (tar -xf {folder}) and pass the unpacked folder"
            if archive
            else f"pass the folder that holds it: --data {folder.parent}",
        )
    nearest = next(parent for parent in folder.parents if parent.is_dir())
    raise UserError("this folder does not exist", value=folder, allowed=f"{nearest} exists", fix="check --data")


def _marked_above(folder: Path) -> bool:
    """Look two folders up, and beside ``BreaKHis_v1`` where the folder lies inside one."""
    for start in {folder, folder.resolve()}:
        inside = [parent.parent for parent in (start, *start.parents) if parent.name.lower() == "breakhis_v1"]
        if any((parent / SYNTHETIC_MARK).is_file() for parent in (*start.parents[:2], *inside)):
            return True
    return False


# ---- Image headers ----


PNG_HEADER_BYTES = 24
PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
READ_SUFFIXES = (*IMAGE_SUFFIXES, ".h5", ".hdf5", ".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


def png_size_px(path: str) -> tuple[int, int]:
    """Return (width, height) of a PNG from its first 24 bytes."""
    _require_file(path)
    with open(path, "rb") as stream:  # noqa: PTH123  (thousands of files)
        header = stream.read(PNG_HEADER_BYTES)
        if not header:
            raise ValueError("empty file")
        if len(header) < PNG_HEADER_BYTES or not header.startswith(PNG_START):
            found = stand_in(header + stream.read(START_BYTES))
            raise ValueError(found.words if found else "not a PNG")
    return _png_size_px(header)


def image_size_px(path: str) -> tuple[int, int]:
    """Return (width, height) of an image file of any format that histotune reads."""
    _require_file(path)
    with open(path, "rb") as stream:  # noqa: PTH123
        header = stream.read(PNG_HEADER_BYTES)
        if not header:
            raise ValueError("empty file")
        if header.startswith(PNG_START) and len(header) == PNG_HEADER_BYTES:
            return _png_size_px(header)
        stream.seek(0)
        return _pillow_size_px(stream)


def _require_file(path: str) -> None:
    """Refuse what is no file: a pipe would block whoever opens it."""
    mode = os.stat(path).st_mode  # noqa: PTH116  (thousands of files)
    if not stat.S_ISREG(mode):
        raise ValueError("a folder" if stat.S_ISDIR(mode) else "a device or pipe")


def encoded_size_px(data: bytes) -> tuple[int, int]:
    """Return (width, height) of an encoded image."""
    return _pillow_size_px(io.BytesIO(data))


def size_or_reason(path: str) -> tuple[int, int] | str:
    """Return the size of an image file, or why it has none, for lists of all bad files."""
    try:
        return image_size_px(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def _png_size_px(header: bytes) -> tuple[int, int]:
    width_px, height_px = struct.unpack(">II", header[16:24])
    if not width_px or not height_px:
        raise ValueError("no pixels")
    return width_px, height_px


def _pillow_size_px(stream: BinaryIO) -> tuple[int, int]:
    """Let Pillow read the header; its limit on pixels is left to the decoder, which knows the user's."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream, formats=("PNG", "JPEG", "TIFF", "BMP", "WEBP")) as image:
            size = image.size
    except UnidentifiedImageError as error:
        stream.seek(0)
        found = stand_in(stream.read(START_BYTES))
        raise ValueError(found.words if found else "not an image") from error
    except Image.DecompressionBombError as error:
        raise ValueError("more pixels than a tile can have") from error
    except Exception as error:  # Pillow's plugins raise many types on damaged headers
        raise ValueError(f"damaged: {error}") from error
    if not all(size):
        raise ValueError("no pixels")
    return size


# ---- Parquet files of images ----


IMAGE = "image"  # the column of images: a struct of bytes and path (Hugging Face), or plain bytes
BUFFER_BYTES = 2**20  # pages are read as they come, so that one giant row group costs no memory
BATCH_BYTES = 8 * 2**20
MAX_BATCH_ROWS = 64


def open_parquet(path: str) -> Any:  # noqa: ANN401  (pyarrow has no types)
    """Open a parquet file; only its footer is read, and pages that carry a checksum are checked against it."""
    with explained_parquet_errors(path):
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
            raise UserError("this is a folder or a device, not a parquet file", value=path, fix="check --data")
        return parquet_file(path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)


@contextmanager
def explained_parquet_errors(path: str) -> Iterator[None]:
    """Turn whatever pyarrow raises on a damaged file into one UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            "the parquet file is missing", value=path, fix="read the data set again; files have moved since"
        ) from error
    except PermissionError as error:
        raise UserError(
            "the parquet file can't be read (permission denied)", value=path, fix=f"chmod u+r {path}"
        ) from error
    except Exception as error:  # pyarrow raises OSError, ValueError, MemoryError and types of its own
        refuse_stand_in(path, "this parquet file")
        raise UserError(
            f"the parquet file is truncated or damaged ({_first_line(error)})", value=path, fix="download it again"
        ) from error


def image_leaf(file: Any, path: str) -> str:  # noqa: ANN401  (pyarrow has no types)
    """Return the column that holds the encoded images, as pyarrow selects it."""
    import pyarrow as pa

    schema = file.schema_arrow
    if IMAGE in schema.names:
        kind = schema.field(IMAGE).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{IMAGE}.bytes"
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return IMAGE
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(
        f'the parquet file has no column "{IMAGE}" of encoded images',
        value=path,
        allowed=f"a struct of bytes and path, or bytes; found: {found or 'nothing'}",
        fix="point --data to the files of the data set",
    )


def batch_rows(file: Any, group: int) -> int:  # noqa: ANN401  (pyarrow has no types)
    """Return how many rows of a row group to read at once, so that a batch stays near 8 MB."""
    facts = file.metadata.row_group(group)
    per_row = max(1, facts.total_byte_size // max(1, facts.num_rows))
    return int(min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // per_row)))


def image_batches(file: Any, path: str, group: int) -> Iterator[Sequence[bytes | None]]:  # noqa: ANN401
    """Yield the encoded images of one row group in order, in small batches."""
    leaf = image_leaf(file, path)
    with explained_parquet_errors(path):
        for batch in file.iter_batches(batch_rows(file, group), row_groups=[group], columns=[leaf], use_threads=False):
            column = batch.column(0)
            yield (column if leaf == IMAGE else column.field("bytes")).to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# ---- Text tables ----


def read_text_table(path: str, fix: str, separator: str = ",", header: bool = True) -> pl.DataFrame:
    """Read a CSV file, plain or gzipped, as columns of text."""
    try:
        return read_csv(Path(path), separator=separator, has_header=header)
    except TableError as error:
        raise UserError(f"this table can't be read ({error})", value=path, fix=fix_of([str(error)], fix)) from error


# ---- HDF5 files ----


MOST_COMPRESSION = 1100  # deflate, which packs best among the filters of HDF5, reaches 1032


HEAP_START = b"GCOL\x01\x00\x00\x00"  # signature, version and reserved bytes of a collection of strings
HEAP_HEADER_BYTES, HEAP_OBJECT = 16, struct.Struct("<HHIQ")  # of an object: index, references, reserved, size


def has_endless_strings(path: str | Path) -> bool:
    """Whether reading a damaged HDF5 file's strings would never end.

    Strings of varying length lie in collections of objects ("global heap", HDF5 file format, III.E). The library walks
    a collection by the objects' sizes; free space of size 0, as damage can leave it, keeps it at one place for ever,
    where no signal reaches it.
    """
    import mmap

    with open(path, "rb") as stream:  # noqa: PTH123  (a descriptor to map)
        if not os.fstat(stream.fileno()).st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as held:
            start = held.find(HEAP_START)
            while start >= 0:
                if _walk_is_endless(held, start):
                    return True
                start = held.find(HEAP_START, start + 1)
    return False


def _walk_is_endless(held: Any, start: int) -> bool:  # noqa: ANN401  (a memory map, read like bytes)
    """Walk the objects of one collection as the library does."""
    if start + HEAP_HEADER_BYTES > len(held):
        return False
    place = start + HEAP_HEADER_BYTES
    stop = min(start + int.from_bytes(held[start + 8 : place], "little"), len(held))
    while place + HEAP_OBJECT.size <= stop:
        index, _, _, size = HEAP_OBJECT.unpack_from(held, place)
        step = (HEAP_OBJECT.size + (size + 7) // 8 * 8) % 2**64 if index else size  # free space counts its own header
        if step == 0:
            return True
        place += step
    return False


def own_dataset(file: Any, name: str) -> Any:  # noqa: ANN401  (h5py has no types)
    """Return a data set of an open HDF5 file, None where there is none; one whose values lie in other files is refused.

    External links, virtual data sets and external storage would read files that nobody named.
    """
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.HardLink):
        found = file[name]
        if not isinstance(found, h5py.Dataset):
            return None
        if not found.is_virtual and not found.external:
            _require_room(file, found)
            return found
    raise UserError(
        f'"{name}" in this file is a link to elsewhere',
        value=file.filename,
        fix="write the values themselves into the file",
    )


def _require_room(file: Any, found: Any) -> None:  # noqa: ANN401  (h5py has no types)
    """Refuse a data set that claims more values than its file can hold; reading it would take for ever."""
    size = os.stat(file.filename).st_size  # noqa: PTH116
    if found.size is not None and found.size * found.dtype.itemsize > MOST_COMPRESSION * size:
        raise UserError(
            f'"{found.name.lstrip("/")}" in this HDF5 file claims {found.size:,} values, more than the file can hold',
            value=file.filename,
            fix="copy or download the file again",
        )
