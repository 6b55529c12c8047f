"""Folding batch norms changes nothing but the rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from histotune.backbones.engine import fuse_batch_norms


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_folded_networks_compute_the_same(name: str) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    x_BCHW = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        model.train()(x_BCHW)  # running statistics that are not the initial ones
    n_norms = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    folded = copy.deepcopy(model.eval())
    assert fuse_batch_norms(folded) == n_norms
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(x_BCHW), model(x_BCHW), rtol=1e-4, atol=1e-4)


def test_norms_and_convolutions_used_twice_stay() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.one(y) + y + self.two(self.conv(x))

    assert fuse_batch_norms(Shared().eval()) == 0


def test_a_network_that_cannot_be_traced_is_left_alone() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    assert fuse_batch_norms(Branching().eval()) == 0
