"""An ONNX model from stored pixels to calibrated probabilities: resize, crop and normalisation are inside of it."""

# B batch, H height, W width, C channels, K classes

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.deploy.pixel_model import AnySizeView, PixelModel, WithProbabilities
from histotune.deploy.reopened import SIZES_PX, expected_probabilities, made_images, network_inputs, require_same
from histotune.tools.errors import UserError
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from histotune.deploy.export_job import ExportJob

MODEL_FILE = "model.onnx"
OPSET = 18
INPUT, LOGITS, PROBABILITIES = "pixels", "logits", "probabilities"
BATCHES = (1, 3)


def write_onnx(job: ExportJob, folder: Path) -> tuple[float, dict[str, object]]:
    """Write ``model.onnx`` (weights beyond 2 GB beside it) and run it by onnxruntime on batches of several sizes."""
    assert job.network is not None
    view = AnySizeView(job.bundle.view, job.config.mpp)
    model = WithProbabilities(PixelModel(job.network, view, job.spec, job.head)).eval()
    program = _exported(model)
    program.save(folder / MODEL_FILE)
    del program, model
    facts: dict[str, object] = {
        "file": MODEL_FILE,
        "input": {
            "name": INPUT,
            "type": "uint8",
            "shape": ["batch", "height", "width", 3],
            "meaning": "RGB pixels as they are stored, of any size; images of one batch have one size. The model "
            "resizes, crops and normalises them itself.",
        },
        "outputs": {
            LOGITS: "float32 (batch, classes): calibrated logits",
            PROBABILITIES: "float32 (batch, classes): their softmax",
        },
        "mpp": job.config.mpp,
        "opset": OPSET,
        "opened_with": {name: library_version(name) for name in ("onnx", "onnxruntime", "torch")},
    }
    return _opened(job, folder / MODEL_FILE), facts


def _exported(model: torch.nn.Module) -> Any:  # noqa: ANN401  (torch.onnx.ONNXProgram)
    """Translate a model whose batch, height and width stay open."""
    # Sizes that are no network's and unlike each other: equal ones would be taken for one and the same dimension.
    example_BHWC = torch.randint(0, 256, (2, 131, 157, 3), dtype=torch.uint8)
    with _quiet():
        try:
            return torch.onnx.export(
                model,
                (example_BHWC,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[LOGITS, PROBABILITIES],
                dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                f"torch can't write this network as ONNX ({str(error).splitlines()[0][:200]})",
                value=type(model).__name__,
                fix="--format wsinfer or folder",
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own doubts (of onnxscript's optimiser, of the batch's name) from the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _opened(job: ExportJob, path: Path) -> float:
    """Run the file by onnxruntime; return the largest difference of a probability."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    differences = []
    for n, size in product(BATCHES, SIZES_PX):
        images = made_images(n, *size)
        logit_nK, probability_nK = session.run([LOGITS, PROBABILITIES], {INPUT: np.stack(images)})
        expected_nK = expected_probabilities(job, network_inputs(job, images))
        differences += [require_same(one, expected_nK, "ONNX") for one in (logit_nK, np.log(probability_nK))]
    return max(differences)
