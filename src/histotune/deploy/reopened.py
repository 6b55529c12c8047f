"""What was exported is opened again, and must say what the head itself says."""

# n images, C channels, S side of the network's input, D columns, K classes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.head import class_probabilities, column_logits, softmax
from histotune.images.views import resized_sizes, view_inputs
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from histotune.deploy.export_job import ExportJob

    Pixels = NDArray[np.uint8]
    Float = NDArray[np.float64]

SIZES_PX = ((200, 200), (157, 243), (301, 120), (96, 96))
"""Height and width of the images that an export is compared on; an odd crop and an upright image are among them."""
SAME_PROBABILITY, SAME_LOGIT = 1e-4, 1e-3


def made_images(n: int, height_px: int, width_px: int, seed: int = 0) -> list[Pixels]:
    """Return smooth random images with a little grain: softer than noise, which no network was made for."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(60, 250, (7, 7, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width_px, height_px), Image.Resampling.BICUBIC)).astype(np.int64)
        images.append((smooth + rng.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))
    return images


def network_inputs(job: ExportJob, images: Sequence[Pixels]) -> torch.Tensor:
    """Return images as the network takes them (n, 3, S, S): through the view, then normalised."""
    import torch

    view = job.bundle.view
    inputs = []
    for image_HWC in images:
        resized = None
        if view.target_mpp is not None:
            width, height = resized_sizes(image_HWC.shape[1], image_HWC.shape[0], view, job.config.mpp)
            resized = int(width), int(height)
        inputs.append(view_inputs(image_HWC, view, resized)[0])
    x_nCSS = torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (job.spec.mean, job.spec.std))
    return (x_nCSS - mean) / std


def expected_probabilities(job: ExportJob, x_nCSS: torch.Tensor) -> Float:
    """Return what the head says (n, K), in float64 beyond the network."""
    import torch

    assert job.network is not None
    with torch.inference_mode():
        columns_nD = torch.cat(list(job.network.outputs(x_nCSS).values()), dim=1).double().numpy()
    head = job.bundle.head
    return class_probabilities(head, column_logits(head, columns_nD[:, np.asarray(head.columns)]))


def require_same(found_logit_nK: NDArray[np.floating], expected_nK: Float, format_name: str) -> float:
    """Return the largest difference of a probability; refuse files that say something else.

    Log-probabilities are compared as well: where a probability is 0 or 1 to four digits, it hides what differs.
    """
    found_nK = softmax(np.asarray(found_logit_nK, np.float64))
    difference = float(np.abs(found_nK - expected_nK).max())
    tiny = np.finfo(np.float64).tiny
    log_found, log_expected = (np.log(np.maximum(one, tiny)) for one in (found_nK, expected_nK))
    of_logs = float((np.abs(log_found - log_expected) / np.maximum(np.abs(log_expected), 1.0)).max())
    if not (difference <= SAME_PROBABILITY and of_logs <= SAME_LOGIT):
        raise UserError(
            f"the files for {format_name} were opened again and say something else than the head; nothing was kept",
            value=f"a probability differs by {difference:.2g}, log-probabilities by {of_logs:.2g} of their size",
            allowed=f"{SAME_PROBABILITY:g} and {SAME_LOGIT:g}",
            fix="take another --format; --format folder is the closest to histotune itself",
        )
    return difference
