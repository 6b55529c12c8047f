"""A head for other programs: a transformers pipeline, ONNX, WSInfer and QuPath, or a plain folder with an example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from histotune.deploy.bundle import BUNDLE_FILE
from histotune.deploy.export_job import EXPORT_FILE, EXPORT_VERSION, ExportJob
from histotune.deploy.folded_head import fold_head, refuse_other_families
from histotune.deploy.sharing import notice_lines, sharing_of
from histotune.tools.atomic import atomic_folder, claimed
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import readable_bytes, write_json, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.export_job import ExportConfig, ExportFormat
    from histotune.deploy.sharing import Sharing
    from histotune.evaluation.findings import Findings

NOTICE = "NOTICE.txt"
TILE_PX, MPP = (14, 8192), (0.01, 100.0)
"""What a tile's side and an image's scale (um/px) can be."""
NETWORKS = ("lite0", "timm", "transformers")
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        format: For whom.
        with_weights: Whether the backbone's weights are in it.
        largest_difference: Of a probability, between the files as their consumer ran them and the head itself, on made
            images; None where the head alone was written.
        n_bytes: Size of the folder.
        notes: What to know, one sentence each.
    """

    folder: Path
    format: ExportFormat
    with_weights: bool
    largest_difference: float | None
    n_bytes: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return what a terminal shows."""
        lines = [f"{self.folder}: {self.format}, {readable_bytes(self.n_bytes)}"]
        if self.largest_difference is not None:
            lines.append(f"opened again: probabilities differ from the head's by at most {self.largest_difference:.1g}")
        return "\n".join([*lines, *self.notes])


def export_head(
    bundle: Bundle, spec: BackboneSpec, out: Path, config: ExportConfig, findings: Findings | None = None
) -> Exported:
    """Write a head for other programs; the folder appears when it has been opened again and said the same.

    Args:
        bundle: The head, its backbone and view.
        spec: The bundle's backbone, found.
        out: Folder to write.
        config: Format and options.
        findings: What the head's run found, for the model card; None where there is no run.

    Returns:
        What was written.

    Raises:
        UserError: A head, view, backbone or licence that the format can't take (all of them together), a missing
            package, a folder that is there already, or files that say something else when they are opened again.
    """
    sharing = sharing_of(spec)
    config = _settled(config, sharing, findings, bundle)
    _refuse_all(bundle, spec, out, config, sharing)
    with claimed(out, folder=True), atomic_folder(out) as folder:
        job = _loaded(bundle, replace(spec, size_px=bundle.view.size_px), config)
        difference, facts = _write(job, folder)
        with_weights = job.network is not None
        _write_facts(job, sharing, folder, facts)
        del job  # the largest fill half of a machine's memory
        _write_card(bundle, spec, sharing, findings, folder)
        n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Exported(out, config.format, with_weights, difference, n_bytes, _notes(bundle, config, sharing))


def _settled(config: ExportConfig, sharing: Sharing, findings: Findings | None, bundle: Bundle) -> ExportConfig:
    """Return the options with what follows from the licence and from the run."""
    if config.format == "folder" and sharing.weights_refusal and not config.for_own_use:
        config = replace(config, head_only=True)
    if config.format == "wsinfer":
        from histotune.deploy.export_torchscript import tile_of

        config = tile_of(config, bundle.view, findings)
    return config


def _loaded(bundle: Bundle, spec: BackboneSpec, config: ExportConfig) -> ExportJob:
    """Build the network, look at its outputs and fold the head."""
    import torch

    from histotune.backbones.merged_folder import refuse_unmerged
    from histotune.backbones.network import build_network
    from histotune.backbones.spec import ColumnBlock

    network = build_network(spec)
    if spec.adapter:
        refuse_unmerged(network.module, spec)
    network.module.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        outputs = network.outputs(torch.zeros(1, 3, spec.size_px, spec.size_px))
    blocks: list[ColumnBlock] = []
    for name, value_BD in outputs.items():
        start = blocks[-1].stop if blocks else 0
        blocks.append(ColumnBlock(name, start, start + value_BD.shape[1]))
    folded = fold_head(bundle.head, blocks[-1].stop)
    kept = None if config.head_only else network
    return ExportJob(bundle, spec, folded, kept, network.module, tuple(blocks), config)


def _write(job: ExportJob, folder: Path) -> tuple[float | None, dict[str, object]]:
    """Write a format's files; return the largest difference when they were opened again, and facts about them."""
    if job.config.format == "transformers":
        from histotune.deploy.export_transformers import write_for_transformers

        return write_for_transformers(job, folder)
    if job.config.format == "onnx":
        from histotune.deploy.export_onnx import write_onnx

        return write_onnx(job, folder)
    if job.config.format == "wsinfer":
        from histotune.deploy.export_torchscript import write_for_wsinfer

        return write_for_wsinfer(job, folder)
    from histotune.deploy.export_folder import write_plain_folder

    return write_plain_folder(job, folder)


