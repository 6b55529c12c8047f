"""What lies in place of a file is told by its first bytes, wherever a file is read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from histotune.backbones.weights import model_json
from histotune.datasets.disk import image_size_px, open_parquet, read_text_table
from histotune.datasets.pcam_files import opened_hdf5
from histotune.datasets.splits.named import load_split
from histotune.embeddings.exchange import read_foreign
from histotune.heads.saved_head import load_head, save_head
from histotune.images.decode import _open_hdf5, decode_image
from histotune.tools.errors import UserError
from histotune.tools.files import parse_json
from histotune.tools.manifest import verify_folder, write_manifest
from histotune.tools.stand_ins import LFS_POINTER, WEB_PAGE, fix_of, stand_in, stand_in_at
from histotune.tools.tabular import TableError, read_csv, read_parquet
from tests.datasets.splits.cohorts import tiles_of_cases
from tests.heads.test_head_apply import make_head

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


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
def test_a_head_from_a_repository_without_its_large_files_names_the_command(tmp_path: Path, name: str) -> None:
    save_head(make_head(), tmp_path)
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UserError, match="a pointer of Git LFS") as caught:
        load_head(tmp_path)
    assert "git lfs pull" in str(caught.value)


def test_a_folder_with_a_manifest_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1")
    write_manifest(tmp_path)
    (tmp_path / "predictions.parquet").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"predictions\.parquet \(a pointer of Git LFS") as caught:
        verify_folder(tmp_path, "make it again")
    assert "git lfs pull" in str(caught.value)


def open_whole(path: Path) -> None:
    with opened_hdf5(str(path)):
        pass


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("split.json", lambda path: load_split(path, tiles_of_cases([(1, 0), (1, 1)]))),
        ("x.npz", read_foreign),
        ("x.h5", read_foreign),
        ("x.parquet", read_foreign),
        ("camelyonpatch_level_2_split_train_x.h5", _open_hdf5),
        ("camelyonpatch_level_2_split_train_y.h5", open_whole),
        ("model.safetensors.index.json", model_json),
    ],
)
def test_files_of_other_rooms_name_the_command(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UserError, match="pointer of Git LFS") as caught:
        read(tmp_path / name)
    assert "git lfs pull" in str(caught.value)
