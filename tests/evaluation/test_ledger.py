"""Every scoring of a split is counted, across processes and crashes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from histotune.evaluation.findings import LedgerCount
from histotune.evaluation.ledger import Scoring, read_ledger, record_scoring
from tests.damage import one_byte_changes

OLD = json.dumps({"split_hash": "s", "target": "t", "choice_hash": "c0", "time": "2026-01-01T00:00:00+00:00"})


def test_counts_scorings_and_distinct_choices(tmp_path: Path) -> None:
    first = record_scoring(tmp_path, Scoring("split", "pcam test", "choice-1"))
    again = record_scoring(tmp_path, Scoring("split", "pcam test", "choice-1"))
    other = record_scoring(tmp_path, Scoring("split", "pcam test", "choice-2"))
    assert (first.times, first.choices) == (1, 1)
    assert (again.times, again.choices) == (2, 1)
    assert (other.times, other.choices) == (3, 2)


def test_other_splits_and_targets_do_not_count(tmp_path: Path) -> None:
    record_scoring(tmp_path, Scoring("split", "pcam test", "c"))
    assert record_scoring(tmp_path, Scoring("other", "pcam test", "c")).times == 1
    assert record_scoring(tmp_path, Scoring("split", "pcam valid", "c")).times == 1


def test_a_torn_last_line_is_skipped_and_the_next_entry_survives(tmp_path: Path) -> None:
    record_scoring(tmp_path, Scoring("split", "t", "c"))
    with (tmp_path / "ledger.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"split_hash": "spl')
    assert record_scoring(tmp_path, Scoring("split", "t", "c")).times == 2
    assert record_scoring(tmp_path, Scoring("split", "t", "c")).times == 3


def test_no_scoring_is_lost_between_writers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda n: record_scoring(tmp_path, Scoring("s", "t", f"c{n % 3}")), range(20)))
    assert sorted(count.times for count in counts) == list(range(1, 21))
    assert max(count.choices for count in counts) == 3


def test_the_sentence_reports_print() -> None:
    assert str(LedgerCount("pcam test", 1, 1)) == "pcam test: scored once under 1 choice"
    assert str(LedgerCount("pcam test", 3, 2)) == "pcam test: scored 3 times under 2 choices"


def made(folder: Path, n_old: int = 2, n_new: int = 3) -> Path:
    """Return a ledger of lines of an earlier version and of lines of today."""
    path = folder / "ledger.jsonl"
    path.write_text(f"{OLD}\n" * n_old, encoding="utf-8")
    for number in range(n_new):
        record_scoring(folder, Scoring("s", "t", f"c{number}"))
    return path


def test_lines_of_an_earlier_version_are_read_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path)
    assert record_scoring(tmp_path, Scoring("s", "t", "c1")) == LedgerCount("t", 6, 3)
    assert caplog.text == ""


def test_every_changed_byte_is_told_and_blocks_nothing(tmp_path: Path) -> None:
    path = made(tmp_path)
    last = path.with_name("ledger.last.json")
    whole, sound = path.read_bytes(), read_ledger(path)
    assert sound.faults == ()
    for one in (path, last):
        kept = one.read_bytes()
        n_tries = 0
        for place, changed in one_byte_changes(kept):
            one.write_bytes(changed)
            found = read_ledger(path)
            n_tries += 1
            assert found.faults or found == sound, f"byte {place} of {one.name}"
        one.write_bytes(kept)
        assert n_tries > 150
    path.write_bytes(whole)
    assert read_ledger(path).faults == ()


@pytest.mark.parametrize("place", [3, 40, -30])
def test_damage_is_one_warning_that_names_the_line_and_the_next_scoring_is_entered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    path = made(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    changed = bytearray(lines[3])
    changed[place] ^= 1
    path.write_bytes(b"".join([*lines[:3], bytes(changed), *lines[4:]]))
    record_scoring(tmp_path, Scoring("s", "t", "new"))
    assert len(caplog.records) == 1 and "line 4" in caplog.text
    assert b"new" in path.read_bytes().splitlines()[-1]
    assert len(path.read_bytes().splitlines()) == 6


@pytest.mark.parametrize("gone", range(5))
def test_a_missing_line_is_told(tmp_path: Path, gone: int) -> None:
    path = made(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    assert read_ledger(path).faults
    path.unlink()
    assert read_ledger(path).faults == ("5 of its 5 lines are missing",)


def test_a_torn_line_is_told_and_a_process_killed_before_the_note_is_no_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = made(tmp_path)
    note = path.with_name("ledger.last.json").read_bytes()
    record_scoring(tmp_path, Scoring("s", "t", "c"))
    path.with_name("ledger.last.json").write_bytes(note)
    assert read_ledger(path).faults == ()
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    count = record_scoring(tmp_path, Scoring("s", "t", "c"))
    assert "line 6 is torn" in caplog.text
    assert count.times == 6
    assert read_ledger(path).entries[-1]["choice_hash"] == "c"


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"[" * 100_000, b"{}\n3\nnull\n", b'{"split_hash": 3}'])
def test_anything_may_lie_there(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(data)
    assert record_scoring(tmp_path, Scoring("s", "t", "c")).times == 1
    assert read_ledger(tmp_path / "ledger.jsonl").faults
