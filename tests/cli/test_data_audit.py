"""`histotune data audit` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histotune.datasets.config import DatasetConfig
from tests.audit.breakhis_names import write_names
from tests.conftest import CommandResult

Histotune = Callable[..., CommandResult]


def verdicts(folder: Path) -> dict[str, str]:
    found = json.loads((folder / "audit.json").read_text(encoding="utf-8"))["findings"]
    return {finding["id"]: finding["verdict"] for finding in found}


def copy_across_parts(pcam: Path) -> None:
    """Put a training patch into the test part."""
    name = "camelyonpatch_level_2_split_{}_x.h5"
    with h5py.File(pcam / name.format("train"), "r") as train, h5py.File(pcam / name.format("test"), "r+") as test:
        test["x"][4] = train["x"][7]


def test_a_clean_data_set_ends_with_code_0(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    result = histotune("data", "audit", "breakhis", "--data", breakhis, "--out", tmp_path / "a")
    assert result.code == 0, result.err
    assert "verdict: not checked" in result.out
    assert verdicts(tmp_path / "a")["exact-duplicates"] == "ok"
    assert "Audit of BreakHis" in (tmp_path / "a" / "audit.html").read_text(encoding="utf-8")


def test_a_leak_between_official_parts_ends_with_code_1(histotune: Histotune, pcam: Path, tmp_path: Path) -> None:
    copy_across_parts(pcam)
    result = histotune("data", "audit", "pcam", "--data", pcam, "--out", tmp_path / "a")
    assert result.code == 1
    assert "error:" not in result.err
    assert "1 across sides of the split" in " ".join(result.out.split())
    assert verdicts(tmp_path / "a")["exact-duplicates"] == "error"
    page = (tmp_path / "a" / "audit.html").read_text(encoding="utf-8")
    section = page.partition('<section id="exact-duplicates">')[2].partition("</section>")[0]
    assert section.count("data:image/jpeg;base64,") == 2
    assert "side train" in section
    assert "side test" in section
    assert "CC0 1.0" in page


def test_quick_reads_no_pixel(histotune: Histotune, pcam: Path, tmp_path: Path) -> None:
    copy_across_parts(pcam)
    result = histotune("data", "audit", "pcam", "--data", pcam, "--out", tmp_path / "a", "--quick")
    assert result.code == 0
    assert set(verdicts(tmp_path / "a")) == {
        "split-groups", "split-slides", "groups-unknown", "group-labels", "class-groups", "sizes"}  # fmt: skip


def test_truncated_images_are_a_finding_and_not_the_end(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    damaged = sorted(breakhis.rglob("*.png"))[:2]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:1500])
    result = histotune("data", "audit", "breakhis", "--data", breakhis, "--out", tmp_path / "a")
    assert result.code == 1
    read = json.loads((tmp_path / "a" / "audit.json").read_text(encoding="utf-8"))
    (unreadable,) = (finding for finding in read["findings"] if finding["id"] == "unreadable")
    assert [row[0] for row in unreadable["tables"][0]["rows"]] == [str(path) for path in damaged]


def test_a_copy_under_another_case_is_a_warning(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    first, *_, last = sorted(breakhis.rglob("*-100-001.png"))
    Image.fromarray(np.asarray(Image.open(first))).save(last, compress_level=1)
    assert first.read_bytes() != last.read_bytes()
    result = histotune("data", "audit", "breakhis", "--data", breakhis, "--out", tmp_path / "a")
    assert result.code == 0
    assert verdicts(tmp_path / "a")["exact-duplicates"] == "warning"


def test_embeddings_of_the_cache_are_asked_for(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    histotune("embed", "breakhis", "--data", breakhis, "--backbone", "colour-histogram", "--cache", cache)
    options = ("--out", tmp_path / "a", "--embeddings", "--cache", cache)
    assert histotune("data", "audit", "breakhis", "--data", breakhis, *options).code == 0
    assert verdicts(tmp_path / "a")["overlapping-fields"] == "not checked"  # a histogram is no network


def test_the_default_folder_is_named_after_the_data_set(
    histotune: Histotune, pcam: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert histotune("data", "audit", "pcam", "--data", pcam, "--quick").code == 0
    assert (tmp_path / "audits" / "pcam" / "audit.html").is_file()


@pytest.mark.parametrize("arguments", [("breakhis",), ("brekhis", "--data", "x"), ("breakhis", "--data", "nowhere")])
def test_mistakes_of_use_end_with_code_2(histotune: Histotune, arguments: tuple[str, ...]) -> None:
    result = histotune("data", "audit", *arguments)
    assert result.code == 2
    assert "Traceback" not in result.err


@pytest.mark.skipif("on_bad_image" not in DatasetConfig.model_fields, reason="readers can't leave out bad files yet")
def test_files_without_a_readable_header_are_a_finding(histotune: Histotune, breakhis: Path, tmp_path: Path) -> None:
    empty, text = sorted(breakhis.rglob("*.png"))[3:5]
    empty.write_bytes(b"")
    text.write_text("no image", encoding="utf-8")
    result = histotune("data", "audit", "breakhis", "--data", breakhis, "--out", tmp_path / "a")
    assert result.code == 1, result.err
    read = json.loads((tmp_path / "a" / "audit.json").read_text(encoding="utf-8"))
    (unreadable,) = (finding for finding in read["findings"] if finding["id"] == "unreadable")
    assert [Path(row[0]).name for row in unreadable["tables"][0]["rows"]] == [empty.name, text.name]


@pytest.mark.skipif(find_spec("histotune.datasets.splits.named") is None, reason="splits have no names yet")
@pytest.mark.parametrize("name", ["eva", "thunder"])
def test_the_published_splits_are_found_to_leak_by_name(histotune: Histotune, tmp_path: Path, name: str) -> None:
    data = write_names(tmp_path / "names")
    result = histotune("data", "audit", "breakhis", "--data", data, "--out", tmp_path / "a", "--split", name, "--quick")
    assert result.code == 1, result.err
    text = " ".join(result.out.split())
    assert "91 of 339 tiles" in text
    assert "MC 42 of 42, TA 35 of 47, F 14 of 82, DC 0 of 168" in text
    assert "14-13412 (DC, LC)" in text
