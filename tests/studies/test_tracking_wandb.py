"""The table of trials is never half-written or rewritten; W&B gets what it should, offline, and no token."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.studies.config import TrackingConfig
from histotune.studies.tracking import (
    RunLog,
    SweepFacts,
    TrialCurve,
    log_run,
    new_run_id,
    read_trials,
    record_trials,
    require_wandb,
    trial_rows,
    trials_folder,
)
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTS = SweepFacts(
    "20260101T000000-00000000", "breakhis", "breakhis 100X", "all", "hash", "midnight", "key", "probe", "logistic",
    "group-balanced-log-loss", "none", None, 96, 24, 1.5, "runs/x",
)  # fmt: skip
NAN = float("nan")


def made_trials(losses: list[float]) -> pl.DataFrame:
    n = len(losses)
    return pl.DataFrame(
        {"pooling": ["cls"] * n, "penalty": [10.0**-i for i in range(n)], "log_loss": losses, "log_loss_se": [0.1] * n,
         "auroc": [NAN] * n, "converged": [True] * n, "chosen": [i == 0 for i in range(n)]},
        schema_overrides={"log_loss": pl.Float64},
    )  # fmt: skip


def write_one(state: Path) -> None:
    facts = replace(FACTS, run_id=new_run_id())
    record_trials(state, trial_rows(made_trials([0.5, 0.6]), facts))


def test_every_trial_comes_back_with_its_settings(tmp_path: Path) -> None:
    record_trials(tmp_path, trial_rows(made_trials([0.5, 0.6, 0.4]), FACTS))
    table = read_trials(tmp_path)
    assert table["score"].to_list() == [0.5, 0.6, 0.4]
    assert table["settings"].str.json_path_match("$.penalty").cast(pl.Float64).to_list() == [1.0, 0.1, 0.01]
    assert table["auroc"].to_list() == [None] * 3
    assert table["chosen"].to_list() == [True, False, False]
    assert set(table["backbone"]) == {"midnight"}
    assert pl.scan_parquet(trials_folder(tmp_path) / "*.parquet").collect().equals(table)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=5))
def test_a_loss_that_is_not_finite_is_diverged_and_never_a_score(losses: list[float]) -> None:
    finite = [loss for loss in losses if abs(loss) < float("inf")]
    records = trial_rows(made_trials(losses), FACTS)
    assert records["score"].drop_nulls().to_list() == finite
    assert records["diverged"].sum() == len(losses) - len(finite)
    assert not (records["converged"] & records["diverged"]).any()


def test_a_trial_flagged_as_diverged_keeps_no_score() -> None:
    trials = made_trials([0.5, 0.6]).with_columns(diverged=pl.Series([False, True]))
    rows = trial_rows(trials, FACTS)
    assert rows["score"].to_list() == [0.5, None]
    with pytest.raises(ValueError, match="no score"):
        record_trials(Path("nowhere"), rows.with_columns(score=0.5))


def test_processes_side_by_side_lose_nothing(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(write_one, [tmp_path] * 6)
    assert len(read_trials(tmp_path)) == 12
    assert read_trials(tmp_path)["run_id"].n_unique() == 6


def test_no_file_is_ever_changed_and_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    first = record_trials(tmp_path, trial_rows(made_trials([0.5]), FACTS))
    before = (first.read_bytes(), first.stat().st_mtime_ns)
    (trials_folder(tmp_path) / ".x.parquet.abc.partial").write_bytes(b"PAR1 half")
    write_one(tmp_path)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert len(read_trials(tmp_path)) == 3


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    record_trials(tmp_path, trial_rows(made_trials([0.5]), FACTS))
    (trials_folder(tmp_path) / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"torn\.parquet"):
        read_trials(tmp_path)


def test_nothing_recorded_is_an_empty_table_with_the_same_columns(tmp_path: Path) -> None:
    empty = read_trials(tmp_path)
    record_trials(tmp_path, trial_rows(made_trials([0.5]), FACTS))
    assert len(empty) == 0
    assert empty.schema == read_trials(tmp_path).schema


def test_one_file_holds_one_run() -> None:
    one, other = (trial_rows(made_trials([0.5]), facts) for facts in (FACTS, replace(FACTS, run_id="other")))
    for records in (one.clear(), pl.concat([one, other])):
        with pytest.raises(ValueError, match="one run"):
            record_trials(Path("nowhere"), records)


def test_without_the_package_the_message_names_the_install_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    for check in (require_wandb, lambda config: log_run(made_log(tmp_path), config, tmp_path)):
        with pytest.raises(UserError, match=r"pip install \"histotune\[wandb\]\""):
            check(TrackingConfig(wandb="offline"))
    require_wandb(TrackingConfig())
    assert log_run(made_log(tmp_path), TrackingConfig(), tmp_path) == ""
    assert not (tmp_path / "wandb").exists()


def made_log(tmp_path: Path) -> RunLog:
    head = tmp_path / "head"
    head.mkdir(exist_ok=True)
    (head / "head.json").write_text("{}")
    curves = (TrialCurve("cls", "penalty", "log_loss", ((0.1, 0.5), (1.0, 0.25))),)
    config = {"sweep": {"folds": 5}, "note": "token=hf_abcdefghijklmnop"}
    trials = pl.DataFrame([{"penalty": 0.1, "log_loss": 0.5}, {"penalty": 1.0, "log_loss": None}])
    return RunLog(new_run_id(), "midnight on breakhis", config, {"log_loss": 0.25, "auroc": NAN}, curves, trials,
                  {"head": head})  # fmt: skip


def wandb_records(path: Path) -> Iterator[bytes]:
    """Read W&B's log: 7 bytes, then blocks of 32 KiB with records (checksum, length, type: whole or a piece)."""
    data, place, piece = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        piece += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield piece
            piece = b""


