"""From a spec to a loaded backbone: device, precision, normalisation, named columns."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Literal

from histotune.backbones.histogram import load_histogram
from histotune.backbones.records import Backbone, BackboneSpec, ColumnBlock, Reruns
from histotune.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from histotune.backbones.network import Network
    from histotune.devices import ComputeDevice

LOG = logging.getLogger(__name__)
# B batch, S side, C channels, D columns


def load_backbone(spec: BackboneSpec, device: ComputeDevice, precision: Literal["fp32", "bf16", "fp16"]) -> Backbone:
    """Load a backbone onto a device.

    Args:
        spec: The backbone.
        device: Where it runs.
        precision: Precision of its matrix products; outputs are float32 in any case.

    Returns:
        The backbone; its columns are the blocks ``cls`` and ``patch_mean`` for networks with a class token, ``pooled``
        for others.

    Raises:
        UserError: Missing or unfitting weights.
    """
    if spec.kind == "colour-histogram":
        return load_histogram(spec)
    if spec.kind == "external":
        raise UserError("imported embeddings have no network that could embed new images", value=spec.name,
                        fix="take a backbone that runs here, such as --backbone lite0")  # fmt: skip
    runner = Runner(spec, device, precision)
    return Backbone(spec, runner.blocks, runner, runner.module, runner.reruns)


class Runner:
    """Runs a network on batches of uint8 pixels.

    Convolutional networks take half-precision weights in channels-last memory, batch norms folded; networks with
    tokens run under autocast, which keeps the residual stream and the norms in fp32 (half the error of bf16 weights at
    the same speed).

    Args:
        spec: The backbone.
        device: Where it runs.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, spec: BackboneSpec, device: ComputeDevice, precision: Literal["fp32", "bf16", "fp16"]) -> None:
        import torch

        from histotune.backbones.network import build_network

        self._build = partial(build_network, spec)
        self._device = torch.device(device.kind)
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self._mean = torch.tensor(spec.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(spec.std, device=self._device).view(1, 3, 1, 1)
        self._full: Network | None = None
        self.reruns = Reruns()
        self._network = self._build()
        self.blocks = self._probe(spec)
        self._place(self._network, self._dtype if self._network.convolutional else torch.float32)

    @property
    def module(self) -> torch.nn.Module:
        """The network."""
        return self._network.module

    def __call__(self, pixels_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            pixels_BSSC: uint8 (B, S, S, 3).

        Returns:
            float32 (B, total_dim).

        Raises:
            UserError: Non-finite values even in fp32.
        """
        import torch

        with torch.inference_mode():
            x_BCSS = self._normalised(pixels_BSSC)
            result_BD = self._run(self._network, x_BCSS, self._dtype)
            if not bool(torch.isfinite(result_BD).all()):
                result_BD = self._rerun(x_BCSS)
            return result_BD.cpu().numpy()

    def _normalised(self, pixels_BSSC: NDArray[np.uint8]) -> torch.Tensor:
        """Return pixels as torchvision's ToTensor and Normalize would, operation by operation."""
        import torch

        x_BSSC = torch.from_numpy(pixels_BSSC).to(self._device, non_blocking=True)
        x_BCSS = x_BSSC.permute(0, 3, 1, 2)  # of contiguous NHWC: this is channels-last memory
        if not self._network.convolutional:
            x_BCSS = x_BCSS.contiguous()
        return x_BCSS.float().div_(255).sub_(self._mean).div_(self._std)

    def _run(self, network: Network, x_BCSS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        import torch

        half = dtype != torch.float32
        if network.convolutional:
            outputs = network.outputs(x_BCSS.to(dtype))
        else:
            with torch.autocast(self._device.type, dtype=dtype if half else torch.bfloat16, enabled=half):
                outputs = network.outputs(x_BCSS)
        return torch.cat([outputs[block.name].float() for block in self.blocks], dim=1)

    def _rerun(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Embed a batch that overflowed once more in fp32, and count it."""
        import torch

        if self._full is None:
            self._full = self._network
            if self._network.convolutional and self._dtype != torch.float32:
                self._full = self._build()
                self._place(self._full, torch.float32)
        result_BD = self._run(self._full, x_BCSS, torch.float32)
        if not bool(torch.isfinite(result_BD).all()):
            raise UserError("the backbone gives values that are not finite, in fp32 too",
                            fix="its weights are damaged or do not belong to this architecture")  # fmt: skip
        self.reruns.n_batches += 1
        LOG.warning("a batch overflowed in %s and was embedded again in fp32", self._dtype)
        return result_BD

    def _probe(self, spec: BackboneSpec) -> tuple[ColumnBlock, ...]:
        """Learn names and widths of the outputs from one blank image."""
        import torch

        with torch.inference_mode():
            try:
                outputs = self._network.outputs(torch.zeros(1, 3, spec.size_px, spec.size_px))
            except (AssertionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"this backbone does not take such images ({error})",
                    value=f"{spec.size_px} px",
                    fix="leave out --set view.size_px=... to take the documented size",
                ) from error
        blocks, start = [], 0
        for name, value_BD in outputs.items():
            blocks.append(ColumnBlock(name, start, start + value_BD.shape[1]))
            start += value_BD.shape[1]
        return tuple(blocks)

    def _place(self, network: Network, dtype: torch.dtype) -> None:
        import torch

        from histotune.backbones.fold import fold_batch_norms

        if network.convolutional:
            fold_batch_norms(network.module)
        network.module.requires_grad_(requires_grad=False)
        network.module.to(device=self._device, dtype=dtype)
        if network.convolutional:
            network.module.to(memory_format=torch.channels_last)
