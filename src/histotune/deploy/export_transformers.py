"""A folder for ``pipeline("image-classification", FOLDER)``: transformers' own classes, no code of ours."""

# n images, C channels, S side of the network's input, D columns of the backbone, K classes

from __future__ import annotations

import copy
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.backbones.merged_folder import PILLOW
from histotune.backbones.model_files import PROCESSOR, timm_argument_names, timm_arguments
from histotune.backbones.network import quiet
from histotune.backbones.weights import ONE_FILE, locate_weights, model_json
from histotune.deploy.folded_head import columns_in
from histotune.deploy.reopened import SIZES_PX, expected_probabilities, made_images, network_inputs, require_same
from histotune.tools.errors import UserError
from histotune.tools.files import read_json, write_json
from histotune.tools.provenance import library_version

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.deploy.export_job import ExportJob

PROCESSOR_CLASS = "TimmWrapperImageProcessor"
"""Resizes PIL images by Pillow and crops as torchvision does, which is what histotune does. The processors that belong
to the model families resize tensors since transformers 5: values then differ by a grey level, which moved a probability
by up to 0.002 on real tiles, and crops of an odd rest lie a pixel beside."""
SAME_PIXEL = 1e-6


def write_for_transformers(job: ExportJob, folder: Path) -> tuple[float, dict[str, object]]:
    """Write config.json, model.safetensors and preprocessor_config.json, and open them by the auto classes."""
    write = _write_native if job.spec.kind == "transformers" else _write_timm_wrapped
    kind = write(job, folder)
    versions = {name: library_version(name) for name in ("transformers", "timm", "torch")}
    return _opened(job, folder), {"model_class": kind, "opened_with": versions}


def _opened(job: ExportJob, folder: Path) -> float:
    """Open the folder as a pipeline does; return the largest difference of a probability."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            model = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            ).eval()
    except (RuntimeError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UserError(
            f"the installed transformers can't open what was written for it ({str(error).splitlines()[0][:200]})",
            value=job.spec.source,
            fix="--format onnx or folder",
        ) from error
    images = list(chain.from_iterable(made_images(2, *size) for size in SIZES_PX))
    x_nCSS = network_inputs(job, images)
    seen = [processor(images=Image.fromarray(one), return_tensors="pt")["pixel_values"] for one in images]
    if not torch.allclose(torch.cat(seen), x_nCSS, rtol=0, atol=SAME_PIXEL):
        raise UserError(
            "the image processor of the installed transformers does not see what this head's view shows",
            value=job.bundle.view.words,
            fix="--format onnx or folder, which bring the view with them",
        )
    with torch.inference_mode():
        logit_nK = model(pixel_values=x_nCSS).logits.numpy()
    return require_same(logit_nK, expected_probabilities(job, x_nCSS), "transformers")


def timm_view(job: ExportJob) -> dict[str, object]:
    """Return the view and the normalisation as timm's ``pretrained_cfg``: it resizes to floor(size / crop_pct)."""
    view = job.bundle.view
    crop_pct = view.size_px / view.scaled_px
    if int(view.size_px / crop_pct) != view.scaled_px:
        crop_pct = view.size_px / (view.scaled_px + 0.5)
    return {
        "input_size": [3, view.size_px, view.size_px],
        "interpolation": view.interpolation,
        "crop_pct": crop_pct,
        "crop_mode": "squash" if view.name == "square" else "center",
        "mean": list(job.spec.mean),
        "std": list(job.spec.std),
        "license": job.spec.licence or None,
    }


# ---- Networks of transformers, under the classifier of their own family ----


def _write_native(job: ExportJob, folder: Path) -> str:
    """Write ``<Family>ForImageClassification`` around the network; return the class's name."""
    assert job.network is not None
    module: Any = job.network.module
    model = _classifier_around(module, job)
    _fill_classifier(model, job)
    model.config.name_or_path = ""  # never a path of this machine
    with quiet():
        model.save_pretrained(folder)
    # Where config.json names timm's configuration, transformers looks for the image processor there.
    config = read_json(folder / "config.json")
    write_json(
        folder / "config.json", {**config, "image_processor_type": PROCESSOR_CLASS, "pretrained_cfg": timm_view(job)}
    )
    write_json(folder / PROCESSOR, {**_processor_facts(job), "image_processor_type": PROCESSOR_CLASS})
    return type(model).__name__


