"""What terminals, pipes, full disks and small memories get: text, in their encoding, and one message."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from histotune.tools.errors import UserError
from histotune.tools.streams import PlainStream, explained_memory, is_text, shown

MODULE = [sys.executable, "-m", "histotune"]


def run(*words: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
    settings = {"capture_output": True, "timeout": 120, **options}
    return subprocess.run([*MODULE, *words], env=environment, check=False, **settings)  # type: ignore[call-overload]


def describe_into(tiles: Path, stream: object) -> subprocess.CompletedProcess[bytes]:
    words = ("data", "describe", "tiles", "--data", str(tiles))
    return run(*words, stdout=stream, stderr=subprocess.PIPE, capture_output=False)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Return a table of four small tiles with a title that steers terminals."""
    rows = ["path,label,group"]
    for number in range(4):
        name = f"n\x1b[31m\x1b]0;owned\x07{number}.png"
        Image.new("RGB", (32, 32), (40 * number, 90, 120)).save(tmp_path / name)
        label = ("b", "a\x1b[2J")[number % 2]
        rows.append(f"{name},{label},\x9b31mg{number // 2}")
    (tmp_path / "tiles.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path / "tiles.csv"


def test_control_characters_are_shown_and_text_is_left_alone() -> None:
    assert shown("a\tb\nc é 漢 🔬") == "a\tb\nc é 漢 🔬"
    assert shown("\x1b[0m\x07\x7f\x9b\r\u202e") == "\\x1b[0m\\x07\\x7f\\x9b\\x0d\\u202e"
    assert not is_text(os.fsdecode(b"caf\xe9"))
    stream = io.StringIO()
    PlainStream(stream).writelines(["\x1b", "b"])
    assert stream.getvalue() == "\\x1bb"


def test_a_progress_bar_may_go_back_to_the_start_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    PlainStream(stream).write("\rin a file")
    monkeypatch.setattr(stream, "isatty", lambda: True)
    PlainStream(stream).write("\r\x1b[A 3 of 7\r\x1b[A")
    assert stream.getvalue() == "\\x0din a file\r\x1b[A 3 of 7\\x0d\\x1b[A"


def test_names_do_not_steer_the_terminal(tiles: Path) -> None:
    done = run("data", "describe", "tiles", "--data", str(tiles))
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert not {0x1B, 0x07, 0x9B} & set(text)
    assert b"\\x1b[2J" in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_characters_that_the_terminal_lacks_are_escaped(tiles: Path, encoding: str) -> None:
    tiles.write_text(tiles.read_text(encoding="utf-8").replace("a\x1b[2J", "高分化 é"), encoding="utf-8")
    done = run("data", "describe", "tiles", "--data", str(tiles), env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"\\u9ad8" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_behind_the_output_is_one_message(tiles: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(
            "data", "describe", "tiles", "--data", str(tiles), stdout=full, stderr=subprocess.PIPE, capture_output=False
        )
    assert done.returncode == 2
    assert done.stderr.count(b"error:") == 1
    assert b"the output can't be written" in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_a_reader_that_leaves_ends_the_command_quietly(tiles: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(
        "data", "describe", "tiles", "--data", str(tiles), stdout=writing, stderr=subprocess.PIPE, capture_output=False
    )
    os.close(writing)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_missing_memory_is_one_message() -> None:
    for error in (
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ):
        with pytest.raises(UserError, match="not enough memory"), explained_memory():
            raise error
    with pytest.raises(RuntimeError, match="else"), explained_memory():
        raise RuntimeError("something else")


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
def test_a_name_that_is_no_utf_8_is_one_message(tmp_path: Path) -> None:
    for words in (
        (b"data", b"describe", b"tiles", b"--data", b"caf\xe9"),
        (b"run", b"tiles", b"--data", b"x.csv", b"--out", b"\xff"),
    ):
        done = run(*words)
        assert done.returncode == 2, done.stderr
        assert b"not UTF-8" in done.stderr
        assert b"Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_stop_by_hand_says_what_is_kept_and_how_to_go_on(tmp_path: Path) -> None:
    reader = tmp_path / "slow.py"
    reader.write_text(
        "import time\nfrom histotune.datasets import DatasetSpec\n"
        "SPEC = DatasetSpec(name='slow', title='Slow', licence='CC0', citation='Me.')\n"
        "def read(config):\n    print('reading', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*MODULE, "embed", str(reader), "--data", str(tmp_path), "--cache", str(tmp_path / "c c")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped; finished embeddings" in said
    assert f"histotune embed {reader} --data {tmp_path} --cache '{tmp_path}/c c'" in said
