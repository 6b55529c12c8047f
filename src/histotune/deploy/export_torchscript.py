"""A folder for WSInfer and QuPath: a TorchScript model that resizes and normalises by itself, and its config.json."""

# B batch, T side of a tile, C channels

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.backbones.merged_folder import shown_name
from histotune.deploy.pixel_model import FixedSizeView, PixelModel
from histotune.deploy.reopened import expected_probabilities, made_images, network_inputs, require_same
from histotune.tools.errors import UserError
from histotune.tools.files import write_json
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.deploy.export_job import ExportConfig, ExportJob
    from histotune.evaluation.findings import Findings
    from histotune.images.config import ViewConfig

MODEL_FILE, CONFIG_FILE = "torchscript_model.pt", "config.json"
SPEC_VERSION = "1.0"
BATCHES = (1, 3)


def tile_of(config: ExportConfig, view: ViewConfig, findings: Findings | None) -> ExportConfig:
    """Return the options with the size and the scale of the tiles that are cut out of a slide.

    What is typed counts. Otherwise the tiles are as large as the view resizes them, at the scale at which the network
    saw the tiles that trained it: that of ``target_mpp``, or of the run.
    """
    if config.tile_px is not None and config.mpp is not None:
        return config
    mpp = view.target_mpp if view.target_mpp is not None else _trained_mpp(findings)
    if config.tile_px is None and config.mpp is None and mpp is not None:
        return replace(config, tile_px=view.scaled_px or view.size_px, mpp=mpp)
    return config


def refuse_no_tile(config: ExportConfig, view: ViewConfig) -> None:
    """Refuse an export without the size and scale of its tiles."""
    if config.tile_px is not None and config.mpp is not None:
        return
    raise UserError(
        "WSInfer and QuPath cut tiles out of a slide by size and scale, and nothing says which tiles trained this head",
        value=view.words,
        fix="--tile-px 96 --mpp 0.972, for example: the side and the scale (um/px) of the tiles that trained it",
    )


def _trained_mpp(findings: Findings | None) -> float | None:
    """Return the scale at which the network saw the tiles of the head's run; None where it is unknown."""
    finding = None if findings is None else findings.finding("in-domain")
    scales = [] if finding is None else [row.input_mpp for row in finding.rows if np.isfinite(row.input_mpp)]
    return float(f"{scales[0]:.4g}") if scales else None


def write_for_wsinfer(job: ExportJob, folder: Path) -> tuple[float, dict[str, object]]:
    """Write the TorchScript model and config.json, and run the model as WSInfer does."""
    config, view = job.config, job.bundle.view
    assert job.network is not None and config.tile_px is not None and config.mpp is not None
    model = PixelModel(job.network, FixedSizeView(view, config.tile_px, config.mpp), job.spec, job.head).eval()
    example = torch.rand(2, 3, config.tile_px, config.tile_px)
    with _torchscript_without_warning(), torch.no_grad():
        traced: Any = torch.jit.trace(model, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, folder / MODEL_FILE)
    write_json(folder / CONFIG_FILE, wsinfer_config(job))
    facts = {
        "file": MODEL_FILE,
        "tile_px": config.tile_px,
        "mpp": config.mpp,
        "opened_with": {"torch": library_version("torch")},
        "quantity": "calibrated logits; WSInfer and QuPath apply the softmax themselves",
    }
    return _opened(job, folder / MODEL_FILE), facts


def wsinfer_config(job: ExportJob) -> dict[str, object]:
    """Return config.json of WSInfer's model zoo, version 1.0; every field is required.

    The one Resize only acts where a slide's own scale makes its tiles larger or smaller than ``patch_size_pixels``:
    the view, the normalisation and everything else is inside the model.
    """
    return {
        "spec_version": SPEC_VERSION,
        "architecture": shown_name(job.spec),
        "num_classes": len(job.bundle.head.class_names),
        "patch_size_pixels": job.config.tile_px,
        "spacing_um_px": job.config.mpp,
        "class_names": list(job.bundle.head.class_names),
        "transform": [{"name": "Resize", "arguments": {"size": job.config.tile_px}}, {"name": "ToTensor"}],
    }


@contextmanager
def _torchscript_without_warning() -> Iterator[None]:
    """TorchScript is deprecated, and what WSInfer and QuPath read; sizes that a trace fixes are fixed on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(job: ExportJob, path: Path) -> float:
    """Load the model as WSInfer does; return the largest difference of a probability."""
    with _torchscript_without_warning():
        model: Any = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    assert job.config.tile_px is not None
    differences = []
    for n in BATCHES:
        images = made_images(n, job.config.tile_px, job.config.tile_px, seed=n)
        x_nCTT = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255  # as ToTensor
        with torch.no_grad():
            logit_nK = model(x_nCTT).numpy()
        differences.append(require_same(logit_nK, expected_probabilities(job, network_inputs(job, images)), "WSInfer"))
    return max(differences)