def _classifier_around(module: Any, job: ExportJob) -> Any:  # noqa: ANN401  (transformers has no types)
    """Return the family's own image classifier with this network in it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    family = type(module.config)
    if family not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise _no_classifier(module)
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[family]
    names = job.bundle.head.class_names
    config = copy.deepcopy(module.config)
    config.id2label, config.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    with torch.device("meta"):
        model = (found[0] if isinstance(found, tuple) else found)(config)
    base: Any = getattr(model, model.base_model_prefix, None)
    if type(base) is not type(module):
        raise _no_classifier(module)
    if base is not None and getattr(base, "pooler", module) is None:
        module.pooler = None  # its classifier goes without
    setattr(model, model.base_model_prefix, module)
    return model.eval()


def _no_classifier(module: Any) -> UserError:  # noqa: ANN401
    return UserError(
        "transformers has no image classifier of its own for this network",
        value=type(module).__name__,
        fix="--format onnx or folder",
    )


def _fill_classifier(model: Any, job: ExportJob) -> None:  # noqa: ANN401
    """Put the head into the classifier, in the order of columns that this family pools."""
    prefix = f"{model.base_model_prefix}."
    layers = [
        name for name, part in model.named_modules() if type(part) is torch.nn.Linear and not name.startswith(prefix)
    ]
    images = made_images(2, *SIZES_PX[0])
    x_nCSS = network_inputs(job, images)
    expected_nK = expected_probabilities(job, x_nCSS)
    for names in _pooled_orders(job):
        columns = columns_in(names, job.blocks)
        if len(layers) != 1 or model.get_submodule(layers[0]).in_features != len(columns):
            continue
        filled = torch.nn.Linear(len(columns), len(job.head.bias_K))
        with torch.no_grad():
            filled.weight.copy_(torch.from_numpy(job.head.weight_KD[:, columns]))
            filled.bias.copy_(torch.from_numpy(job.head.bias_K))
        model.set_submodule(layers[0], filled)
        with suppress(UserError), torch.inference_mode():
            require_same(model(pixel_values=x_nCSS).logits.numpy(), expected_nK, "transformers")
            return
    raise UserError(
        f"{type(model).__name__} pools otherwise than this head, which reads {' + '.join(job.bundle.head.pooling)}",
        allowed="heads on what that class pools: cls for most vision transformers, cls + patch_mean for DINOv2",
        fix="--format onnx or folder",
    )


def _pooled_orders(job: ExportJob) -> list[list[str]]:
    """Return the orders of blocks that a classifier may pool and that hold every column which the head reads."""
    names = [block.name for block in job.blocks]
    orders = [names, *([name] for name in names)] if len(names) > 1 else [names]
    read = np.flatnonzero(job.head.weight_KD.any(axis=0))
    return [order for order in orders if np.isin(read, columns_in(order, job.blocks)).all()]


def _processor_facts(job: ExportJob) -> dict[str, object]:
    """Return the view in the words of transformers' usual processors, for readers that know no timm."""
    view = job.bundle.view
    side_px = view.scaled_px
    return {
        "do_resize": True,
        "size": {"height": side_px, "width": side_px} if view.name == "square" else {"shortest_edge": side_px},
        "resample": PILLOW[view.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": view.size_px, "width": view.size_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(job.spec.mean),
        "image_std": list(job.spec.std),
    }


# ---- Networks of timm, under their own classifier, which transformers opens as TimmWrapperForImageClassification ----


def _write_timm_wrapped(job: ExportJob, folder: Path) -> str:
    """Write timm's local format with the head as its classifier; return the name of transformers' class for it."""
    import timm
    from safetensors.torch import save_file

    assert job.network is not None
    spec = job.spec
    found = locate_weights(spec)
    in_config = {} if found.config is None else model_json(found.config).get("model_args") or {}
    more = _timm_pooling(job)
    if getattr(job.network.module, "dynamic_img_size", False):
        more["dynamic_img_size"] = True
    architecture = spec.source.split(".")[0]
    arguments = {**timm_arguments(spec, in_config), **more, "num_classes": len(job.head.bias_K)}
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise _no_timm_classifier(architecture, f" ({error})") from error
    name = model.pretrained_cfg.get("classifier")
    layer = model.get_classifier()
    columns = columns_in(job.bundle.head.pooling, job.blocks)
    if type(layer) is not torch.nn.Linear or not isinstance(name, str) or layer.in_features != len(columns):
        raise _no_timm_classifier(architecture)
    tensors = {key: value.contiguous() for key, value in job.network.module.state_dict().items()}
    tensors[f"{name}.weight"] = torch.from_numpy(job.head.weight_KD[:, columns]).float().contiguous()
    tensors[f"{name}.bias"] = torch.from_numpy(job.head.bias_K).float().contiguous()
    save_file(tensors, folder / ONE_FILE, metadata={"format": "pt"})
    write_json(folder / "config.json", _timm_config(job, {**timm_argument_names(spec, in_config), **more}, model))
    return "TimmWrapperForImageClassification"


def _no_timm_classifier(architecture: str, why: str = "") -> UserError:
    return UserError(
        f"timm's classifier of this architecture is not one linear layer on what this head reads{why}",
        value=architecture,
        fix="--format onnx or folder",
    )


def _timm_pooling(job: ExportJob) -> dict[str, object]:
    """Return timm's arguments for what the head reads; both CLS and the mean of patches is more than they can say."""
    read = set(job.bundle.head.pooling)
    if read == {"pooled"}:
        return {}
    if read == {"cls"}:
        return {"global_pool": "token"}
    if read == {"patch_mean"}:
        return {"global_pool": "avg", "fc_norm": False}  # the norm before the mean, as in the backbone
    raise UserError(
        "timm's classifiers read the class token or the mean of the patch tokens, and this head reads both",
        value=" + ".join(job.bundle.head.pooling),
        allowed="heads on cls or patch_mean alone, and DINOv2 of transformers, whose classifier reads both",
        fix="--format onnx, wsinfer or folder; or sweep again with --set 'sweep.poolings=[[\"cls\"]]'",
    )


def _timm_config(job: ExportJob, arguments: dict[str, Any], model: Any) -> dict[str, object]:  # noqa: ANN401
    own = {name: model.pretrained_cfg.get(name) for name in ("first_conv", "classifier")}
    return {
        "architecture": job.spec.source.split(".")[0],
        "num_classes": len(job.head.bias_K),
        "num_features": model.num_features,
        "label_names": list(job.bundle.head.class_names),
        "model_args": arguments,
        "pretrained_cfg": {
            **{name: value for name, value in own.items() if value},
            "num_classes": len(job.head.bias_K),
            **timm_view(job),
        },
    }
