"""The GPU benchmark of fine-tuning runs from end to end on the CPU, and says what it could not measure."""

from __future__ import annotations

import pytest
import torch
from benchmarks import gpu_finetune


def test_every_case_runs_on_a_cpu() -> None:
    found = gpu_finetune.smoke()
    assert [one["name"] for one in found] == [
        "lora, fp32",
        "last-blocks, fp32",
        "last-blocks, fp32, frozen output kept",
    ]
    assert all(float(str(one["images_per_s"])) > 0 and one["micro_batch"] == 2 for one in found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_nothing_is_claimed() -> None:
    assert {result.met for result in gpu_finetune.measure()} == {"not measured"}
