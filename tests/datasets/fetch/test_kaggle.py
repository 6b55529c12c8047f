from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.fetch import fetch as fetch_module
from histotune.datasets.fetch.fetch import fetch, plan_fetch, render_outcome
from histotune.datasets.fetch.fetch_breakhis import images_below, missing_images
from histotune.datasets.fetch.kaggle import KaggleCopy, lacking_tiffs
from histotune.datasets.read import read_dataset
from histotune.tools.errors import UserError

from .conftest import IMPATIENT, Heard
from .made import COUNTS, Tree, kaggle_breakhis, kaggle_pcam, zip_of


class UnauthenticatedError(Exception):
    """Named as in kagglehub.exceptions."""


class KaggleApiHTTPError(OSError):
    """Named as in kagglehub.exceptions, where it is an OSError of requests."""

    def __init__(self, status: int) -> None:
        super().__init__("SECRET https://www.kaggle.com/x?token=SECRET")
        self.response = SimpleNamespace(status_code=status)


class DataCorruptionError(Exception):
    """Named as in kagglehub.exceptions."""


class Kaggle(ModuleType):
    """kagglehub's two public functions."""

    def __init__(self) -> None:
        super().__init__("kagglehub")
        self.asked: list[str] = []
        self.fill: Callable[[Path], None] = kaggle_breakhis
        self.fail: BaseException | None = None
        self.mounted: Path | None = None

    def dataset_download(self, handle: str) -> str:
        return self._give("datasets", handle)

    def competition_download(self, handle: str) -> str:
        return self._give("competitions", handle)

    def _give(self, kind: str, handle: str) -> str:
        self.asked.append(f"{kind}/{handle}")
        cache = Path(os.environ["KAGGLEHUB_CACHE"]) / kind / handle
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "half.archive").write_bytes(b"kept for resuming")
        if self.fail is not None:
            raise self.fail
        folder = self.mounted or cache / "versions" / "4"
        if not folder.exists():
            folder.mkdir(parents=True)
            self.fill(folder)
        return str(folder)


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch) -> Kaggle:
    fake = Kaggle()
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    monkeypatch.delenv("KAGGLEHUB_CACHE", raising=False)
    monkeypatch.setattr("histotune.datasets.fetch.source.free_bytes", lambda folder: 1 << 40)
    home, copy = fetch_module._breakhis()
    assert isinstance(copy, KaggleCopy)
    small = replace(copy, lacking=lambda folder: missing_images(images_below(folder), COUNTS))
    monkeypatch.setattr(fetch_module, "_breakhis", lambda: (home, small))
    return fake


