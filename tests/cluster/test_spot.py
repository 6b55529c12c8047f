"""The spot notice: asked as IMDSv2 wants it, silent elsewhere, and a run that goes on to the same result."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from histotune.cluster import spot
from histotune.cluster.spot import MetadataClient, SpotConfig, SpotNotice, watch_spot
from histotune.tools.errors import UserError
from tests.cluster.metadata_service import Service, serving
from tests.conftest import write_breakhis

REPOSITORY = Path(__file__).parents[2]


def test_a_notice_is_read_with_a_token_that_is_renewed() -> None:
    service = Service(lambda: len(service.asked) > 4)
    service.valid_for = 2
    with serving(service) as endpoint:
        client = MetadataClient(SpotConfig(endpoint))
        found = [client.notice() for _ in range(5)]
    assert found[0] is None
    assert found[-1] == SpotNotice("terminate", "2026-11-30T08:22:00Z")
    assert len(service.tokens) > 1


def test_the_thread_tells_once_and_ends() -> None:
    told: list[SpotNotice] = []
    ready = threading.Event()
    service = Service(ready.is_set)
    with serving(service) as endpoint:
        variables = {spot.ENDPOINT_VARIABLE: endpoint, spot.INTERVAL_VARIABLE: "0.01"}
        thread = watch_spot(variables, told.append)
        assert thread is not None and thread.daemon
        while len(service.asked) < 3:
            time.sleep(0.01)
        assert not told
        ready.set()
        thread.join(10)
    assert told == [SpotNotice("terminate", "2026-11-30T08:22:00Z")]
    assert len(service.tokens) == 1


def test_elsewhere_nobody_is_asked_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spot, "VENDOR_FILES", (tmp_path / "none",))
    assert watch_spot({}) is None
    vendor = tmp_path / "vendor"
    vendor.write_text("Amazon EC2\n")
    monkeypatch.setattr(spot, "VENDOR_FILES", (vendor,))
    assert spot.is_on_ec2()
    assert watch_spot({spot.OFF_VARIABLE: "true"}) is None
    assert not caplog.records


def test_a_service_that_does_not_answer_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving(Service(lambda: False)) as endpoint:
        pass  # its port is free again: nobody listens
    began = time.monotonic()
    thread = watch_spot({spot.ENDPOINT_VARIABLE: endpoint, spot.INTERVAL_VARIABLE: "60"})
    assert thread is not None
    assert time.monotonic() - began < 1
    assert not caplog.records


@pytest.mark.parametrize(("text", "action"), [("not JSON", "terminate"), ('{"action": "stop", "time": "t"}', "stop")])
def test_a_notice_that_can_not_be_read_is_one_all_the_same(text: str, action: str) -> None:
    with serving(Service(lambda: True, text)) as endpoint:
        notice = MetadataClient(SpotConfig(endpoint)).notice()
    assert notice is not None and notice.action == action


def test_a_machine_that_sleeps_is_not_stopped(caplog: pytest.LogCaptureFixture) -> None:
    told: list[SpotNotice] = []
    with serving(Service(lambda: True, '{"action": "hibernate", "time": "t"}')) as endpoint:
        thread = watch_spot({spot.ENDPOINT_VARIABLE: endpoint}, told.append)
        assert thread is not None
        thread.join(10)
    assert not told
    assert "sleep" in caplog.text


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1000"])
def test_an_interval_that_is_none_is_told(text: str) -> None:
    with pytest.raises(UserError, match="seconds"):
        watch_spot({spot.ENDPOINT_VARIABLE: "http://127.0.0.1:9", spot.INTERVAL_VARIABLE: text})


# ---- Real runs ----


def variables(tmp_path: Path, endpoint: str = "") -> dict[str, str]:
    places = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    own = {"PYTHONPATH": places, "OMP_NUM_THREADS": "1", "XDG_STATE_HOME": str(tmp_path / "state")}
    own |= (
        {spot.ENDPOINT_VARIABLE: endpoint, spot.INTERVAL_VARIABLE: "0.02"} if endpoint else {spot.OFF_VARIABLE: "true"}
    )
    return {**os.environ, **own}


def matrices(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.glob("embeddings/*/shards/*.npy"))}


@pytest.mark.slow
def test_an_embedding_that_loses_its_machine_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    data = write_breakhis(tmp_path / "breakhis")

    def run(cache: Path, endpoint: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "histotune", "embed", "breakhis", "--data", str(data), "--cache", str(cache),
                   "--backbone", "lite0", "--set", "embedding.shard_tiles=4", "--set", "embedding.batch_size=4",
                   "--set", "embedding.threads=1", "--set", "embedding.precision=fp32"]  # fmt: skip
        own = variables(tmp_path, endpoint)
        return subprocess.run(command, env=own, capture_output=True, text=True, check=False, timeout=300)

    cache = tmp_path / "cache"
    with serving(Service(lambda: bool(matrices(cache)))) as endpoint:
        stopped = run(cache, endpoint)
    assert stopped.returncode == -signal.SIGTERM, stopped.stderr
    assert "takes this spot machine back (terminate at 2026-11-30T08:22:00Z)" in stopped.stderr
    kept = matrices(cache)
    resumed = run(cache)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on where it stopped" in resumed.stderr
    assert run(tmp_path / "other").returncode == 0
    whole = matrices(tmp_path / "other")
    assert 0 < len(kept) < len(whole)
    assert matrices(cache) == whole
    assert kept.items() <= whole.items()


TRAINING = """
import sys
from pathlib import Path
from histotune.cluster.spot import watch_spot
from tests.finetune import shared_training
watch_spot()
trained, _ = shared_training.slow(Path(sys.argv[1]), shared_training.SLOW_STEP_S)
print(list(trained.step_losses))
"""


@pytest.mark.slow
def test_a_training_that_loses_its_machine_writes_its_checkpoint_and_goes_on_along_the_same_curve(
    tmp_path: Path,
) -> None:
    path = tmp_path / "toy.safetensors"

    def run(place: Path, endpoint: str = "") -> subprocess.CompletedProcess[str]:
        command, own = [sys.executable, "-c", TRAINING, str(place)], variables(tmp_path, endpoint)
        done = subprocess.run(
            command, env=own, capture_output=True, text=True, check=False, timeout=300, cwd=REPOSITORY
        )
        return done

    with serving(Service(path.exists)) as endpoint:
        stopped = run(path, endpoint)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "stopped by SIGTERM" in stopped.stderr
    assert path.exists()
    resumed, whole = run(path), run(tmp_path / "other.safetensors")
    assert resumed.returncode == whole.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]
