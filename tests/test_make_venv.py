"""The environment script: which torch is kept, and when it stops."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from scripts import make_venv
from scripts.make_venv import TorchState, constraints_keeping, probe_torch, python_of, site_packages_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the Makefile's own; Windows uses plain pip")

PINS = "# header\nnumpy==2.4.6\ntorch==2.15.0\ntorchmetrics==1.9.0\ntorchvision==0.29.2\n"
GPU_TORCH = TorchState({"torch": "2.8.0+cu128", "torchvision": "0.23.0+cu128"}, "12.8", sees_gpu=True)


def pretend_torch(environment: Path, version: str, cuda: str | None, sees_gpu: bool) -> None:
    """Write the smallest importable torch, with metadata, into an environment."""
    site = site_packages_of(environment)
    package, metadata = site / "torch", site / f"torch-{version}.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    available = f"class cuda:\n    @staticmethod\n    def is_available(): return {sees_gpu}\n"
    built = f"class version: cuda = {cuda!r}\n"
    (package / "__init__.py").write_text(available + built, encoding="utf-8")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n", encoding="utf-8")


def pretend_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str = "echo 'GPU 0: Tesla T4'") -> None:
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def empty_venv(tmp_path: Path) -> Path:
    venv.create(tmp_path / "venv", with_pip=False)
    return tmp_path / "venv"


def test_an_interpreter_without_torch_has_no_state(empty_venv: Path, tmp_path: Path) -> None:
    assert probe_torch(python_of(empty_venv)) is None
    assert probe_torch(tmp_path / "no-python") is None


@pytest.mark.parametrize(
    ("version", "cuda", "sees_gpu", "usable"),
    [("2.8.0+cu128", "12.8", True, True), ("2.15.0", "13.2", True, True), ("2.7.1", "12.6", True, False),
     ("2.15.0", "13.2", False, False), ("2.15.0+cpu", None, False, False), ("3.0.0", "14.0", True, False)],
)  # fmt: skip
def test_a_torch_is_kept_when_it_sees_a_gpu_and_is_new_enough(
    empty_venv: Path, version: str, cuda: str | None, sees_gpu: bool, usable: bool
) -> None:
    pretend_torch(empty_venv, version, cuda, sees_gpu)
    state = probe_torch(python_of(empty_venv))
    assert state == TorchState({"torch": version}, cuda, sees_gpu)
    assert state.usable is usable


def test_a_kept_torch_replaces_its_pins_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text(PINS, encoding="utf-8")
    kept = constraints_keeping(GPU_TORCH, tmp_path / "constraints.txt").splitlines()
    assert kept == [
        "# header", "numpy==2.4.6", "torchmetrics==1.9.0", "torch==2.8.0+cu128", "torchvision==0.23.0+cu128",
    ]  # fmt: skip


def test_a_kept_torch_without_torchvision_leaves_its_choice_to_pip(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text(PINS, encoding="utf-8")
    state = TorchState({"torch": "2.8.0+cu128"}, "12.8", sees_gpu=True)
    assert "torchvision==" not in constraints_keeping(state, tmp_path / "constraints.txt")


def test_without_a_kept_torch_the_pins_stand(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text(PINS, encoding="utf-8")
    assert constraints_keeping(None, tmp_path / "constraints.txt") == PINS
    assert constraints_keeping(None, None).strip() == ""


@pytest.mark.parametrize(
    ("script", "works"), [("echo 'GPU 0: Tesla T4'", True), ("exit 9", False), ("echo 'No devices were found'", False)]
)
def test_nvidia_smi_works_when_it_lists_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, works: bool
) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path / "bin", script)
    assert make_venv.nvidia_smi_works() is works


@pytest.mark.slow
def test_the_torch_of_an_activated_environment_is_shared_with_the_new_one(empty_venv: Path, tmp_path: Path) -> None:
    pretend_torch(empty_venv, "2.8.0+cu128", "12.8", sees_gpu=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from scripts import make_venv\n"
        "make_venv.make_environment(Path(sys.argv[2]), share_interpreter=True)"
    )
    target = tmp_path / "new"
    command = [str(python_of(empty_venv)), "-c", code, str(Path(__file__).parents[1]), str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    state = probe_torch(python_of(target))
    assert state is not None
    assert (state.versions, state.usable) == ({"torch": "2.8.0+cu128"}, True)


def test_a_working_environment_is_kept_as_it_is(empty_venv: Path) -> None:
    marker = site_packages_of(empty_venv) / "mine.txt"
    marker.write_text("x", encoding="utf-8")
    make_venv.make_environment(empty_venv, share_interpreter=False)
    assert marker.exists()


@pytest.mark.parametrize(("cuda", "words"), [("13.2", "built for CUDA 13.2"), (None, "built without CUDA")])
def test_it_stops_with_the_install_line_where_torch_can_not_use_the_gpu(
    monkeypatch: pytest.MonkeyPatch, empty_venv: Path, tmp_path: Path, cuda: str | None, words: str
) -> None:
    import histotune.tools.devices

    pretend_torch(empty_venv, "2.15.0", cuda, sees_gpu=False)
    pretend_nvidia_smi(monkeypatch, tmp_path / "bin")
    monkeypatch.setattr(histotune.tools.devices, "driver_cuda_version", lambda: "12.8")
    with pytest.raises(SystemExit) as caught:
        make_venv.stop_without_gpu(empty_venv)
    message = str(caught.value)
    assert words in message
    assert f"{python_of(empty_venv)} -m pip install torch torchvision --index-url" in message
    assert "/cu128" in message


def test_it_goes_on_without_a_gpu_and_with_a_usable_one(
    monkeypatch: pytest.MonkeyPatch, empty_venv: Path, tmp_path: Path
) -> None:
    make_venv.stop_without_gpu(empty_venv)
    pretend_torch(empty_venv, "2.8.0", "12.8", sees_gpu=True)
    pretend_nvidia_smi(monkeypatch, tmp_path / "bin")
    make_venv.stop_without_gpu(empty_venv)


@pytest.mark.parametrize("kept_in", ["interpreter", "environment", "nowhere"])
def test_which_torch_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept_in: str) -> None:
    target, calls = tmp_path / "target", []
    blind = TorchState({"torch": "2.15.0"}, "13.2", sees_gpu=False)
    states = {
        Path(sys.executable): GPU_TORCH if kept_in == "interpreter" else None,
        python_of(target): GPU_TORCH if kept_in == "environment" else blind,
    }
    monkeypatch.setattr(make_venv, "probe_torch", states.get)
    monkeypatch.setattr(make_venv, "nvidia_smi_works", lambda: True)
    monkeypatch.setattr(make_venv, "stop_without_gpu", lambda venv: None)
    monkeypatch.setattr(make_venv, "make_environment", lambda venv, share: calls.append(share))
    monkeypatch.setattr(make_venv, "install", lambda venv, text, extras, upgrade: calls.append(text))
    (tmp_path / "constraints.txt").write_text(PINS, encoding="utf-8")
    make_venv.main([str(target), "--constraints", str(tmp_path / "constraints.txt")])
    assert calls[0] is (kept_in == "interpreter")
    assert ("torch==2.8.0+cu128" in calls[1]) is (kept_in != "nowhere")
    assert ("torch==2.15.0" in calls[1]) is (kept_in == "nowhere")
