from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from histotune import __version__
from histotune.tools import devices, doctor, provenance
from histotune.tools.devices import ComputeDevice
from histotune.tools.doctor import Check, MachineDiagnosis, diagnose, render

T4 = ComputeDevice("cuda", "Tesla T4", "7.5", 15.6, fast_bf16=False)
TOKEN = "hf_AbCdEfGhIjKlMnOpQrSt"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="the pretended nvidia-smi is a shell script")


def pretend(monkeypatch: pytest.MonkeyPatch, gpu: ComputeDevice | None, built: str | None, driver: str | None) -> None:
    """Let the machine have this GPU, this torch build and this driver."""
    monkeypatch.setattr(devices, "_probe_cuda", lambda: gpu)
    for module in (devices, doctor):
        monkeypatch.setattr(module, "torch_cuda_version", lambda: built)
        monkeypatch.setattr(module, "driver_cuda_version", lambda: driver)


def pretend_nvidia_smi(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put an nvidia-smi with this body on the search path."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def printed(diagnosis: MachineDiagnosis, width: int = 200) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render(diagnosis))
    return stream.getvalue()


def find(diagnosis: MachineDiagnosis, name: str) -> Check:
    return next(check for check in diagnosis.checks if check.name == name)


def test_a_diagnosis_names_versions_device_folders_and_hub(tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path / "cache")
    assert diagnosis.value("histotune") == __version__
    assert diagnosis.value("torch").startswith(provenance.library_version("torch"))
    assert {check.section for check in diagnosis.checks} >= {"software", "hardware", "folders", "hub"}
    text = printed(diagnosis)
    for word in ("python", "processor", "memory", "precision", "cache", "free disk", "test ledger", "token"):
        assert word in text


def test_an_unknown_line_is_a_key_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no such line"):
        diagnose(tmp_path).value("no such line")


def test_the_diagnosis_is_json_ready(tmp_path: Path) -> None:
    assert json.loads(json.dumps(diagnose(tmp_path).as_dict()))["checks"]


def test_looking_writes_nothing(tmp_path: Path) -> None:
    diagnose(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_torch_is_not_imported_without_the_deep_check(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from histotune.tools.doctor import diagnose\n"
        "diagnose(Path(sys.argv[1]))\n"
        "print(sorted({'torch', 'timm', 'transformers', 'peft', 'sklearn', 'numpy'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# versions


def test_a_version_outside_the_declared_range_is_a_warning_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = provenance.library_version
    monkeypatch.setattr(provenance, "library_version", lambda name: "2.7.1+cu126" if name == "torch" else real(name))
    check = find(diagnose(tmp_path), "torch")
    assert check.level == "warning"
    assert check.value.startswith("2.7.1+cu126 (histotune needs ")
    assert ">=2.8" in check.fix


def test_a_missing_library_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = provenance.library_version
    monkeypatch.setattr(provenance, "library_version", lambda name: "not installed" if name == "timm" else real(name))
    check = find(diagnose(tmp_path), "timm")
    assert (check.level, check.fix.startswith('pip install "timm')) == ("warning", True)


def test_extras_that_are_missing_come_with_their_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "numpy>=2.0",
        'no-such-package>=1; extra == "track"',
        'pydantic; extra == "web"',
        'ruff; extra == "dev"',
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: declared)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.value("track") == "not installed: no-such-package (pip install 'histotune[track]')"
    assert diagnosis.value("web") == "installed"
    assert not [check for check in diagnosis.checks if check.name == "dev"]


# devices


def test_a_usable_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, T4, "12.8", "12.8")
    diagnosis = diagnose(tmp_path)
    assert diagnosis.value("device") == "cuda: Tesla T4, compute capability 7.5, 15.6 GiB"
    assert diagnosis.value("precision").startswith("fp16")
    assert find(diagnosis, "device").level == "ok"


@POSIX
@pytest.mark.parametrize(("built", "words"), [(None, "built without CUDA"), ("13.2", "built for CUDA 13.2")])
def test_a_gpu_that_torch_can_not_use_comes_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str | None, words: str
) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'Tesla T4'; echo 'Tesla T4'")
    pretend(monkeypatch, T4, built, "12.8")
    check = find(diagnose(tmp_path), "device")
    assert check.level == "warning"
    assert words in check.value
    assert "Tesla T4 and 1 more" in check.value
    assert check.fix.endswith("https://download.pytorch.org/whl/cu128")
    assert check.fix in printed(MachineDiagnosis((check,)))


