from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from histotune.tools import atomic
from histotune.tools.atomic import atomic_folder, atomic_path, explained_os_errors
from histotune.tools.errors import UserError
from histotune.tools.files import lock, write_text

if TYPE_CHECKING:
    from collections.abc import Iterator

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and permissions")


class Interrupted(Exception):
    """What a block raises in these tests."""


def mounted_tmpfs(folder: Path, options: str) -> Path:
    """Mount a tmpfs or skip, saying why."""
    folder.mkdir()
    program = shutil.which("mount")
    if program is None or sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root on Linux")
    answer = subprocess.run(
        [program, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        pytest.skip(f"mount is not allowed here: {answer.stderr.strip()}")
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for 64 KiB."""
    folder = mounted_tmpfs(tmp_path / "disk", "size=64k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["permission bits", "immutable", "read-only mount"])
def read_only_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that refuses new files, in each way a person meets one."""
    folder = tmp_path / "locked"
    if request.param == "read-only mount":
        yield mounted_tmpfs(folder, "size=64k,ro")
        subprocess.run(["umount", str(folder)], check=True)
        return
    folder.mkdir()
    if request.param == "permission bits":
        if sys.platform == "win32" or os.geteuid() == 0:
            pytest.skip("permission bits do not bind root or Windows")
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    program = shutil.which("chattr")
    if program is None or subprocess.run([program, "+i", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("chattr +i needs root and a file system that knows it")
    yield folder
    subprocess.run([program, "-i", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# atomic files


def test_atomic_path_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "scores.json"
    write_text(target, "old")
    write_text(target, "new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["scores.json"]


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt, SystemExit])
def test_a_failing_block_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "scores.json"
    write_text(target, "old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise error
    assert target.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["scores.json"]


def test_a_failing_first_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), atomic_path(tmp_path / "new.json") as temporary:
        temporary.write_bytes(b"half")
        raise Interrupted
    assert names(tmp_path) == []


def test_the_target_is_unseen_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "shard.npy"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"x" * 1000)
        assert not target.exists()
        assert temporary.parent == target.parent  # same file system, so that the rename is atomic
    assert target.stat().st_size == 1000


def test_content_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("flush"))
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recorded)
    write_text(tmp_path / "a", "text")
    assert events == ["flush", "rename"]


@POSIX
def test_a_folder_opens_the_files_that_a_library_wrote_for_its_user_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "run") as folder:
            (folder / "inner").mkdir(mode=0o700)
            for path, mode in ((folder / "weights", 0o600), (folder / "inner" / "tool", 0o700)):
                path.touch()
                path.chmod(mode)
            (folder / "link").symlink_to(tmp_path / "nowhere")
    finally:
        os.umask(old)
    found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if not path.is_symlink()}
    assert found == {"weights": 0o644, "inner": 0o755, "tool": 0o744}


@POSIX
def test_files_and_folders_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_text_is_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "µm\n")
    assert (tmp_path / "a.txt").read_bytes() == "µm\n".encode()


@POSIX
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "scores.json"
    write_text(target, "old")
    code = (
        "import sys, time; from pathlib import Path; from histotune.tools.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print('written', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=10)
    assert target.read_text(encoding="utf-8") == "old"


def test_concurrent_writers_never_mix(tmp_path: Path) -> None:
    target = tmp_path / "value"
    texts = [str(number) * 20_000 for number in range(8)]
    write_text(target, texts[0])
    seen = set()
    writers = [threading.Thread(target=write_text, args=(target, text)) for text in texts for _ in range(3)]
    for writer in writers:
        writer.start()
        seen.add(target.read_text(encoding="utf-8"))
    for writer in writers:
        writer.join()
        seen.add(target.read_text(encoding="utf-8"))
    assert seen <= set(texts)
    assert names(tmp_path) == ["value"]


# atomic folders


def test_atomic_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "run"
    for name in ("old.txt", "new.txt"):
        with atomic_folder(target) as temporary:
            (temporary / name).write_text("x", encoding="utf-8")
    assert names(target) == ["new.txt"]
    assert names(target.parent) == ["run"]


def test_a_failing_folder_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with atomic_folder(target) as temporary:
        (temporary / "report.html").write_text("old", encoding="utf-8")
    with pytest.raises(Interrupted), atomic_folder(target) as temporary:
        (temporary / "half.html").write_text("x", encoding="utf-8")
        raise Interrupted
    assert names(target) == ["report.html"]
    assert names(tmp_path) == ["run"]


def test_a_failing_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "run"
    with atomic_folder(target) as temporary:
        (temporary / "report.html").write_text("old", encoding="utf-8")
    replace = Path.replace

    def failing(self: Path, other: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EIO, "input/output error")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)  # as where folders can't change places
    with pytest.raises(OSError, match="input/output"), atomic_folder(target):
        pass
    assert names(tmp_path) == ["run"]
    assert (target / "report.html").read_text(encoding="utf-8") == "old"