# ---- What can't be exported ----


def _refuse_all(bundle: Bundle, spec: BackboneSpec, out: Path, config: ExportConfig, sharing: Sharing) -> None:
    """Tell everything that stands in the way at once."""
    errors: list[UserError] = []
    with collect(errors):
        refuse_other_families(bundle.head)
    with collect(errors):
        _refuse_numbers(config)
    with collect(errors):
        _refuse_backbone(spec)
    with collect(errors):
        _refuse_hidden_layer(bundle, config)
    with collect(errors):
        _refuse_view(bundle, config)
    with collect(errors):
        _refuse_tile(bundle, config)
    with collect(errors):
        _refuse_head_only(bundle, config)
    with collect(errors):
        _refuse_licence(sharing, config)
    with collect(errors):
        _refuse_missing_packages(config)
    with collect(errors):
        _refuse_target(out, config)
    raise_together(errors)


def _refuse_numbers(config: ExportConfig) -> None:
    """Refuse sizes and scales that no tile has."""
    least_px, most_px = TILE_PX
    if config.tile_px is not None and not least_px <= config.tile_px <= most_px:
        raise UserError(
            "no tile has this side", value=config.tile_px, allowed=f"{least_px} to {most_px} px", fix="--tile-px 96"
        )
    if config.mpp is not None and not MPP[0] <= config.mpp <= MPP[1]:  # NaN is not, either
        raise UserError(
            "no image has this scale", value=config.mpp, allowed=f"{MPP[0]:g} to {MPP[1]:g} um/px", fix="--mpp 0.5"
        )


def _refuse_backbone(spec: BackboneSpec) -> None:
    if spec.kind not in NETWORKS:
        raise UserError(
            "this head reads no network that could be exported with it",
            value=spec.name,
            allowed="heads on timm's and transformers' networks",
            fix="histotune sweep DATASET --data DIR --backbone lite0 --out HEAD",
        )


def _refuse_hidden_layer(bundle: Bundle, config: ExportConfig) -> None:
    if config.format == "transformers" and bundle.head.hidden is not None:
        raise UserError(
            "transformers' classifiers end in one linear layer, and this head has a hidden one",
            value=bundle.head.family,
            fix="--format onnx, wsinfer or folder",
        )


def _refuse_view(bundle: Bundle, config: ExportConfig) -> None:
    """Refuse a view that the format's own way of reading images can't express."""
    view = bundle.view
    if view.name == "tiles":
        raise UserError(
            "this head averages several network inputs per image, which none of these formats does",
            value=view.words,
            fix="histotune predict applies it; for other programs train a head with --view short-side-crop",
        )
    pads = view.scaled_px < view.size_px and view.pad_rgb != (0, 0, 0)
    if config.format == "transformers" and (
        view.target_mpp is not None or view.name == "letterbox" or not view.scaled_px or pads
    ):
        raise UserError(
            "the image processors of transformers can't express this head's view: they resize to a fixed side, then "
            "crop the centre",
            value=view.words,
            allowed="short-side-crop and square without target_mpp",
            fix="--format onnx, wsinfer or folder, which bring the view with them",
        )
    if view.target_mpp is not None and config.mpp is None:
        raise UserError(
            "this head's view depends on the scale of the images, and an exported model sees pixels alone",
            value=view.words,
            fix="--mpp 0.5, the scale in um/px of the images that it will be given",
        )


def _refuse_tile(bundle: Bundle, config: ExportConfig) -> None:
    if config.format == "wsinfer":
        from histotune.deploy.export_torchscript import refuse_no_tile

        refuse_no_tile(config, bundle.view)