@POSIX
def test_a_gpu_without_its_driver_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'Tesla T4'")
    pretend(monkeypatch, None, "13.2", None)
    check = find(diagnose(tmp_path), "device")
    assert (check.level, "libcuda" in check.fix) == ("warning", True)


@POSIX
def test_a_gpu_hidden_from_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, "echo 'Tesla T4'")
    pretend(monkeypatch, None, "12.8", "12.8")
    check = find(diagnose(tmp_path), "device")
    assert (check.level, "CUDA_VISIBLE_DEVICES" in check.fix) == ("warning", True)


@POSIX
@pytest.mark.parametrize("script", ["exit 9", "echo; exit 0", "echo 'Failed to initialize NVML'; exit 255"])
def test_an_nvidia_smi_that_does_not_work_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    pretend_nvidia_smi(monkeypatch, tmp_path, script)
    pretend(monkeypatch, None, "13.2", None)
    check = find(diagnose(tmp_path), "device")
    assert (check.level, check.value) == ("ok", "cpu: no NVIDIA GPU found")


# folders


def test_the_size_of_the_cache_and_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "user_dir", lambda kind: tmp_path / kind)
    (tmp_path / "cache" / "shards").mkdir(parents=True)
    (tmp_path / "cache" / "shards" / "0.npy").write_bytes(b"x" * (2**30 // 50))
    assert diagnose(tmp_path / "cache").value("cache").endswith("(0.02 GiB)")
    assert diagnose(tmp_path / "cache").value("test ledger").endswith("ledger.jsonl (no scoring recorded yet)")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    assert diagnose(tmp_path / "cache").value("test ledger").endswith("ledger.jsonl (2 scorings recorded)")


def test_a_cache_that_is_not_made_yet_is_measured_on_its_disk(tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path / "not" / "yet")
    assert diagnosis.value("cache").endswith("(not made yet)")
    free = shutil.disk_usage(tmp_path).free / 2**30
    assert float(diagnosis.value("free disk").split()[0]) == pytest.approx(free, abs=1.0)


def test_little_free_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(100, 99, 2**30))
    check = find(diagnose(tmp_path), "free disk")
    assert (check.level, check.value) == ("warning", "1.0 GiB")
    assert str(tmp_path) in check.fix


# the hub


def test_a_token_is_reported_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    diagnosis = diagnose(tmp_path)
    assert diagnosis.value("token") == "present"
    assert TOKEN not in printed(diagnosis) + json.dumps(diagnosis.as_dict())


def test_no_token_says_what_it_is_needed_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert diagnose(tmp_path).value("token").startswith("none (needed for gated models only")


# showing it


def test_warnings_stand_last_with_their_fix() -> None:
    diagnosis = MachineDiagnosis(
        (Check("hardware", "device", "cpu", "warning", "pip install [torch]"), Check("hub", "token", "present"))
    )
    assert diagnosis.warnings == diagnosis.checks[:1]
    lines = [line.strip() for line in printed(diagnosis).splitlines() if line.strip()]
    assert lines[-2:] == ["warning: device: cpu", "fix: pip install [torch]"]


def test_without_warnings_it_says_so() -> None:
    assert "no problems found" in printed(MachineDiagnosis((Check("hub", "token", "present"),)))


def test_a_narrow_terminal_loses_nothing() -> None:
    path = "/a/very/long/path/" + "x" * 80
    text = printed(MachineDiagnosis((Check("folders", "cache", path),)), width=40)
    assert path in "".join(line.strip().removeprefix("cache").strip() for line in text.splitlines())


# the deep check


def test_the_deep_check_multiplies_in_each_precision(tmp_path: Path) -> None:
    diagnosis = diagnose(tmp_path, deep=True)
    trials = [check for check in diagnosis.checks if check.section == "trial"]
    assert [check.name for check in trials][:2] == ["fp32", "bf16"]
    for check in trials:
        assert "GFLOP/s" in check.value
        assert check.level == "ok"


def test_the_deep_check_finds_a_gpu_that_only_looked_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    pretend(monkeypatch, T4, "12.8", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check = diagnose(tmp_path, deep=True).warnings[-1]
    assert (check.section, check.name) == ("trial", "torch")
    assert check.fix.endswith("cu128")
