"""The command: one line when it is ready, refusals before anything is loaded, an end that answers what is under way."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import histotune as ht
from histotune.deploy import serve
from histotune.deploy.serve import ServeSettings, check_serve, is_local
from histotune.tools.errors import UserError
from tests.conftest import CommandResult
from tests.deploy.conftest import head_of_cases
from tests.serving import serving_process

Histotune = Callable[..., CommandResult]


def test_the_address_of_this_machine_alone_is_the_default() -> None:
    assert is_local(ServeSettings().host) and is_local("::1") and is_local("localhost") and is_local("127.0.0.2")
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.0.7", "example.org", "")))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "--to-network"),
        (("--port", "70000"), "0 to 65535"),
        (("--max-upload-mib", "0"), "--max-upload-mib 32"),
    ],
)
def test_odd_settings_are_refused_before_the_head_is_read(
    histotune: Histotune, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = histotune("serve", tmp_path / "nothing", *options)
    assert result.code == 2 and said in result.err


def test_missing_packages_are_named_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(UserError, match=r"pip install 'histotune\[serve\]'") as raised:
        check_serve(ServeSettings())
    assert "needs fastapi, not" in str(raised.value)


def test_a_port_that_is_taken_is_said(histotune: Histotune, tmp_path: Path) -> None:
    head_of_cases(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = histotune("serve", tmp_path / "head", "--port", str(port), "--cache", tmp_path / "cache")
    assert result.code == 2 and f"127.0.0.1:{port}" in result.err and "--port" in result.err


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_it_after_what_is_under_way(tmp_path: Path, sent: signal.Signals) -> None:
    head_of_cases(tmp_path)
    tiles = [path.read_bytes() for path in sorted((tmp_path / "train").glob("*.png"))[:60]]
    with serving_process(tmp_path / "head", tmp_path / "cache") as served:
        assert served.ask("GET", "/health").status == 200
        assert "# " in served.ask("GET", "/card").body.decode()
        found: list[int] = []
        asked = threading.Thread(
            target=lambda: found.append(served.send("/predict", *(("a.png", one) for one in tiles)).status)
        )
        asked.start()
        time.sleep(0.05)
        assert served.process is not None
        served.process.send_signal(sent)
        asked.join(30)
        code = served.process.wait(30)
        assert found == [200]
        assert code == (0 if sent == signal.SIGINT else -signal.SIGTERM)
        assert served.process.stderr is not None and "Traceback" not in served.process.stderr.read()


def test_other_machines_are_let_in_with_a_warning_alone(tmp_path: Path) -> None:
    head_of_cases(tmp_path)
    command = (sys.executable, "-m", "histotune", "serve", str(tmp_path / "head"), "--port", "0", "--host", "0.0.0.0")
    options = ("--to-network", "--cache", str(tmp_path / "cache"))
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "on http://0.0.0.0:" in process.stdout.readline()
        process.terminate()
        process.wait(30)
        assert "there is no password" in " ".join(process.stderr.read().split())


def test_a_head_of_a_folder_is_needed(tmp_path: Path) -> None:
    from histotune.studies.export_verbs import serve as serve_verb

    with pytest.raises(ht.UserError, match="no head in this folder"):
        serve_verb(tmp_path)