SCRIPT = """
import socket, sys
from pathlib import Path
from histotune.studies.config import TrackingConfig
from histotune.studies.tracking import log_run
from tests.studies.test_tracking_wandb import made_log

connect = socket.socket.connect
def local_only(self, address):
    assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
    return connect(self, address)
socket.socket.connect = local_only
print(log_run(made_log(Path(sys.argv[1])), TrackingConfig(wandb="offline"), Path(sys.argv[1]) / "state"))
"""


def test_an_offline_run_holds_config_curves_table_and_head_and_no_token(tmp_path: Path) -> None:
    if importlib.util.find_spec("wandb") is None:
        pytest.skip('wandb is not installed: pip install "histotune[wandb]"')
    from wandb.proto import wandb_internal_pb2

    key = "0123456789abcdef" * 2 + "01234567"
    environment = {**os.environ, "WANDB_API_KEY": key, "HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True,
                          env=environment, cwd=Path(__file__).parents[2], check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing was uploaded" in done.stdout
    folder = Path(done.stdout.strip().rpartition("wandb sync ")[2])
    records = [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(next(folder.glob("*.wandb")))]
    configs = {item.key: item.value_json for record in records for item in record.run.config.update}
    assert configs["sweep"] == '{"folds":5}' or '"folds": 5' in configs["sweep"]
    assert "***" in configs["note"]
    history = [{"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
               for record in records if record.HasField("history")]  # fmt: skip
    assert [float(row["cls/log_loss"]) for row in history if "cls/log_loss" in row] == [0.5, 0.25]
    assert any("trials" in name for row in history for name in row)
    assert any(record.request.log_artifact.artifact.type == "head" or record.artifact.type == "head"
               for record in records)  # fmt: skip
    for path in (item for item in tmp_path.rglob("*") if item.is_file()):
        content = path.read_bytes()
        assert key.encode() not in content, path
        assert b"hf_abcdefghijklmnop" not in content, path
    assert key not in done.stdout + done.stderr
