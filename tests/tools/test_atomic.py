"""What killed processes leave behind, links and devices in the way, two processes at one place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from histotune.tools import atomic
from histotune.tools.atomic import (
    atomic_folder,
    atomic_path,
    claimed,
    refuse_odd_target,
    remove_if_abandoned,
    restore_folder,
)
from histotune.tools.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks on open files, links and pipes")
WAIT = "import sys, time; from pathlib import Path; from histotune.tools.atomic import *\n"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, *words: Path) -> subprocess.Popen[str]:
    """Start a process and wait until it says that it is there."""
    command = [sys.executable, "-c", WAIT + code, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n", process.communicate()[1]
    return process


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    for name in (".a.csv.abcd1234.partial", ".other.csv.abcd1234.partial", ".a.csv.notes.partial", "a.csv.partial"):
        (tmp_path / name).write_text("half", encoding="utf-8")
    (tmp_path / ".a.csv.ffff0000.partial").mkdir()
    with atomic_path(tmp_path / "a.csv") as temporary:
        temporary.write_text("whole", encoding="utf-8")
    assert names(tmp_path) == [".a.csv.notes.partial", ".other.csv.abcd1234.partial", "a.csv", "a.csv.partial"]


@pytest.mark.parametrize("kind", ["atomic_path", "atomic_folder"])
def test_what_a_running_writer_writes_stays_until_it_is_killed(kind: str, tmp_path: Path) -> None:
    code = f"with {kind}(Path(sys.argv[1])):\n print('there', flush=True)\n time.sleep(60)"
    running = start(code, tmp_path / "a")
    write = atomic_path if kind == "atomic_path" else atomic_folder
    with write(tmp_path / "a"):
        pass
    assert len(names(tmp_path)) == 2
    assert not remove_if_abandoned(next(tmp_path.glob(".*.partial")))
    running.kill()
    running.communicate()
    with write(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"]


def test_folders_change_places_so_that_none_is_ever_missing(tmp_path: Path) -> None:
    code = (
        "print('there', flush=True)\n"
        "for number in range(400):\n"
        " with atomic_folder(Path(sys.argv[1])) as made: (made / 'value').write_text(str(number))\n"
    )
    with atomic_folder(tmp_path / "run") as made:
        (made / "value").write_text("0", encoding="utf-8")
    writer = start(code, tmp_path / "run")
    while writer.poll() is None:
        assert (tmp_path / "run").is_dir()
    assert writer.returncode == 0, writer.communicate()[1]
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("at", ["first rename", "second rename"])
def test_a_kill_between_two_renames_loses_nothing(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)  # as where folders can't change places
    run = tmp_path / "run"
    with atomic_folder(run) as made:
        (made / "scores.json").write_text("earlier", encoding="utf-8")
    replace, removed = Path.replace, []

    class KilledError(BaseException):
        """Stands for SIGKILL: nothing after it may clean up."""

    def stopping(self: Path, other: Path) -> Path:
        if at == "second rename" or self.name != "run":
            monkeypatch.setattr(atomic.shutil, "rmtree", lambda *words, **options: removed.append(words))
        if at == "first rename" and self.name != "run":
            raise KilledError
        done = replace(self, other)
        if at == "second rename" and self.name != "run":
            raise KilledError
        return done

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KilledError), atomic_folder(run) as made:
        (made / "scores.json").write_text("later", encoding="utf-8")
    monkeypatch.undo()
    restore_folder(run)
    assert (run / "scores.json").read_text(encoding="utf-8") == ("earlier" if at == "first rename" else "later")
    with atomic_folder(run) as made:
        pass
    assert names(tmp_path) == ["run"]


def test_links_devices_and_pipes_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "kept").write_text("x", encoding="utf-8")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "to-file").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    before = names(tmp_path)
    for name in ("link", "broken", "to-file", "pipe", "file"):
        with pytest.raises(UserError, match="not replaced"), atomic_folder(tmp_path / name):
            pytest.fail("a folder was begun")
    for name in ("link", "broken", "to-file", "pipe", "real"):
        with pytest.raises(UserError, match="not replaced"), atomic_path(tmp_path / name):
            pytest.fail("a file was begun")
    assert names(tmp_path) == before
    assert (tmp_path / "real" / "kept").exists()
    with pytest.raises(UserError, match="a device lies where the file should go"):
        refuse_odd_target(Path(os.devnull), folder=False)
    with pytest.raises(UserError, match="a device lies where the folder should go"):
        refuse_odd_target(Path(os.devnull), folder=True)


def test_a_second_process_at_the_same_place_is_refused(tmp_path: Path) -> None:
    running = start("with claimed(Path(sys.argv[1])):\n print('there', flush=True)\n time.sleep(60)", tmp_path / "run")
    with pytest.raises(UserError, match="another process is writing there already"), claimed(tmp_path / "run"):
        pytest.fail("both were let in")
    with claimed(tmp_path / "other"):
        pass
    running.kill()
    running.communicate()
    with claimed(tmp_path / "run"):
        assert names(tmp_path) == [".run.lock"]
    assert names(tmp_path) == []


def test_claims_in_turn_leave_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "print('there', flush=True)\n"
        "n = 0\n"
        "for number in range(200):\n"
        " try:\n"
        "  with claimed(Path(sys.argv[1])):\n"
        "   mark = Path(sys.argv[1]).with_name('mark'); mark.touch(exist_ok=False); mark.unlink(); n += 1\n"
        " except UserError: time.sleep(0.001)\n"
        "print(n)\n"
    )
    both = [start(code, tmp_path / "run") for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert sum(int(out) for out, _ in answers) > 0
    assert names(tmp_path) == []


@pytest.mark.parametrize("words", [".", "", "../here", "..", "./"])
def test_the_folder_that_one_is_in_is_never_replaced(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="folder that you are in"), claimed(Path(words)):
        pytest.fail("it was claimed")
    with pytest.raises(UserError, match="folder that you are in"), atomic_folder(Path(words)):
        pytest.fail("it was begun")
    with claimed(Path("run")), atomic_folder(Path("run")) as made:
        (made / "value").write_text("x", encoding="utf-8")
    assert names(tmp_path) == ["here"]
    assert names(tmp_path / "here") == ["run"]
