"""Buckets: data that is read from one and results that go into one, against a server of S3 on this machine."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from histotune.cluster.buckets import fetch, local_places, refuse_strangers, store
from histotune.tools.errors import UserError
from tests.conftest import CommandResult, write_breakhis

Client: TypeAlias = Any  # boto3's
QUICK = ("--backbone", "colour-histogram", "--set", "sweep.folds=2", "--set", "sweep.penalties=[0.01,1]")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Start a server of S3 and yield a client of another library, with a bucket named data."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    import boto3
    import fsspec

    for name, value in (("AWS_ACCESS_KEY_ID", "testing"), ("AWS_SECRET_ACCESS_KEY", "testing"),
                        ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    fsspec.filesystem("s3").clear_instance_cache()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    client.create_bucket(Bucket="data")
    yield client
    server.stop()
    fsspec.filesystem("s3").clear_instance_cache()


def upload(client: Client, folder: Path, prefix: str) -> int:
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        client.upload_file(str(path), "data", f"{prefix}/{path.relative_to(folder).as_posix()}")
    return len(files)


def keys(client: Client, prefix: str) -> set[str]:
    return {
        one["Key"].removeprefix(prefix)
        for one in client.list_objects_v2(Bucket="data", Prefix=prefix).get("Contents", [])
    }


@pytest.mark.slow
def test_a_sweep_reads_its_data_from_a_bucket_and_writes_its_head_into_one(
    bucket: Client, histotune: Callable[..., CommandResult], tmp_path: Path
) -> None:
    data = write_breakhis(tmp_path / "breakhis")
    n_files = upload(bucket, data, "breakhis")
    words = ("--train-magnification", "100X", "--cache", tmp_path / "cache", *QUICK)
    here = histotune("sweep", "breakhis", "--data", data, "--out", tmp_path / "head", *words)
    assert here.code == 0, here.err
    there = histotune("sweep", "breakhis", "--data", "s3://data/breakhis", "--out=s3://data/heads/one", *words)
    assert there.code == 0, there.err
    assert f"{n_files:,} files, {n_files:,} copied" in there.err
    stored = keys(bucket, "heads/one/")
    files = {
        path.relative_to(tmp_path / "head").as_posix() for path in (tmp_path / "head").rglob("*") if path.is_file()
    }
    assert stored == files | {"histotune-files.json"}
    head = bucket.get_object(Bucket="data", Key="heads/one/head.safetensors")["Body"].read()
    assert head == (tmp_path / "head" / "head.safetensors").read_bytes()
    again = histotune("sweep", "breakhis", "--data", "s3://data/breakhis", "--out=s3://data/heads/one", *words)
    assert again.code == 0, again.err
    assert f"{n_files:,} files, 0 copied" in again.err


def test_only_what_changed_is_fetched_and_what_is_gone_goes(bucket: Client, tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/d.txt"):
        bucket.put_object(Bucket="data", Key=f"set/{name}", Body=name.encode())
    assert fetch("s3://data/set", tmp_path / "set") == 3
    assert fetch("s3://data/set/", tmp_path / "set") == 0
    bucket.put_object(Bucket="data", Key="set/a.txt", Body=b"other")
    bucket.delete_object(Bucket="data", Key="set/b/d.txt")
    (tmp_path / "set" / "b" / "c.txt").unlink()
    assert fetch("s3://data/set", tmp_path / "set") == 2
    found = {
        path.relative_to(tmp_path / "set").as_posix(): path.read_text() for path in (tmp_path / "set").rglob("*.txt")
    }
    assert found == {"a.txt": "other", "b/c.txt": "b/c.txt"}


def test_one_file_is_fetched_as_a_file(bucket: Client, tmp_path: Path) -> None:
    bucket.put_object(Bucket="data", Key="set/tiles.csv", Body=b"path,label\n")
    assert fetch("s3://data/set/tiles.csv", tmp_path / "tiles.csv") == 1
    assert (tmp_path / "tiles.csv").read_text() == "path,label\n"


def test_a_result_replaces_an_earlier_one_and_no_other_files(bucket: Client, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores.json").write_text("{}")
    (tmp_path / "run" / "old.txt").write_text("old")
    assert store(tmp_path / "run", "s3://data/run") == 2
    (tmp_path / "run" / "old.txt").unlink()
    store(tmp_path / "run", "s3://data/run")
    assert keys(bucket, "run/") == {"scores.json", "histotune-files.json"}
    listed = json.loads(bucket.get_object(Bucket="data", Key="run/histotune-files.json")["Body"].read())
    assert list(listed["files"]) == ["scores.json"]
    bucket.put_object(Bucket="data", Key="mine/thesis.txt", Body=b"x")
    with (
        pytest.raises(UserError, match="none is replaced"),
        local_places(["histotune", "run", "--out", "s3://data/mine"]),
    ):
        raise AssertionError("it must not begin")
    assert keys(bucket, "mine/") == {"thesis.txt"}


def test_a_command_that_fails_stores_nothing(
    bucket: Client, histotune: Callable[..., CommandResult], tmp_path: Path
) -> None:
    result = histotune(
        "sweep", "breakhis", "--data", tmp_path / "none", "--out", "s3://data/run", "--cache", tmp_path / "c"
    )
    assert result.code == 2
    assert not keys(bucket, "run/")


def test_any_file_system_of_fsspec_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    inner = fsspec.filesystem("file", auto_mkdir=True)
    fs = fsspec.filesystem("dir", path=str(tmp_path / "remote"), fs=inner)
    monkeypatch.setattr("histotune.cluster.buckets._file_system", lambda: fs)
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "scores.json").write_text("{}")
    (tmp_path / "run" / "plots" / "a.svg").write_text("<svg/>")
    refuse_strangers("s3://data/run")
    assert store(tmp_path / "run", "s3://data/run") == 2
    refuse_strangers("s3://data/run")  # its own
    assert fetch("s3://data/run", tmp_path / "back") == 3
    assert fetch("s3://data/run", tmp_path / "back") == 0
    assert (tmp_path / "back" / "plots" / "a.svg").read_text() == "<svg/>"
    (tmp_path / "remote" / "data" / "mine").mkdir()
    (tmp_path / "remote" / "data" / "mine" / "x.txt").write_text("x")
    with pytest.raises(UserError, match="none is replaced"):
        refuse_strangers("s3://data/mine")
    with pytest.raises(UserError, match="nothing is there"):
        fetch("s3://data/nothing", tmp_path / "x")


@pytest.mark.parametrize("place", ["s3://data/nothing", "s3://no-such-bucket/x"])
def test_what_is_not_there_is_one_message(bucket: Client, place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is there|can't be used"):
        fetch(place, tmp_path / "x")


def test_what_can_not_be_is_told_together(
    monkeypatch: pytest.MonkeyPatch, histotune: Callable[..., CommandResult]
) -> None:
    monkeypatch.setattr("histotune.cluster.buckets.find_spec", lambda name: None)
    result = histotune("sweep", "breakhis", "--data", "s3://X/y", "--cache", "s3://data/c", "--out", "s3://data/a.csv")
    assert result.code == 2
    for words in ("no place in a bucket", "local disk alone", "single file", 'pip install "histotune[s3]"'):
        assert words in result.err, words


def test_what_goes_to_another_machine_stays_as_it_is() -> None:
    words = ["histotune", "cloud", "plan", "--results", "s3://data/x", "embed", "pcam", "--data", "s3://data/y"]
    with local_places(words, ("cloud", "submit")) as given:
        assert given == words
    assert "AWS_ENDPOINT_URL" not in os.environ
