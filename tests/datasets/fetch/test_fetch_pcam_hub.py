from __future__ import annotations

import errno
import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import errors

from histotune.datasets.fetch import fetch as fetch_module
from histotune.datasets.fetch.fetch import fetch, plan_fetch, render_outcome
from histotune.datasets.fetch.fetch_pcam import PcamHub
from histotune.datasets.fetch.source import SOURCES
from histotune.tools.errors import UserError
from tests.datasets.fetch.conftest import IMPATIENT, Heard
from tests.datasets.fetch.made import Tree

ROWS = {"train": 4, "valid": 2, "test": 2}


def parquet(rows: int, seed: int) -> bytes:
    sink = pa.BufferOutputStream()
    images = [{"bytes": bytes([seed, row]), "path": None} for row in range(rows)]
    pq.write_table(pa.table({"image": images, "label": [bool(row % 2) for row in range(rows)]}), sink)
    return sink.getvalue().to_pybytes()


@dataclass
class Hub:
    """What huggingface_hub's public functions answer here."""

    files: dict[str, bytes]
    sha256: dict[str, str]
    downloads: list[str]
    fail: dict[str, BaseException]
    commit: str = "94a968413b9ef01b83525a98de519a8832acac06"

    def info(self, repository: str, *, files_metadata: bool) -> object:
        assert (repository, files_metadata) == ("1aurent/PatchCamelyon", True)
        if "list" in self.fail:
            raise self.fail["list"]
        siblings = [
            SimpleNamespace(rfilename=name, size=len(data), lfs=SimpleNamespace(sha256=self.sha256[name]))
            for name, data in self.files.items()
        ]
        return SimpleNamespace(sha=self.commit, siblings=[SimpleNamespace(rfilename="README.md"), *siblings])

    def download(self, repository: str, name: str, *, repo_type: str, revision: str, local_dir: Path) -> str:
        assert (repo_type, revision) == ("dataset", self.commit)
        self.downloads.append(name)
        if name in self.fail:
            raise self.fail[name]
        path = Path(local_dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.files[name])
        notes = Path(local_dir) / ".cache" / "huggingface"
        notes.mkdir(parents=True, exist_ok=True)
        (notes / "x.metadata").write_text("its own")
        return str(path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    files = {
        "data/train-00000-of-00002.parquet": parquet(3, 0),
        "data/train-00001-of-00002.parquet": parquet(1, 1),
        "data/valid-00000-of-00001.parquet": parquet(2, 2),
        "data/test-00000-of-00001.parquet": parquet(2, 3),
    }
    fake = Hub(files, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, [], {})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fake.info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake.download)
    source = SOURCES["pcam"][1]
    monkeypatch.setattr(fetch_module, "_pcam", lambda: (PcamHub(source, "1aurent/PatchCamelyon", ROWS),))
    monkeypatch.setattr("histotune.datasets.fetch.source.free_bytes", lambda folder: 1 << 40)
    return fake