def _refuse_head_only(bundle: Bundle, config: ExportConfig) -> None:
    if not config.head_only:
        return
    if config.format != "folder":
        raise UserError(
            "this format is one model from pixels to probabilities, and has no place for a head alone",
            value=config.format,
            fix="--format folder --head-only",
        )
    if bundle.backbone.adapter:
        raise UserError(
            "this head belongs to fine-tuned weights, so that it says nothing without them",
            value=bundle.backbone.adapter,
            allowed=f"the head's own folder, which is the head and the adapter alone ({BUNDLE_FILE} lies in it)",
            fix="pass on that folder where the licence lets you, or add --for-own-use where the export stays with you",
        )


def _refuse_licence(sharing: Sharing, config: ExportConfig) -> None:
    if config.format == "folder" or not sharing.weights_refusal or config.for_own_use:
        return
    raise UserError(
        sharing.weights_refusal,
        allowed="the head alone",
        fix="--format folder writes the head alone; add --for-own-use where the export stays with you",
    )


def _refuse_missing_packages(config: ExportConfig) -> None:
    if config.format != "onnx":
        return
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"writing ONNX needs {', '.join(missing)}, not installed here", fix="pip install 'histotune[onnx]'"
        )


def _refuse_target(out: Path, config: ExportConfig) -> None:
    """Refuse a folder that holds anything, but for an earlier export where that may be replaced."""
    if not out.is_dir() or not any(out.iterdir()):
        return
    is_export = (out / EXPORT_FILE).is_file() and not (out / BUNDLE_FILE).exists()
    if not is_export:
        raise UserError("this folder holds other files, which are not replaced", value=out, fix="choose another --out")
    if not config.overwrite:
        raise UserError("an earlier export lies there", value=out, fix="--overwrite, or another --out")


# ---- What lies beside every format ----


def _write_facts(job: ExportJob, sharing: Sharing, folder: Path, facts: dict[str, object]) -> None:
    """Write what a program or a person needs beside the model, and the licences."""
    head, with_weights = job.bundle.head, job.network is not None
    refusal = sharing.weights_refusal if with_weights else sharing.head_refusal
    write_json(
        folder / EXPORT_FILE,
        {
            "format": job.config.format,
            "format_version": EXPORT_VERSION,
            "class_names": list(head.class_names),
            "calibrated": True,
            "threshold": head.threshold if len(head.class_names) == 2 else None,
            "head_id": head.head_id,
            "backbone": head.backbone,
            "fine_tuned": bool(job.spec.adapter),
            "with_weights": with_weights,
            "may_be_shared": not refusal,
            "licence": sharing.licence.name,
            "view": job.bundle.view.identity(),
            "mean": list(job.spec.mean),
            "std": list(job.spec.std),
            **facts,
        },
    )
    notice = notice_lines(job.spec, sharing, with_weights=with_weights)
    write_text(folder / NOTICE, "\n".join(notice) + "\n")


def _write_card(bundle: Bundle, spec: BackboneSpec, sharing: Sharing, findings: Findings | None, folder: Path) -> None:
    from histotune.deploy.card import CardFacts, write_card

    write_card(CardFacts(bundle, spec, sharing, findings), folder)


def _notes(bundle: Bundle, config: ExportConfig, sharing: Sharing) -> tuple[str, ...]:
    notes = []
    if config.head_only and sharing.weights_refusal:
        notes.append(f"the head alone was written: {sharing.weights_refusal}")
    elif config.for_own_use and sharing.weights_refusal:
        notes.append(f"for own use only: {sharing.weights_refusal}")
    if config.head_only and sharing.head_refusal:
        notes.append(f"for own use only: {sharing.head_refusal}")
    head = bundle.head
    if len(head.class_names) == 2 and head.threshold != 0.5:
        positive = head.class_names[1]
        notes.append(
            f"the head says {positive} from a probability of {head.threshold:.3g} on; programs that take the most "
            f"probable class do so from 0.5 on"
        )
    if config.format == "wsinfer":
        notes.append(f"tiles of {config.tile_px} px at {config.mpp:g} um/px")
    return tuple(notes)
