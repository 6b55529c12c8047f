from __future__ import annotations

import errno
import gzip
import io
import multiprocessing
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from histotune.datasets.config import DatasetConfig
from histotune.datasets.fetch import fetch as fetch_module
from histotune.datasets.fetch.fetch import fetch, plan_fetch, render_outcome, render_plan
from histotune.datasets.fetch.source import SOURCES, read_receipt, write_receipt
from histotune.datasets.read import read_dataset
from histotune.tools.errors import UserError
from tests.tools.test_files import mounted_tmpfs

from .conftest import IMPATIENT, Heard, sums
from .made import BREAKHIS_ARCHIVE, COUNTS, Tree, breakhis_archive, breakhis_home, pcam_content, pcam_home
from .server import Act, Server

X_TEST = "camelyonpatch_level_2_split_test_x.h5"


@pytest.fixture
def home(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Put both homes onto this machine."""
    pcam, breakhis = pcam_home(server), breakhis_home(server)
    monkeypatch.setattr(fetch_module, "_pcam", lambda: (pcam,))
    monkeypatch.setattr(fetch_module, "_breakhis", lambda: (breakhis,))
    return server


def asked(server: Server) -> list[str]:
    return [path for path, _ in server.requests]


def test_pcam_arrives_verified_and_unpacked_and_reads(home: Server, heard: Heard, tmp_path: Path) -> None:
    outcome = fetch("pcam", tmp_path / "pcam", None, heard.transfer())
    content = pcam_content()
    assert Tree(tmp_path / "pcam").names() == sorted([".fetch/receipt.json", *content])
    for name, data in content.items():
        assert (tmp_path / "pcam" / name).read_bytes() == data
    assert outcome.new
    tiles = read_dataset(DatasetConfig(name="patch_camelyon", path=tmp_path / "pcam"))
    assert len(tiles) == 14
    assert tiles.has_groups
    receipt = read_receipt(tmp_path / "pcam")
    assert receipt is not None
    assert receipt.complete
    assert {file.name: file.sha256 for file in receipt.files} == {
        name: sums(data).sha256 for name, data in content.items()
    }


def test_breakhis_arrives_and_the_lack_of_a_checksum_is_said(home: Server, heard: Heard, tmp_path: Path) -> None:
    outcome = fetch("breakhis", tmp_path / "b", None, heard.transfer())
    assert [path.name for path in (tmp_path / "b").iterdir() if path.name != ".fetch"] == ["BreaKHis_v1"]
    tiles = read_dataset(DatasetConfig(name="breakhis", path=tmp_path / "b"))
    assert len(tiles) == sum(COUNTS.values())
    assert not any(".fetch" in note for note in tiles.notes)
    text = render_outcome(outcome)
    assert str(sums(home.files[BREAKHIS_ARCHIVE]).sha256) in text
    assert "No checksum is published" in text
    assert "CC BY 4.0" in text
    assert "Spanhol" in text
    assert f"next: histotune data describe breakhis --data {tmp_path / 'b'}" in text


@pytest.mark.parametrize("dataset", ["pcam", "breakhis"])
def test_what_is_there_and_verified_is_not_fetched_again(
    home: Server, heard: Heard, tmp_path: Path, dataset: str
) -> None:
    fetch(dataset, tmp_path, None, heard.transfer())
    before = Tree(tmp_path).names()
    home.requests.clear()
    outcome = fetch(dataset, tmp_path, None, heard.transfer())
    assert not outcome.new
    assert "was here already; nothing was fetched" in render_outcome(outcome)
    assert home.requests == []
    assert Tree(tmp_path).names() == before


def test_only_the_missing_file_is_fetched_again(home: Server, heard: Heard, tmp_path: Path) -> None:
    fetch("pcam", tmp_path, None, heard.transfer())
    (tmp_path / X_TEST).unlink()
    home.requests.clear()
    fetch("pcam", tmp_path, None, heard.transfer())
    assert asked(home) == [f"/{X_TEST}.gz"]


def test_a_file_that_changed_since_is_found_before_anything_is_fetched(
    home: Server, heard: Heard, tmp_path: Path
) -> None:
    fetch("pcam", tmp_path, None, heard.transfer())
    for name in (X_TEST, X_TEST.replace("test", "valid")):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1] + b"x")
    home.requests.clear()
    with pytest.raises(UserError) as caught:
        fetch("pcam", tmp_path, None, heard.transfer())
    assert str(caught.value).count("is not the published one") == 2
    assert f"rm '{tmp_path / X_TEST}'" in str(caught.value)
    assert home.requests == []
    assert (tmp_path / X_TEST).exists(), "a file that a person may need is not removed"


def test_files_put_there_by_hand_are_verified_used_and_kept(home: Server, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / f"{X_TEST}.gz").write_bytes(home.files[f"{X_TEST}.gz"])
    (tmp_path / X_TEST.replace("test", "train")).write_bytes(pcam_content()[X_TEST.replace("test", "train")])
    outcome = fetch("pcam", tmp_path, None, heard.transfer())
    assert not any("_test_x" in path or "_train_x" in path for path in asked(home))
    assert (tmp_path / f"{X_TEST}.gz").exists()
    assert (tmp_path / X_TEST).read_bytes() == pcam_content()[X_TEST]
    assert "put here by hand" in render_outcome(outcome)


def test_a_truncated_file_put_there_by_hand_is_named(home: Server, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / f"{X_TEST}.gz").write_bytes(home.files[f"{X_TEST}.gz"][:-50])
    with pytest.raises(UserError, match="is not the published one"):
        fetch("pcam", tmp_path, None, heard.transfer())
    (tmp_path / BREAKHIS_ARCHIVE).write_bytes(home.files[BREAKHIS_ARCHIVE][:-50])
    with pytest.raises(UserError, match="truncated or damaged") as caught:
        fetch("breakhis", tmp_path, None, heard.transfer())
    assert "rm '" in str(caught.value)
    assert (tmp_path / BREAKHIS_ARCHIVE).exists()


def test_an_archive_put_there_by_hand_is_tested_used_and_kept(home: Server, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / BREAKHIS_ARCHIVE).write_bytes(home.files[BREAKHIS_ARCHIVE])
    fetch("breakhis", tmp_path, None, heard.transfer())
    assert home.requests == []
    assert (tmp_path / BREAKHIS_ARCHIVE).exists()
    assert len(read_dataset(DatasetConfig(name="breakhis", path=tmp_path))) == 6


def test_an_interrupted_unpacking_starts_again_without_downloading(
    home: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dataset, module in (("breakhis", "fetch_breakhis.flush_all"), ("pcam", "fetch_pcam.unpack_gz")):
        folder = tmp_path / dataset

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"histotune.datasets.fetch.{module}", stop)
            fetch(dataset, folder, None, heard.transfer())
        assert not (folder / "BreaKHis_v1").exists()
        done = set(asked(home))
        home.requests.clear()
        fetch(dataset, folder, None, heard.transfer())
        assert done
        assert done.isdisjoint(asked(home)), "what had arrived was not asked for again"
        home.requests.clear()


def test_what_a_killed_unpacking_left_is_cleared(home: Server, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / ".fetch" / ".unpacked.abc.partial" / "benign").mkdir(parents=True)
    (tmp_path / ".fetch" / "unpacked" / "x").mkdir(parents=True)
    fetch("breakhis", tmp_path, None, heard.transfer())
    assert sorted(path.name for path in (tmp_path / ".fetch").iterdir()) == ["lock", "receipt.json"]
    other = tmp_path / "pcam"
    other.mkdir()
    (other / f".{X_TEST}.abc.partial").write_bytes(b"half")
    fetch("pcam", other, None, heard.transfer())
    assert not any("partial" in name for name in Tree(other).names())


def test_part_of_breakhis_in_the_way_is_refused_with_its_numbers(home: Server, heard: Heard, tmp_path: Path) -> None:
    fetch("breakhis", tmp_path, None, heard.transfer())
    next((tmp_path / "BreaKHis_v1").rglob("SOB_B*-40-001.png")).unlink()
    home.requests.clear()
    with pytest.raises(UserError, match=r"not all of them \(40X benign 1 of 2\)"):
        fetch("breakhis", tmp_path, None, heard.transfer())
    assert home.requests == []


def broken_archives() -> list[tuple[str, bytes, str]]:
    whole = breakhis_archive()
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        info = tarfile.TarInfo("../../evil.png")
        tar.addfile(info)
    return [
        ("cut", whole[:-100], "truncated or damaged"),
        ("flipped", whole[:2_000] + bytes([whole[2_000] ^ 1]) + whole[2_001:], "truncated or damaged"),
        ("fewer images", breakhis_archive({**COUNTS, ("40X", "M"): 2}), "40X malignant 2 of 3"),
        ("outside", memory.getvalue(), "leads out of the folder"),
        ("bomb", gzip.compress(bytes(3_000_000)), "unpacked"),
        ("no gzip", b"x" * 1_000, "truncated or damaged"),
    ]


@pytest.mark.parametrize(
    ("data", "why"), [case[1:] for case in broken_archives()], ids=[c[0] for c in broken_archives()]
)
def test_an_archive_that_is_not_breakhis_leaves_nothing(
    home: Server, heard: Heard, tmp_path: Path, data: bytes, why: str
) -> None:
    home.files[BREAKHIS_ARCHIVE] = data
    with pytest.raises(UserError, match=why) as caught:
        fetch("breakhis", tmp_path, None, heard.transfer())
    assert "removed" in str(caught.value)
    assert Tree(tmp_path).names() == []


def test_a_wrong_unpacked_file_is_refused(
    server: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = pcam_home(server)
    files = tuple(
        file if file.unpacked is None else replace(file, unpacked=replace(file.unpacked, checksums=sums(b"other")))
        for file in origin.files
    )
    monkeypatch.setattr(fetch_module, "_pcam", lambda: (replace(origin, files=files),))
    with pytest.raises(UserError, match="is not the published file after unpacking"):
        fetch("pcam", tmp_path, None, heard.transfer())
    assert not any(name.endswith(".h5") for name in Tree(tmp_path).names())


def test_a_source_that_is_gone_is_one_message_with_every_way_out(
    home: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "_breakhis", lambda: (breakhis_home(home), *original()[1:]))
    home.always[BREAKHIS_ARCHIVE] = Act(status=404)
    with pytest.raises(UserError) as caught:
        fetch("breakhis", tmp_path, None, heard.transfer())
    text = str(caught.value)
    for words in (
        "404",
        "--source kaggle",
        SOURCES["breakhis"][0].manual_url,
        f"into {tmp_path}",
        "what arrived is kept",
    ):
        assert words in text


original = fetch_module._breakhis


def test_a_dry_run_lists_everything_and_writes_nothing(home: Server, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    text = render_plan(plan_fetch("pcam", folder, None, IMPATIENT))
    assert not folder.parent.exists()
    assert home.requests == []
    for name in pcam_content():
        assert name in text
    assert "MD5 and SHA-256 as published" in text
    assert "free space" in text


def test_a_plan_says_what_is_here(home: Server, heard: Heard, tmp_path: Path) -> None:
    fetch("pcam", tmp_path, None, heard.transfer())
    (tmp_path / X_TEST).unlink()
    (tmp_path / f"{X_TEST}.gz.partial").write_bytes(b"part")
    os.utime(tmp_path / X_TEST.replace("test", "train"), (0, 0))
    states = {file.name: file.state for file in plan_fetch("pcam", tmp_path, None, IMPATIENT).files}
    assert states.pop(f"{X_TEST}.gz") == "to resume"
    assert states.pop(f"{X_TEST.replace('test', 'train')}.gz") == "to verify"
    assert set(states.values()) == {"here"}
    assert plan_fetch("breakhis", tmp_path / "none", None, IMPATIENT).files[0].state == "to fetch"


@pytest.mark.parametrize("dataset", ["pcam", "breakhis"])
def test_too_little_space_is_said_before_the_first_byte(
    home: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    monkeypatch.setattr("histotune.datasets.fetch.source.free_bytes", lambda folder: 1_000)
    with pytest.raises(UserError, match=r"1\.0 kB free and .* are needed \(.* to download and .* unpacked") as caught:
        fetch(dataset, tmp_path, None, heard.transfer())
    assert "--to" in str(caught.value)
    assert home.requests == []


def test_a_disk_that_fills_keeps_the_part_and_the_next_call_continues(
    home: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histotune.datasets.fetch.source.free_bytes", lambda folder: 1 << 40)
    disk = mounted_tmpfs(tmp_path / "disk", "size=128k")
    try:
        home.files[BREAKHIS_ARCHIVE] = breakhis_archive(padding=30_000)
        with pytest.raises(UserError, match=r"the disk is full; .* are kept") as caught:
            fetch("breakhis", disk, None, heard.transfer())
        assert "it continues" in str(caught.value)
        kept = (disk / f"{BREAKHIS_ARCHIVE}.partial").stat().st_size
        assert kept > 50_000
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        home.requests.clear()
        fetch("breakhis", disk, None, heard.transfer())
        assert home.ranges(BREAKHIS_ARCHIVE) == [f"bytes={kept}-"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_while_unpacking_keeps_the_archive(
    home: Server, heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open

    def open_full(path: Path, *arguments: object, **options: object) -> object:
        return (
            Full()
            if arguments[:1] in (("xb",), ("wb",)) and ".partial" in str(path)
            else opened(path, *arguments, **options)
        )  # type: ignore[arg-type]

    for dataset, kept in (("breakhis", BREAKHIS_ARCHIVE), ("pcam", ".h5.gz")):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_full)
            with pytest.raises(UserError, match=r"the disk is full: .* could not be unpacked; it is kept, verified"):
                fetch(dataset, tmp_path / dataset, None, heard.transfer())
        assert any(name.endswith(kept) for name in Tree(tmp_path / dataset).names())
        assert fetch(dataset, tmp_path / dataset, None, heard.transfer()).new


def _fetch_in_a_process(port: int, folder: str, say: object) -> None:
    from histotune.datasets.fetch import fetch as there

    local = Server(port)
    origin = breakhis_home(local)
    there._breakhis = lambda: (origin,)  # type: ignore[assignment]
    outcome = fetch("breakhis", Path(folder), None, Heard().transfer())
    say.put(outcome.new)  # type: ignore[attr-defined]


def test_two_processes_into_one_folder_fetch_once(home: Server, tmp_path: Path) -> None:
    home.acts[BREAKHIS_ARCHIVE] = [Act(pause_s=0.001)]
    context = multiprocessing.get_context("spawn")
    said = context.Queue()
    both = [context.Process(target=_fetch_in_a_process, args=(home.port, str(tmp_path), said)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert sorted(said.get(timeout=60) for _ in both) == [False, True]
    assert asked(home) == [f"/{BREAKHIS_ARCHIVE}"]


def test_waiting_for_another_process_is_said_and_bounded(home: Server, heard: Heard, tmp_path: Path) -> None:
    from histotune.tools.files import lock

    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock(tmp_path / ".fetch" / "lock"):
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(5)
    try:
        impatient = IMPATIENT.model_copy(update={"lock_wait_s": 0.1})
        started = time.monotonic()
        with pytest.raises(UserError, match="another process has been fetching"):
            fetch("breakhis", tmp_path, None, heard.transfer(impatient))
        assert time.monotonic() - started < 5
        assert any("waiting for it to finish" in text for text in heard.said)
    finally:
        release.set()
        thread.join()


def test_the_copies_of_two_sources_are_not_mixed(home: Server, heard: Heard, tmp_path: Path) -> None:
    fetch("breakhis", tmp_path, None, heard.transfer())
    receipt = read_receipt(tmp_path)
    assert receipt is not None
    write_receipt(tmp_path, replace(receipt, source="kaggle"))
    with pytest.raises(UserError, match="holds breakhis from --source kaggle; two copies are not mixed"):
        fetch("breakhis", tmp_path, None, heard.transfer())
    with pytest.raises(UserError, match="two copies are not mixed"):
        fetch("pcam", tmp_path, None, heard.transfer())


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"files": [{"x": 1}]}', '{"files": 3}'])
def test_a_broken_receipt_is_no_receipt(home: Server, heard: Heard, tmp_path: Path, broken: str) -> None:
    fetch("pcam", tmp_path, None, heard.transfer())
    (tmp_path / ".fetch" / "receipt.json").write_text(broken)
    home.requests.clear()
    outcome = fetch("pcam", tmp_path, None, heard.transfer())
    assert home.requests == [], "the files were verified by their sums"
    assert not outcome.new


def test_a_file_in_place_of_the_folder_is_refused(home: Server, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file"):
            fetch("pcam", folder, None, heard.transfer())


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "locked"
    folder.mkdir()
    program = shutil.which("chattr")
    if program is None or subprocess.run([program, "+i", str(folder)], capture_output=True, check=False).returncode:
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            pytest.skip("no way to make a folder that can't be written here")
    yield folder
    if program is not None:
        subprocess.run([program, "-i", str(folder)], capture_output=True, check=False)
    folder.chmod(0o700)


def test_a_folder_without_permission_is_one_message(home: Server, heard: Heard, locked_folder: Path) -> None:
    with pytest.raises(UserError, match="can't be written") as caught:
        fetch("pcam", locked_folder, None, heard.transfer())
    assert "--to" in str(caught.value)
    assert "--cache" not in str(caught.value)


def test_unknown_names_come_with_the_closest(home: Server, heard: Heard, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean: breakhis"):
        fetch("breakhiss", tmp_path, None, heard.transfer())
    with pytest.raises(UserError, match=r"did you mean: home"):
        fetch("breakhis", tmp_path, "hoem", heard.transfer())


def test_the_command_fetches_prints_and_fails_with_code_2(
    home: Server, histotune: Callable[..., object], tmp_path: Path
) -> None:
    done = histotune("data", "fetch", "breakhis", "--to", tmp_path / "b")
    assert (done.code, done.err.count("Traceback")) == (0, 0)
    assert "next: histotune data describe breakhis" in done.out
    described = histotune("data", "describe", "breakhis", "--data", tmp_path / "b")
    assert described.code == 0
    assert "6 tiles" in described.out
    dry = histotune("data", "fetch", "pcam", "--to", tmp_path / "p", "--dry-run")
    assert dry.code == 0
    assert "nothing was written" in dry.out
    assert not (tmp_path / "p").exists()
    home.always[f"{X_TEST}.gz"] = Act(status=403)
    failed = histotune("data", "fetch", "pcam", "--to", tmp_path / "p")
    assert failed.code == 2
    assert failed.err.count("error:") == 1
    assert "refuses access" in failed.err
