"""A backbone with its adapter merged, as a folder that histotune and the network's own library open again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from histotune.backbones.adapters import adapter_hash, locate_adapter
from histotune.backbones.catalog import find_entry
from histotune.backbones.entries import Licence, catalog_entries
from histotune.backbones.model_files import PROCESSOR, describe_folder, timm_argument_names
from histotune.backbones.network import Network, Outputs, build_network, quiet
from histotune.backbones.weights import ONE_FILE, locate_weights, model_json, weights_hash
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import write_json, write_text

if TYPE_CHECKING:
    from histotune.backbones.spec import BackboneSpec

# B batch, C channels, S side


NOTICE = "NOTICE.txt"
TITLE = "These weights are not the published ones: an adapter has been merged into them."
OWN_FILES = re.compile(r"(?:preprocessor_)?config\.json|NOTICE\.txt|model.*\.safetensors(?:\.index\.json)?")
PILLOW = {"bilinear": 2, "bicubic": 3}  # numbers of its resampling filters
SAME = 1e-5  # relative distance of outputs that are the same up to rounding
CLAUSES = {
    "CC-BY-NC-ND-4.0": 'its section 2(a)(1)(B) allows to "produce and reproduce, but not Share, Adapted Material for '
    'NonCommercial purposes only"',
}  # by the beginning of a licence's name; quoted from the licence's text
UNREAD = "whether its text lets one pass on changed weights is not known here"


def save_merged(spec: BackboneSpec, folder: Path, *, for_own_use: bool = False) -> Path:
    """Write a backbone with its adapter merged as a whole checkpoint; the folder appears when finished.

    Backbones of transformers are written by ``save_pretrained``, with the settings of their input; those of timm in its
    local format. Before the folder appears it is opened again, and must give the same outputs under the same view.

    Args:
        spec: The backbone with its adapter.
        folder: Where it goes; an older one is replaced.
        for_own_use: Write it although the licence does not let one pass it on; keeping it is not passing it on, and
            what such a licence allows one to keep, it mostly allows for non-commercial purposes alone.

    Returns:
        The folder, to be used as ``--backbone FOLDER``.

    Raises:
        UserError: The backbone has no adapter, its licence does not allow (or is not known to allow) that changed
            weights are passed on, the adapter can't be merged, the view can't be written in the library's format, or
            the folder holds other files.

    Example:
        >>> from histotune.backbones import BackboneConfig, find_backbone
        >>> try:
        ...     save_merged(find_backbone(BackboneConfig(name="lite0")), Path("merged"))
        ... except UserError as error:
        ...     print(error.what)
        this backbone has no adapter to merge
    """
    if not spec.adapter:
        raise UserError("this backbone has no adapter to merge", value=spec.name, fix="pass --adapter FOLDER")
    licence = licence_of(spec)
    if not for_own_use:
        refuse_derivatives(spec, licence)
    _refuse_target(folder, spec)
    network = build_network(spec)
    refuse_unmerged(network.module, spec)
    expected = outputs_on_noise(network, spec)
    with atomic_folder(folder) as temporary:
        if spec.kind == "transformers":
            write_transformers(network.module, temporary, spec)
        else:
            write_timm(network.module, temporary, spec)
        del network  # the largest fill half of a machine's memory
        write_text(temporary / NOTICE, _notice(spec, licence, for_own_use=for_own_use))
        _refuse_another(temporary, spec, expected)
    return folder


# ---- Licences ----


def licence_of(spec: BackboneSpec) -> Licence:
    """Return what is known about the licence of a backbone's weights; the answers are None where nothing is."""
    entry = find_entry(spec.name)
    if entry is not None:
        return entry.licence
    named = (entry.licence for entry in catalog_entries() if entry.licence.name.lower() == spec.licence.lower())
    known = next(named, None)
    if known is not None:
        return Licence(known.name, known.commercial, known.share_weights, known.share_derivatives, None, "its files")
    return Licence(spec.licence or "not stated", None, None, None, None, "its files")


def refuse_derivatives(spec: BackboneSpec, licence: Licence) -> None:
    """Refuse to write changed weights that the licence does not let one pass on."""
    if licence.share_derivatives:
        return
    forbids = licence.share_derivatives is False
    answer = (
        "does not let one pass on changed weights" if forbids else "is not known to let one pass on changed weights"
    )
    raise UserError(
        f"the licence of {shown_name(spec)}, {licence.name}, {answer} ({_clause(licence)})",
        value=licence.source,
        allowed="to keep the adapter's folder alone, beside the backbone as it was published",
        fix="use --backbone and --adapter together, or add --for-own-use where the folder stays with you",
    )


def _clause(licence: Licence) -> str:
    if licence.share_derivatives is None:
        return UNREAD
    known = (clause for name, clause in CLAUSES.items() if licence.name.upper().startswith(name))
    return next(known, "its clause on derivatives")


def shown_name(spec: BackboneSpec) -> str:
    """Return a backbone's name without the folders of this machine."""
    return spec.repository or (Path(spec.name).name if Path(spec.name).is_dir() else spec.name)


def _notice(spec: BackboneSpec, licence: Licence, *, for_own_use: bool) -> str:
    """Return what lies in the folder for whoever opens it."""
    adapter = Path(spec.adapter).name if Path(spec.adapter).expanduser().is_dir() else spec.adapter
    at = f" at {spec.revision}" if spec.revision else ""
    lines = [
        TITLE,
        "",
        f"Backbone: {shown_name(spec)}{at}, weights {weights_hash(spec)[:16]}",
        f"Adapter: {adapter}, {adapter_hash(spec)[:16]}",
        f"Licence of the backbone: {licence.name} ({licence.source}). It holds for these weights too, and so",
        "does that of the adapter, where it has one.",
    ]
    if for_own_use and not licence.share_derivatives:
        lines += [
            "",
            f"FOR OWN USE ONLY. Do not pass this folder on: {_clause(licence)}.",
            "The adapter's folder is kept apart and can be used with --backbone and --adapter.",
        ]
    return "\n".join(lines) + "\n"