# full disks and locked folders


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_the_flush_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write_text(tmp_path / "a", "old")

    def full(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full") as caught:
        write_text(tmp_path / "a", "new")
    assert caught.value.fix is not None
    assert str(tmp_path) in caught.value.fix
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a"]


def test_a_really_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    target = tiny_disk / "scores.json"
    write_text(target, "old")
    with pytest.raises(UserError, match="the disk is full"):
        write_text(target, "x" * 200_000)
    assert target.read_text(encoding="utf-8") == "old"
    assert names(tiny_disk) == ["scores.json"]


def test_a_really_full_disk_leaves_no_folder(tiny_disk: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(tiny_disk / "run") as temporary:
        (temporary / "small").write_bytes(b"x")
        (temporary / "large").write_bytes(b"x" * 200_000)
    assert names(tiny_disk) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_write_to_a_full_device_is_explained() -> None:
    with (
        pytest.raises(UserError, match="the disk is full"),
        explained_os_errors(Path("/dev/full")),
        Path("/dev/full").open("wb", buffering=0) as stream,
    ):
        stream.write(b"x")


def test_a_folder_that_refuses_writing_is_explained(read_only_folder: Path) -> None:
    with pytest.raises(UserError, match="can't be written") as caught:
        write_text(read_only_folder / "scores.json", "x")
    assert caught.value.value == read_only_folder
    assert names(read_only_folder) == []


def test_a_run_folder_that_refuses_writing_is_explained(read_only_folder: Path) -> None:
    with pytest.raises(UserError, match="can't be written"), atomic_folder(read_only_folder / "run"):
        pytest.fail("the block must not start")
    assert names(read_only_folder) == []


def test_a_lock_in_a_folder_that_refuses_writing_is_explained(read_only_folder: Path) -> None:
    with pytest.raises(UserError, match="can't be written"), lock(read_only_folder / "ledger.lock", timeout_s=1):
        pytest.fail("the block must not start")


def test_other_operating_system_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), explained_os_errors(tmp_path):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize("inside", ["table.json", "deeper/table.json"])
def test_a_file_where_a_folder_should_be_is_one_message(tmp_path: Path, inside: str) -> None:
    (tmp_path / "taken").write_text("here first", encoding="utf-8")
    with pytest.raises(UserError, match="a file stands where a folder should be") as caught:
        write_text(tmp_path / "taken" / inside, "x")
    assert caught.value.value == tmp_path / "taken"
    with pytest.raises(UserError, match="a file stands"), atomic_folder(tmp_path / "taken" / "run"):
        pass
    assert (tmp_path / "taken").read_text(encoding="utf-8") == "here first"


# locks

HOLD = (
    "import sys; from pathlib import Path; from histotune.tools.files import lock\n"
    "with lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock until its input closes."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_a_lock_excludes_another_process_and_frees_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "store.lock"
    child = holder(path)
    with pytest.raises(UserError, match="another process") as caught, lock(path, timeout_s=0.2):
        pytest.fail("the block must not start")
    assert caught.value.value == path.parent
    child.communicate("", timeout=10)
    with lock(path, timeout_s=5):
        pass


@POSIX
def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    child = holder(tmp_path / "store.lock")
    child.kill()
    child.communicate(timeout=10)
    with lock(tmp_path / "store.lock", timeout_s=5):
        pass


def test_a_waiting_process_gets_the_lock(tmp_path: Path) -> None:
    child = holder(tmp_path / "store.lock")
    assert child.stdin is not None
    threading.Timer(0.3, child.stdin.close).start()
    start = time.perf_counter()
    with lock(tmp_path / "store.lock", timeout_s=10):
        waited = time.perf_counter() - start
    assert waited > 0.2
    assert child.wait(timeout=10) == 0
    assert child.stdout is not None
    child.stdout.close()


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), lock(tmp_path / "a.lock"):
        raise Interrupted
    with lock(tmp_path / "a.lock", timeout_s=1):
        pass
