from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from histotune.tools import devices
from histotune.tools.devices import (
    ComputeDevice,
    choose_precision,
    compute_signature,
    driver_cuda_version,
    find_device,
    halve_on_out_of_memory,
    torch_cuda_version,
    torch_fits_driver,
    torch_install_line,
)
from histotune.tools.errors import UserError

T4 = ComputeDevice("cuda", "Tesla T4", "7.5", 15.6, fast_bf16=False)
H200 = ComputeDevice("cuda", "NVIDIA H200", "9.0", 139.0, fast_bf16=True)
OLD_CPU = ComputeDevice("cpu", "an old processor", "", float("nan"), fast_bf16=False)
NEW_CPU = ComputeDevice("cpu", "a new processor", "", float("nan"), fast_bf16=True)


def pretend(monkeypatch: pytest.MonkeyPatch, gpu: ComputeDevice | None, built: str | None, driver: str | None) -> None:
    """Let the machine have this GPU, this torch build and this driver."""
    monkeypatch.setattr(devices, "_probe_cuda", lambda: gpu)
    monkeypatch.setattr(devices, "torch_cuda_version", lambda: built)
    monkeypatch.setattr(devices, "driver_cuda_version", lambda: driver)


def test_a_gpu_that_torch_can_use_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, T4, "12.8", "12.8")
    assert find_device() == T4
    assert find_device("cuda") == T4
    assert find_device("cpu").kind == "cpu"


@pytest.mark.parametrize(("built", "driver"), [(None, "12.8"), ("13.2", "12.8")])
def test_a_gpu_that_torch_can_not_use_leaves_the_processor(
    monkeypatch: pytest.MonkeyPatch, built: str | None, driver: str
) -> None:
    pretend(monkeypatch, T4, built, driver)
    assert find_device().kind == "cpu"
    with pytest.raises(UserError, match="no such device") as caught:
        find_device("cuda")
    assert caught.value.fix == torch_install_line(driver)


def test_asking_for_a_gpu_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None, "13.2", None)
    assert find_device().kind == "cpu"
    with pytest.raises(UserError) as caught:
        find_device("cuda")
    assert (caught.value.allowed, caught.value.fix) == ("cpu", "histotune doctor")


@pytest.mark.parametrize(
    ("built", "driver", "fits"),
    [("12.8", "12.8", True), ("12.8", "12.2", True), ("12.6", "13.0", True), ("13.2", "13.0", True),
     ("13.0", "12.9", False), (None, "12.8", False), ("12.8", None, False)],
)  # fmt: skip
def test_a_driver_runs_every_build_of_its_major_version_and_older_ones(
    monkeypatch: pytest.MonkeyPatch, built: str | None, driver: str | None, fits: bool
) -> None:
    pretend(monkeypatch, None, built, driver)
    assert torch_fits_driver() is fits


@pytest.mark.parametrize(
    ("driver", "tag"),
    [("12.2", "cu126"), ("12.6", "cu126"), ("12.7", "cu126"), ("12.8", "cu128"), ("12.9", "cu128"), ("13.0", "cu130"),
     ("13.2", "cu130"), ("14.0", "cu130")],
)  # fmt: skip
def test_the_install_line_matches_the_driver(driver: str, tag: str) -> None:
    assert torch_install_line(driver).endswith(f"--index-url https://download.pytorch.org/whl/{tag}")


@pytest.mark.parametrize("driver", ["11.8", "10.2"])
def test_a_driver_too_old_for_any_build_must_be_updated(driver: str) -> None:
    assert torch_install_line(driver).startswith("update the NVIDIA driver")


def test_a_driver_that_can_not_be_asked_must_be_made_visible() -> None:
    assert "libcuda" in torch_install_line(None)


def test_the_build_read_from_the_file_is_what_torch_says() -> None:
    assert torch_cuda_version() == torch.version.cuda


def test_the_quick_look_agrees_with_torch_here() -> None:
    assert (find_device().kind == "cuda") == torch.cuda.is_available()
    assert (driver_cuda_version() is None) <= (not torch.cuda.is_available())


@pytest.mark.parametrize(
    ("device", "requested", "expected"),
    [(T4, "auto", "fp16"), (H200, "auto", "bf16"), (OLD_CPU, "auto", "fp32"), (NEW_CPU, "auto", "bf16"),
     (T4, "bf16", "bf16"), (H200, "fp32", "fp32"), (NEW_CPU, "fp32", "fp32")],
)  # fmt: skip
def test_precision(device: ComputeDevice, requested: devices.Precision, expected: str) -> None:
    assert choose_precision(device, requested) == expected


def test_fp16_on_a_processor_is_refused() -> None:
    with pytest.raises(UserError, match="fp16"):
        choose_precision(NEW_CPU, "fp16")


def test_the_signature_holds_majors_and_the_kind_of_device() -> None:
    signature = compute_signature(T4)
    assert signature["device"] == "cuda7.5"
    assert signature["torch"] == torch.__version__.split(".")[0]
    assert all("." not in signature[name] for name in ("torch", "timm", "transformers", "pillow"))


@pytest.mark.parametrize("fits", [1, 3, 8, 32])
def test_the_batch_is_halved_until_it_fits(fits: int) -> None:
    tried = []

    def attempt(batch_size: int) -> str:
        tried.append(batch_size)
        if batch_size > fits:
            raise torch.OutOfMemoryError("out of memory")
        return "done"

    result, batch_size = halve_on_out_of_memory(32, attempt)
    assert (result, batch_size) == ("done", tried[-1])
    assert tried == [32 // 2**step for step in range(len(tried))]
    assert batch_size <= fits < 2 * batch_size


def test_a_tile_that_never_fits_is_explained() -> None:
    def attempt(batch_size: int) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(UserError, match="single tile"):
        halve_on_out_of_memory(4, attempt)


def test_other_errors_are_not_taken_for_missing_memory() -> None:
    def attempt(batch_size: int) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        halve_on_out_of_memory(4, attempt)


def test_the_quick_look_does_not_import_torch() -> None:
    code = (
        "import sys; from histotune.tools.devices import choose_precision, compute_signature, find_device\n"
        "device = find_device(); choose_precision(device); compute_signature(device)\n"
        "print(sorted({'torch', 'numpy', 'timm', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
