from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.tools import files
from histotune.tools.files import canonical_json, hash_bytes, hash_file, hash_json, read_json, user_dir, write_json

# canonical JSON

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_canonical_json_reads_back_as_the_same_value(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=5), st.randoms())
def test_canonical_json_ignores_the_order_of_keys(value: dict[str, object], random: object) -> None:
    keys = list(value)
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_json_can_not_hold_become_null(number: float) -> None:
    assert json.loads(canonical_json({"a": [number, (1, number)]})) == {"a": [None, [1, None]]}


def test_values_json_can_not_hold_are_refused() -> None:
    with pytest.raises(TypeError):
        canonical_json({"a": object()})


def test_write_json_gives_equal_bytes_for_equal_values(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1.5, "a": (1, 2)})
    write_json(tmp_path / "b.json", {"a": [1, 2], "b": 1.5})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


def test_write_json_writes_nothing_when_the_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


# hashes


def test_hash_of_known_bytes() -> None:
    length = (3).to_bytes(8, "little")
    assert hash_bytes(b"abc") == hashlib.sha256(length + b"abc").hexdigest()


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_hashes_differ_whenever_the_parts_differ(first: list[bytes], second: list[bytes]) -> None:
    assert (hash_bytes(*first) == hash_bytes(*second)) == (first == second)


def test_text_hashes_as_its_utf8_bytes() -> None:
    assert hash_bytes("µm") == hash_bytes("µm".encode())


def test_hash_json_ignores_the_order_of_keys() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": "1"})


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_hash_file_equals_the_hash_of_its_bytes(tmp_path: Path, size: int) -> None:
    data = bytes(number % 251 for number in range(size))
    (tmp_path / "a").write_bytes(data)
    assert hash_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


# user folders


@pytest.mark.parametrize(
    ("platform", "variable", "kind"),
    [
        ("linux", "XDG_CACHE_HOME", "cache"),
        ("linux", "XDG_STATE_HOME", "state"),
        ("win32", "LOCALAPPDATA", "cache"),
        ("win32", "LOCALAPPDATA", "state"),
    ],
)
def test_user_dir_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str, kind: str
) -> None:
    monkeypatch.setattr(files.sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    folder = user_dir(kind)  # type: ignore[arg-type]
    assert folder.name == "histotune"
    assert tmp_path in folder.parents
    assert not folder.exists()


def test_user_dir_on_macos_keeps_state_apart_from_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert user_dir("cache").parts[-3:] == ("Library", "Caches", "histotune")
    assert user_dir("state").parts[-3:] == ("Library", "Application Support", "histotune")


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert user_dir("cache") == Path.home() / ".cache" / "histotune"


@pytest.mark.parametrize("text", [
    b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}', b'{"\\uDFFF": 1}', b"\xff", b"[" * 200_000, b"{", b"nul",
])  # fmt: skip
def test_what_is_no_json_is_a_value_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError):
        read_json(tmp_path / "a.json")


def test_whole_characters_are_read_however_they_are_spelled(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00 \xc3\xa9"}')
    assert read_json(tmp_path / "a.json") == {"a": "\U0001f600 é"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_a_pipe_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="a device or a pipe"):
        read_json(tmp_path / "a.json")
