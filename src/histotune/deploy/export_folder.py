"""A plain folder: weights as safetensors, JSON, and an example of some thirty lines that imports no histotune."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.backbones.merged_folder import PILLOW, write_timm, write_transformers
from histotune.backbones.model_files import timm_argument_names
from histotune.backbones.weights import locate_weights, model_json
from histotune.deploy.example_script import ExampleFacts, example_script
from histotune.deploy.pixel_model import torch_head
from histotune.deploy.reopened import SIZES_PX, expected_probabilities, made_images, network_inputs, require_same
from histotune.tools.errors import UserError
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.deploy.export_job import ExportJob

HEAD_FILE, FACTS_FILE, BACKBONE_FOLDER, EXAMPLE_FILE = "head.safetensors", "head.json", "backbone", "example.py"
THE_FOLDER = "the folder of the backbone goes here"
LIBRARY = {"timm": "timm", "lite0": "timm", "transformers": "transformers"}


def write_plain_folder(job: ExportJob, folder: Path) -> tuple[float | None, dict[str, object]]:
    """Write the head, the backbone where it may be passed on, and the example; run the example's steps on images."""
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(np.ascontiguousarray(value)).float() for name, value in head_arrays(job).items()}
    save_file(tensors, folder / HEAD_FILE)
    source = _backbone_source(job, folder)
    write_json(folder / FACTS_FILE, _facts(job, source))
    write_text(folder / EXAMPLE_FILE, example_script(_example_facts(job), job.bundle.view))
    facts: dict[str, object] = {"backbone_from": source, "library": LIBRARY[job.spec.kind]}
    return (None if job.network is None else _opened(job, folder)), facts


def head_arrays(job: ExportJob) -> dict[str, np.ndarray]:
    """Return the head's tensors: ``weight`` (K, D) and ``bias``, and those of a hidden layer."""
    head = job.head
    arrays = {"weight": head.weight_KD, "bias": head.bias_K}
    if head.hidden_weight_HD is not None and head.hidden_bias_H is not None:
        arrays |= {"hidden_weight": head.hidden_weight_HD, "hidden_bias": head.hidden_bias_H}
    return arrays


def _backbone_source(job: ExportJob, folder: Path) -> str:
    """Write the backbone's weights into the folder, or say where to get them; return what the example opens."""
    spec = job.spec
    if job.network is not None:
        (folder / BACKBONE_FOLDER).mkdir()
        write = write_transformers if spec.kind == "transformers" else write_timm
        write(job.network.module, folder / BACKBONE_FOLDER, spec)
        return BACKBONE_FOLDER
    if not spec.repository:
        return THE_FOLDER if LIBRARY[spec.kind] == "transformers" else f"local-dir:{THE_FOLDER}"
    at = f"@{spec.revision}" if spec.revision else ""
    return f"hf-hub:{spec.repository}{at}" if LIBRARY[spec.kind] == "timm" else f"{spec.repository}{at}"


def _facts(job: ExportJob, source: str) -> dict[str, object]:
    view, spec = job.bundle.view, job.spec
    return {
        "class_names": list(job.bundle.head.class_names),
        "threshold": job.bundle.head.threshold if len(job.bundle.head.class_names) == 2 else None,
        "columns": [[block.name, block.start, block.stop] for block in job.blocks],
        "backbone": source,
        "timm_arguments": _timm_arguments(job),
        "size_px": view.size_px,
        "resize_px": view.scaled_px,
        "mpp": job.config.mpp,
        "target_mpp": view.target_mpp,
        "pillow_filter": PILLOW[view.interpolation],
        "pad_rgb": list(view.pad_rgb),
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def _timm_arguments(job: ExportJob) -> dict[str, Any]:
    """Return what timm needs to build the network, layer classes by name."""
    if LIBRARY[job.spec.kind] != "timm":
        return {}
    found = locate_weights(job.spec)
    in_config = {} if found.config is None else model_json(found.config).get("model_args") or {}
    any_size = {"dynamic_img_size": True} if getattr(job.module, "dynamic_img_size", False) else {}
    return {**timm_argument_names(job.spec, in_config), **any_size}


def _example_facts(job: ExportJob) -> ExampleFacts:
    library = LIBRARY[job.spec.kind]
    lines = _timm_columns(job) if library == "timm" else _transformers_columns(job)
    is_here = job.network is not None
    return ExampleFacts(library, is_here, bool(_timm_arguments(job)), lines, job.head.activation)


def _timm_columns(job: ExportJob) -> tuple[str, ...]:
    if len(job.blocks) == 1:
        return ("columns = backbone.forward_head(backbone.forward_features(x), pre_logits=True)",)
    mean = "tokens[:, backbone.num_prefix_tokens :].mean(1)"
    return ("tokens = backbone.forward_features(x)", f"columns = torch.cat([tokens[:, 0], {mean}], dim=1)")


def _transformers_columns(job: ExportJob) -> tuple[str, ...]:
    """Return how this network's columns are read; its answer to one input tells what it gives."""
    x_BCSS = torch.zeros(1, 3, job.spec.size_px, job.spec.size_px)
    with torch.inference_mode():
        answer = job.module(pixel_values=x_BCSS)
    hidden = answer.last_hidden_state
    if len(job.blocks) > 1:
        n_prefix = hidden.shape[1] - (job.spec.size_px // job.module.config.patch_size) ** 2
        mean = f"tokens[:, {n_prefix}:].mean(1)"
        return ("tokens = backbone(x).last_hidden_state", f"columns = torch.cat([tokens[:, 0], {mean}], dim=1)")
    if getattr(answer, "pooler_output", None) is not None:
        return ("columns = backbone(x).pooler_output.flatten(1)",)
    return (f"columns = backbone(x).last_hidden_state.mean({(2, 3) if hidden.ndim == 4 else 1})",)


def _opened(job: ExportJob, folder: Path) -> float:
    """Read the written files back and compare; the example itself is run by the tests."""
    from safetensors.torch import load_file

    from histotune.backbones.model_files import describe_folder
    from histotune.backbones.network import build_network

    images = [image for size in SIZES_PX for image in made_images(2, *size)]
    x_nCSS = network_inputs(job, images)
    network = build_network(_same_size(describe_folder(folder / BACKBONE_FOLDER), job.spec))
    tensors = load_file(folder / HEAD_FILE)
    if {name: tuple(value.shape) for name, value in tensors.items()} != {
        name: value.shape for name, value in head_arrays(job).items()
    }:
        raise UserError("the head's file was not read back as it was written", value=folder / HEAD_FILE)
    head = torch_head(job.head)
    with torch.inference_mode():
        logit_nK = head(torch.cat(list(network.outputs(x_nCSS).values()), dim=1)).numpy()
    return require_same(logit_nK, expected_probabilities(job, x_nCSS), "a plain folder")


def _same_size(found: BackboneSpec, spec: BackboneSpec) -> BackboneSpec:
    return replace(found, size_px=spec.size_px)
