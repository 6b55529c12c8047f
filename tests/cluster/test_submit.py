"""Commands as jobs, by submitit's own executors: shared shards, arrays, and a job that is taken away."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from histotune.cluster.submit import JobOptions, divided, submit, wait_for
from histotune.tools.errors import UserError
from tests.conftest import write_breakhis

pytest.importorskip("submitit")
REPOSITORY = Path(__file__).parents[2]
LOCAL = JobOptions("local", gpus=0, cpus=1, hours=0.2)


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def options(tmp_path: Path, **changed: object) -> JobOptions:
    return JobOptions(**{**vars(LOCAL), "folder": tmp_path / "jobs", **changed})


def embedding(data: Path, cache: Path, backbone: str = "colour-histogram") -> tuple[str, ...]:
    return ("embed", "breakhis", "--data", str(data), "--cache", str(cache), "--backbone", backbone,
            "--set", "embedding.shard_tiles=4", "--set", "embedding.batch_size=4", "--set", "embedding.threads=1",
            "--set", "embedding.precision=fp32", "--set", "embedding.wait_s=60")  # fmt: skip


def matrices(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.glob("embeddings/*/shards/*.npy"))}


@pytest.mark.slow
def test_two_ranks_of_a_job_share_the_shards(tmp_path: Path) -> None:
    data = write_breakhis(tmp_path / "breakhis")
    (job,) = submit([embedding(data, tmp_path / "cache")], options(tmp_path, ranks=2))
    assert wait_for([job]) == ("",)
    (alone,) = submit([embedding(data, tmp_path / "other")], options(tmp_path))
    assert wait_for([alone]) == ("",)
    assert matrices(tmp_path / "cache") == matrices(tmp_path / "other") != {}
    assert [path.parent for path in job.logs] == [tmp_path / "jobs"] * 2
    said = [path.with_suffix(".err").read_text() for path in job.logs]
    assert "rank 0 of 2" in said[0]
    assert "72 tiles" in job.logs[0].read_text()


@pytest.mark.slow
def test_a_job_that_fails_says_so_and_the_others_of_its_array_do_not(tmp_path: Path) -> None:
    data = write_breakhis(tmp_path / "breakhis")
    good = embedding(data, tmp_path / "cache")
    jobs = submit([good, (*good[:3], str(tmp_path / "nowhere"), *good[4:])], options(tmp_path))
    failures = wait_for(jobs)
    assert failures[0] == ""
    assert "exit code 2" in failures[1]
    assert "nowhere" in jobs[1].logs[0].with_suffix(".err").read_text()


def tasks_of(controller: str) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if re.search(rf"^PPid:\t{controller}$", text, flags=re.MULTILINE):
            found.append(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_job_that_is_taken_away_is_asked_for_again_and_goes_on_to_the_same_bytes(ranks: int, tmp_path: Path) -> None:
    data = write_breakhis(tmp_path / "breakhis")
    cache = tmp_path / "cache"
    (job,) = submit([embedding(data, cache, "lite0")], options(tmp_path, ranks=ranks))
    began = time.monotonic()
    while not matrices(cache):
        assert time.monotonic() - began < 240, job.logs[0].with_suffix(".err").read_text()
        time.sleep(0.005)
    for task in tasks_of(job.job_id):  # as SLURM does: to every process of the job, the commands themselves included
        for process in (task, *tasks_of(str(task))):
            os.kill(process, signal.SIGUSR2)
    assert wait_for([job]) == ("",) * 1
    said = job.logs[0].with_suffix(".err").read_text()
    assert "going on where it stopped" in said
    assert job.logs[0].read_text().count("+ histotune embed") == 2
    (whole,) = submit([embedding(data, tmp_path / "other", "lite0")], options(tmp_path))
    assert wait_for([whole]) == ("",)
    assert matrices(cache) == matrices(tmp_path / "other")


def test_an_array_has_a_job_and_a_folder_per_value() -> None:
    words = ("finetune", "pcam", "--out", "runs/x", "--final")
    first, second = divided(words, "finetune.loop.lr", ("1e-4", "1e-3"))
    assert first == (
        "finetune",
        "pcam",
        "--out",
        "runs/x/finetune.loop.lr-1e-4",
        "--final",
        "--set",
        "finetune.loop.lr=1e-4",
    )
    assert second[3] == "runs/x/finetune.loop.lr-1e-3"
    assert divided(("run", "--out=a"), "source.path", ("x/y",))[0][1] == "--out=a/source.path-x-y"
    with pytest.raises(UserError, match="once"):
        divided(words, "a", ("1", "1"))


def test_ranks_that_can_not_be_dealt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evenly"):
        submit([("doctor",)], options(tmp_path, ranks=3, nodes=2))


def test_submitit_that_is_missing_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("histotune.cluster.submit.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "histotune\[slurm\]"'):
        submit([("doctor",)], options(tmp_path))
    assert not (tmp_path / "jobs").exists()


def test_slurm_that_is_missing_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match="no srun"):
        submit([("doctor",)], options(tmp_path, executor="slurm"))