def http_client() -> ModuleType:
    """Return the HTTP client under the installed huggingface_hub: requests, httpx or httpx2, by its version."""
    return importlib.import_module(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


def answer(status: int) -> object:
    """Return what the library's own HTTP client would have given."""
    client, address = http_client(), "https://huggingface.co/x?token=SECRET"
    if client.__name__ != "requests":
        return client.Response(status, request=client.Request("GET", address))
    response = client.Response()
    response.status_code, response.url, response.request = status, address, client.Request("GET", address).prepare()
    return response


def test_all_parquet_files_of_one_commit_arrive_verified(hub: Hub, heard: Heard, tmp_path: Path) -> None:
    outcome = fetch("pcam", tmp_path, "hub", heard.transfer())
    assert Tree(tmp_path).names() == [".fetch/receipt.json", *sorted(f"hub/{name}" for name in hub.files)]
    for name, data in hub.files.items():
        assert (tmp_path / "hub" / name).read_bytes() == data
    text = render_outcome(outcome)
    assert "SHA-256 and length as the hub has them" in text
    assert hub.commit in text
    assert "CC0" in text
    hub.downloads.clear()
    assert not fetch("pcam", tmp_path, "hub", heard.transfer()).new
    assert hub.downloads == []
    assert plan_fetch("pcam", tmp_path, "hub", IMPATIENT).files[0].state == "here"


def test_a_file_that_is_not_what_the_hub_describes_is_removed(hub: Hub, heard: Heard, tmp_path: Path) -> None:
    name = "data/valid-00000-of-00001.parquet"
    hub.sha256[name] = "0" * 64
    with pytest.raises(UserError, match=r"its SHA-256 is .*; it was removed"):
        fetch("pcam", tmp_path, "hub", heard.transfer())
    assert not (tmp_path / "hub").exists()
    assert not any("valid" in path for path in Tree(tmp_path).names())


def test_a_copy_with_another_number_of_tiles_is_refused(hub: Hub, heard: Heard, tmp_path: Path) -> None:
    name = "data/test-00000-of-00001.parquet"
    hub.files[name] = parquet(1, 9)
    hub.sha256[name] = hashlib.sha256(hub.files[name]).hexdigest()
    with pytest.raises(UserError, match=r"number of tiles \(test 1 of 2\)"):
        fetch("pcam", tmp_path, "hub", heard.transfer())
    assert not (tmp_path / "hub").exists()


def test_a_repository_without_a_part_is_refused(hub: Hub, heard: Heard, tmp_path: Path) -> None:
    del hub.files["data/test-00000-of-00001.parquet"]
    hub.files["../../evil-00000-of-00001.parquet"] = b""
    hub.sha256["../../evil-00000-of-00001.parquet"] = ""
    with pytest.raises(UserError, match="does not hold the parquet files of all parts"):
        fetch("pcam", tmp_path, "hub", heard.transfer())
    assert hub.downloads == []


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("offline", "offline mode is on"),
        ("gated", "gated and access was not granted"),
        ("absent", "gone, renamed or private"),
        ("refused", r"refuses the download \(status 403\)"),
        ("entry", "lost one of its files"),
        ("local", "can't be reached"),
        ("network", "can't be reached"),
        ("disk", "the disk is full"),
    ],
)
@pytest.mark.parametrize("where", ["list", "data/test-00000-of-00001.parquet"])
def test_what_goes_wrong_at_the_hub_is_one_message(
    hub: Hub, heard: Heard, tmp_path: Path, kind: str, why: str, where: str
) -> None:
    client = http_client()
    # Before huggingface_hub 1.0 the one class was also the error of an answer.
    absent_entry = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)
    no_connection = getattr(client, "ConnectError", None) or client.ConnectionError  # httpx, requests
    made = {
        "offline": lambda: errors.OfflineModeIsEnabled("offline"),
        "gated": lambda: errors.GatedRepoError("gated SECRET", response=answer(403)),
        "absent": lambda: errors.RepositoryNotFoundError("404 SECRET", response=answer(404)),
        "refused": lambda: errors.HfHubHTTPError("403 SECRET", response=answer(403)),
        "entry": lambda: absent_entry("404 SECRET", response=answer(404)),
        "local": lambda: errors.LocalEntryNotFoundError("no connection"),
        "network": lambda: no_connection("SECRET"),
        "disk": lambda: OSError(errno.ENOSPC, "No space left"),
    }
    hub.fail[where] = made[kind]()
    with pytest.raises(UserError, match=why) as caught:
        fetch("pcam", tmp_path, "hub", heard.transfer())
    assert "SECRET" not in str(caught.value)
    assert "by hand from https://huggingface.co/datasets/1aurent/PatchCamelyon" in str(caught.value)
    assert not (tmp_path / "hub").exists()


def test_an_interrupted_fetch_keeps_what_the_library_needs_to_resume(hub: Hub, heard: Heard, tmp_path: Path) -> None:
    last = "data/valid-00000-of-00001.parquet"
    hub.fail[last] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetch("pcam", tmp_path, "hub", heard.transfer())
    assert (tmp_path / ".fetch/staging/hub/.cache/huggingface/x.metadata").is_file()
    hub.fail.clear()
    fetch("pcam", tmp_path, "hub", heard.transfer())
    assert not (tmp_path / ".fetch/staging/hub").exists()


def test_a_fault_of_ours_is_not_explained_away(hub: Hub, heard: Heard, tmp_path: Path) -> None:
    hub.fail["list"] = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        fetch("pcam", tmp_path, "hub", heard.transfer())


def test_the_library_has_the_functions_and_arguments_that_are_used() -> None:
    import inspect

    import huggingface_hub

    download = inspect.signature(huggingface_hub.hf_hub_download).parameters
    assert {"repo_id", "filename", "repo_type", "revision", "local_dir"} <= set(download)
    assert "files_metadata" in inspect.signature(huggingface_hub.HfApi.dataset_info).parameters
