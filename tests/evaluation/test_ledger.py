"""Every scoring of a split is counted, across processes and crashes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from histotune.evaluation.findings import LedgerCount
from histotune.evaluation.ledger import Scoring, record_scoring


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