def test_breakhis_from_kaggle_arrives_with_the_folds_and_reads(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    outcome = fetch("breakhis", tmp_path, "kaggle", heard.transfer())
    assert kaggle.asked == ["datasets/ambarish/breakhis"]
    assert (tmp_path / "kaggle" / "Folds.csv").is_file()
    assert not (tmp_path / ".fetch" / "staging" / "kaggle").exists()
    assert "KAGGLEHUB_CACHE" not in os.environ
    assert len(read_dataset(DatasetConfig(name="breakhis", path=tmp_path))) == 6
    assert "Kaggle publishes no checksum" in render_outcome(outcome)
    assert not fetch("breakhis", tmp_path, "kaggle", heard.transfer()).new
    assert len(kaggle.asked) == 1
    assert plan_fetch("breakhis", tmp_path, "kaggle", IMPATIENT).files[0].state == "here"


def test_pcam_from_kaggle_needs_every_label_and_image(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    kaggle.fill = lambda folder: kaggle_pcam(folder, 4, skip=1)
    with pytest.raises(UserError, match=r"1 labels without an image, 0 images without a label"):
        fetch("pcam", tmp_path / "a", "kaggle", heard.transfer())
    assert not (tmp_path / "a" / "kaggle").exists()
    kaggle.fill = kaggle_pcam
    fetch("pcam", tmp_path / "b", "kaggle", heard.transfer())
    assert kaggle.asked[-1] == "competitions/histopathologic-cancer-detection"
    assert (tmp_path / "b" / "kaggle" / "train_labels.csv").is_file()


def test_incomplete_breakhis_from_kaggle_is_refused(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        kaggle_breakhis(folder)
        next(folder.rglob("SOB_B*-40-001.png")).unlink()

    kaggle.fill = fill
    with pytest.raises(UserError, match=r"40X benign 1 of 2"):
        fetch("breakhis", tmp_path, "kaggle", heard.transfer())
    assert not (tmp_path / "kaggle").exists()


def test_on_a_machine_where_the_data_are_mounted_they_are_copied(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    kaggle.mounted = tmp_path / "input"
    kaggle.fill = kaggle_pcam
    fetch("pcam", tmp_path / "to", "kaggle", heard.transfer())
    assert lacking_tiffs(tmp_path / "input") == ""
    assert lacking_tiffs(tmp_path / "to" / "kaggle") == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_links_in_what_arrived_are_refused(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        kaggle_pcam(folder)
        (folder / "train" / "link.tif").symlink_to("/etc/passwd")

    kaggle.fill = fill
    with pytest.raises(UserError, match="links, which are not followed"):
        fetch("pcam", tmp_path, "kaggle", heard.transfer())


def test_a_zip_downloaded_by_hand_needs_no_kagglehub(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setattr("histotune.datasets.fetch.source.free_bytes", lambda folder: 1 << 40)
    kaggle_pcam(tmp_path / "made")
    (tmp_path / "to").mkdir()
    archive = zip_of(tmp_path / "made", tmp_path / "to" / "histopathologic-cancer-detection.zip")
    assert plan_fetch("pcam", tmp_path / "to", "kaggle", IMPATIENT).files[0].state == "to verify"
    fetch("pcam", tmp_path / "to", "kaggle", heard.transfer())
    assert lacking_tiffs(tmp_path / "to" / "kaggle") == ""
    assert archive.exists()


def test_a_broken_zip_leaves_nothing(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    kaggle_pcam(tmp_path / "made")
    (tmp_path / "to").mkdir()
    archive = zip_of(tmp_path / "made", tmp_path / "to" / "histopathologic-cancer-detection.zip")
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match="truncated or damaged"):
        fetch("pcam", tmp_path / "to", "kaggle", heard.transfer())
    assert Tree(tmp_path / "to").names() == [archive.name]


def test_without_kagglehub_the_install_line_is_given(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setattr("histotune.datasets.fetch.source.free_bytes", lambda folder: 1 << 40)
    with pytest.raises(UserError) as caught:
        fetch("breakhis", tmp_path, "kaggle", heard.transfer())
    assert 'fix: pip install "kagglehub>=1.0,<2"' in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "error", "words"),
    [
        ("breakhis", UnauthenticatedError(), ("asks for a login", "kaggle.json")),
        ("breakhis", KaggleApiHTTPError(401), ("asks for a login",)),
        ("pcam", KaggleApiHTTPError(403), ("status 403", "competitions/histopathologic-cancer-detection/rules")),
        ("breakhis", KaggleApiHTTPError(403), ("status 403", "datasets/ambarish/breakhis")),
        ("breakhis", KaggleApiHTTPError(404), ("status 404",)),
        ("breakhis", DataCorruptionError("SECRET"), ("another MD5",)),
        ("breakhis", ConnectionError("SECRET"), ("can't be reached", "network connection")),
        ("breakhis", OSError(errno.ENOSPC, "No space left"), ("disk is full",)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value)[:20],
)
def test_what_goes_wrong_at_kaggle_is_one_message(
    kaggle: Kaggle, heard: Heard, tmp_path: Path, dataset: str, error: Exception, words: tuple[str, ...]
) -> None:
    kaggle.fail = error
    with pytest.raises(UserError) as caught:
        fetch(dataset, tmp_path, "kaggle", heard.transfer())
    for word in (*words, "--source home", "by hand from https://www.kaggle.com"):
        assert word in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert list((tmp_path / ".fetch/staging/kaggle").rglob("half.archive")), "kagglehub resumes from it"
    assert "KAGGLEHUB_CACHE" not in os.environ


def test_a_fault_of_ours_is_not_explained_away(kaggle: Kaggle, heard: Heard, tmp_path: Path) -> None:
    kaggle.fail = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        fetch("breakhis", tmp_path, "kaggle", heard.transfer())


def test_the_library_where_it_is_installed_has_what_is_used() -> None:
    kagglehub = pytest.importorskip("kagglehub")
    import inspect

    from kagglehub import exceptions
    from kagglehub.config import get_cache_folder

    for ask in (kagglehub.dataset_download, kagglehub.competition_download):
        assert next(iter(inspect.signature(ask).parameters)) == "handle"
    for error in (UnauthenticatedError, KaggleApiHTTPError, DataCorruptionError):
        assert hasattr(exceptions, error.__name__)
    assert callable(get_cache_folder)
