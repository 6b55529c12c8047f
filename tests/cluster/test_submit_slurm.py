"""Jobs on a real SLURM of one node: shared shards, and a job that one of more weight takes the node from."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from histotune.cluster.submit import JobOptions, submit, wait_for
from tests.cluster.one_node_slurm import slurm, why_not
from tests.cluster.test_submit import REPOSITORY, embedding, matrices
from tests.conftest import write_breakhis

pytest.importorskip("submitit")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "SLURM is here")]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with slurm(tmp_path / "slurm") as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        yield tmp_path / "jobs"


def test_ranks_share_shards_and_a_preempted_job_goes_on_to_the_same_bytes(jobs: Path, tmp_path: Path) -> None:
    data, cache = write_breakhis(tmp_path / "breakhis"), tmp_path / "cache"
    whole = JobOptions("slurm", jobs, ranks=2, gpus=0, cpus=1, hours=0.2)
    (first,) = submit([embedding(data, cache, "lite0")], whole)
    began = time.monotonic()
    while not matrices(cache):
        assert time.monotonic() - began < 240, [path.read_text() for path in jobs.glob("*_log.err")]
        time.sleep(0.01)
    quick = embedding(data, tmp_path / "quick")
    urgent = submit([quick],
                    JobOptions("slurm", jobs, ranks=2, gpus=0, cpus=1, hours=0.2, partition="high"))  # fmt: skip
    assert wait_for(urgent) == ("",)
    assert wait_for([first]) == ("",)
    said = "".join(path.with_suffix(".err").read_text() for path in first.logs)
    assert "Caught signal SIGUSR2" in said
    assert first.logs[0].read_text().count("+ histotune embed") == 2
    (alone,) = submit([embedding(data, tmp_path / "other", "lite0")], JobOptions("slurm", jobs, gpus=0, cpus=1))
    assert wait_for([alone]) == ("",)
    assert matrices(cache) == matrices(tmp_path / "other")