# ---- Files ----


def _refuse_target(folder: Path, spec: BackboneSpec) -> None:
    """Refuse a folder that what is merged is read from, and one that was not written here."""
    sources = [Path(one).expanduser().resolve() for one in (spec.source, spec.checkpoint, spec.adapter) if one]
    read = next((one for one in sources if one.exists() and one.is_relative_to(folder.resolve())), None)
    if read is not None:
        raise UserError("what is to be merged lies there", value=read, fix="choose another --out")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    notice = folder / NOTICE
    written_here = notice.is_file() and notice.read_bytes().startswith(TITLE.encode())
    foreign = [name for name in names if not written_here or not OWN_FILES.fullmatch(name)]
    if foreign:
        raise UserError(
            "this folder holds other files; the merged backbone would replace them",
            value=f"{folder}: {', '.join(foreign[:10])}",
            fix="choose another --out, or move them away",
        )


def refuse_unmerged(module: torch.nn.Module, spec: BackboneSpec) -> None:
    """Refuse a network in which peft applies an adapter beside the weights."""
    if locate_adapter(spec.adapter, spec.adapter_revision).kind == "tensors":
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(part, BaseTunerLayer) for part in module.modules()):
        raise UserError(
            "peft can't merge this adapter into the weights, only apply it beside them",
            value=spec.adapter,
            fix="use --backbone and --adapter together",
        )


def write_transformers(module: Any, folder: Path, spec: BackboneSpec) -> None:  # noqa: ANN401
    """Write a network of transformers with the settings of its input."""
    if not hasattr(module, "save_pretrained"):
        raise UserError(
            "the installed transformers can't save this part of a model by itself",
            value=type(module).__name__,
            fix="pip install --upgrade transformers",
        )
    module.config.name_or_path = ""  # never a path of this machine
    with quiet():
        module.save_pretrained(folder)
    write_json(folder / PROCESSOR, processor_facts(spec))


def processor_facts(spec: BackboneSpec) -> dict[str, object]:
    """Return a view and a normalisation as ``preprocessor_config.json``."""
    side_px = spec.resize_px or spec.size_px
    square = spec.view_name == "square"
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": spec.resize_px != 0,
        "size": {"height": side_px, "width": side_px} if square else {"shortest_edge": side_px},
        "resample": PILLOW[spec.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": spec.size_px, "width": spec.size_px},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def write_timm(module: Any, folder: Path, spec: BackboneSpec) -> None:  # noqa: ANN401
    """Write a network of timm in its local format."""
    from safetensors.torch import save_file

    found = locate_weights(spec)
    in_config = {} if found.config is None else model_json(found.config).get("model_args") or {}
    own = {name: module.pretrained_cfg.get(name) for name in ("first_conv", "classifier")}
    config = {
        "architecture": spec.source.split(".")[0],
        "num_classes": 0,
        "num_features": module.num_features,
        "model_args": timm_argument_names(spec, in_config),
        "pretrained_cfg": {**{name: value for name, value in own.items() if value}, **timm_facts(spec)},
    }
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / ONE_FILE)
    write_json(folder / "config.json", config)


def timm_facts(spec: BackboneSpec) -> dict[str, object]:
    """Return a view and a normalisation as timm's ``pretrained_cfg``."""
    return {
        "num_classes": 0,
        "input_size": [3, spec.size_px, spec.size_px],
        "interpolation": spec.interpolation,
        "crop_pct": spec.size_px / (spec.resize_px or spec.size_px),
        "crop_mode": "squash" if spec.view_name == "square" else "center",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "license": spec.licence or None,
    }


# ---- The folder is opened again before it appears ----


def outputs_on_noise(network: Network, spec: BackboneSpec) -> Outputs:
    """Return what a network gives for two inputs of noise."""
    generator = torch.Generator().manual_seed(0)
    x_BCSS = torch.randn(2, 3, spec.size_px, spec.size_px, generator=generator)
    with torch.inference_mode():
        return network.outputs(x_BCSS)


def _refuse_another(folder: Path, spec: BackboneSpec, expected: Outputs) -> None:
    """Refuse a folder that opens with another view than the backbone's, or gives something else."""
    again = describe_folder(folder)
    differs = [name for name, value in _view_facts(spec).items() if _view_facts(again)[name] != value]
    if not differs:
        outputs = outputs_on_noise(build_network(again), again)
        differs = [
            name
            for name, own in expected.items()
            if name not in outputs or relative_distance(own, outputs[name]) > SAME
        ]
    if differs:
        raise UserError(
            f"the {' and the '.join(differs)} of this backbone can't be written in the format of "
            f"{'transformers' if spec.kind == 'transformers' else 'timm'}",
            value=spec.name,
            fix="use --backbone and --adapter together",
        )


def _view_facts(spec: BackboneSpec) -> dict[str, object]:
    return {
        "size": spec.size_px,
        "view": spec.view_name,
        "resizing": spec.size_px if spec.resize_px is None else spec.resize_px,
        "interpolation": spec.interpolation,
        "mean": [round(value, 9) for value in spec.mean],
        "standard deviation": [round(value, 9) for value in spec.std],
    }


def relative_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value; infinity where that is no number."""
    if one.shape != other.shape or not bool(torch.isfinite(one - other).all()):
        return float("inf")
    return float((one - other).abs().max() / one.abs().max().clamp_min(torch.finfo(one.dtype).tiny))
