"""What lies in place of a file is told by its first bytes, wherever a file is read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from histotune.datasets.disk import image_size_px, open_parquet, read_text_table
from histotune.images.decode import decode_image
from histotune.tools.errors import UserError
from histotune.tools.files import parse_json
from histotune.tools.stand_ins import LFS_POINTER, WEB_PAGE, fix_of, stand_in, stand_in_at
from histotune.tools.tabular import TableError, read_csv, read_parquet

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"
PAGES = [
    b"<!DOCTYPE html><html></html>", b"\n\n  <html lang='de'>", b"\xef\xbb\xbf<!doctype HTML>", b"<HEAD><title>x",
    b"<!-- proxy 1.2 -->\n<html>", b"<script>location='/login'</script>",
]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_known(page: bytes) -> None:
    assert stand_in(page) is WEB_PAGE


@pytest.mark.parametrize("data", [b"", b"path,label\n", b"{}", b"<xml/>", b"\x89PNG\r\n\x1a\n", b"version 1", b"<!--"])
def test_other_files_are_themselves(data: bytes) -> None:
    assert stand_in(data) is None


def test_pipes_folders_and_missing_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none"):
        assert stand_in_at(tmp_path / name) is None


@pytest.mark.parametrize(("data", "known"), [(POINTER, LFS_POINTER), (PAGES[0], WEB_PAGE)])
@pytest.mark.parametrize(
    "read",
    [
        image_size_px,
        lambda path: decode_image(Path(path).read_bytes(), path, 10**6),
        open_parquet,
        lambda path: read_parquet(Path(path)),
        lambda path: read_csv(Path(path)),
        lambda path: read_text_table(path, "mend it"),
        lambda path: parse_json(Path(path).read_bytes()),
    ],
)
def test_every_reader_names_what_lies_there(
    tmp_path: Path, data: bytes, known: object, read: Callable[[str], object]
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises((UserError, TableError, ValueError)) as caught:
        read(str(path))
    assert known.words in str(caught.value)  # type: ignore[attr-defined]  # one of two records


def test_the_fix_of_a_list_is_that_of_what_stands_in() -> None:
    assert "git lfs pull" in fix_of(["a (missing)", f"b ({LFS_POINTER.words})"], "mend it")
    assert fix_of(["a (missing)"], "mend it") == "mend it"


def test_an_image_is_read_as_ever(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.new("RGB", (5, 4)).save(held, "JPEG")
    (tmp_path / "x.jpg").write_bytes(held.getvalue())
    assert image_size_px(str(tmp_path / "x.jpg")) == (5, 4)
