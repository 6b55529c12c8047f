"""A head with everything needed to apply it to new images: backbone, view, precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from histotune.backbones.entries import BackboneConfig
from histotune.heads.head import Head  # noqa: TC001  (part of a record that others introspect)
from histotune.heads.reference import ReferenceFacts, TrainingReference, reference_from, reference_tensors
from histotune.heads.saved_head import read_head, save_head
from histotune.images.config import ViewConfig
from histotune.tools.atomic import atomic_path, bring_back
from histotune.tools.devices import Precision
from histotune.tools.errors import UserError
from histotune.tools.files import CHECKSUM, hash_file, hash_json, read_json, write_sealed

if TYPE_CHECKING:
    from pathlib import Path

BUNDLE_FILE = "bundle.json"
REFERENCE_FILE = "reference.safetensors"
HEAD_CHECKSUM = "head_checksum"
ADAPTER_BESIDE = "adapter"
"""Folder beside a head's files that holds the adapter of its fine-tuned backbone; the head's key holds its hash."""


@dataclass(frozen=True)
class Bundle:
    """A deployable head.

    Attributes:
        head: The head.
        backbone: What it was trained on.
        view: How an image becomes the backbone's input.
        precision: Of the backbone's matrix products.
        reference: What its training says of new tiles; empty, with the reason, in bundles of before.
    """

    head: Head
    backbone: BackboneConfig
    view: ViewConfig
    precision: Precision
    reference: TrainingReference = field(default_factory=TrainingReference)


class Surroundings(BaseModel):
    """What ``bundle.json`` says beside its checksums."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneConfig
    view: ViewConfig
    precision: Precision
    reference: ReferenceFacts | None = None


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write a head and its surroundings, which name the head's checksum and carry one of their own.

    Args:
        bundle: What to save.
        folder: Made when missing.
    """
    saved = save_head(bundle.head, folder)
    facts = {
        "backbone": bundle.backbone.model_dump(mode="json"),
        "view": bundle.view.model_dump(mode="json"),
        "precision": bundle.precision,
        "reference": _save_reference(bundle.reference, folder).model_dump(mode="json"),
        HEAD_CHECKSUM: saved.checksum,
    }
    write_sealed(folder / BUNDLE_FILE, facts)


def head_folder(folder: Path) -> Path | None:
    """Return the folder of a head: the folder itself, or the head of a run; None where there is none."""
    places = (folder, folder / "head", folder / "head-direct")
    return next((place for place in places if (place / BUNDLE_FILE).is_file()), None)


def _save_reference(reference: TrainingReference, folder: Path) -> ReferenceFacts:
    """Write what the training says of new tiles, and return what ``bundle.json`` says of it; its hash seals it."""
    from safetensors.numpy import save

    tensors, sha256 = reference_tensors(reference), ""
    if tensors:
        with atomic_path(folder / REFERENCE_FILE) as temporary:
            temporary.write_bytes(save(tensors))
        sha256 = hash_file(folder / REFERENCE_FILE)
    else:
        (folder / REFERENCE_FILE).unlink(missing_ok=True)
    return ReferenceFacts(
        sha256=sha256,
        n_groups=0 if reference.held_out is None else reference.held_out.n_groups,
        k=0 if reference.sample is None else reference.sample.k,
        scale=reference.scale,
        reason=reference.reason,
    )


def load_bundle(folder: Path) -> Bundle:
    """Read a head and its surroundings.

    Args:
        folder: A head folder, or a run folder that holds one as ``head``.

    Returns:
        The bundle.

    Raises:
        UserError: No head there, or a damaged one.
    """
    bring_back(folder)
    found = head_folder(folder)
    if found is None:
        raise UserError(
            "no head in this folder",
            value=folder,
            allowed="a run folder, or its head folder",
            fix="histotune run RECIPE --out DIR, then pass DIR",
        )
    folder = found
    try:
        facts = _object(folder)
        sums = [str(facts.pop(name, "")) for name in (HEAD_CHECKSUM, CHECKSUM)]
        around = Surroundings.model_validate(facts)
    except (ValueError, ValidationError) as error:
        raise _damaged("bundle.json is damaged", folder) from error
    saved = read_head(folder)
    if sums[1] != (hash_json(facts | {HEAD_CHECKSUM: sums[0]}) if saved.checksum else ""):
        raise _damaged("bundle.json has changed since it was written", folder)
    if sums[0] != saved.checksum:
        raise _damaged("bundle.json belongs to another head than the one beside it", folder)
    backbone = around.backbone
    if backbone.adapter == ADAPTER_BESIDE:
        backbone = backbone.model_copy(update={"adapter": str(folder / ADAPTER_BESIDE)})
    return Bundle(saved.head, backbone, around.view, around.precision, _read_reference(around, saved.head, folder))


def _read_reference(around: Surroundings, head: Head, folder: Path) -> TrainingReference:
    """Read what the training says of new tiles, once its hash has been compared."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    facts, path = around.reference, folder / REFERENCE_FILE
    if facts is None:
        return TrainingReference()
    if not facts.sha256:
        return TrainingReference(scale=facts.scale, reason=facts.reason)
    if not path.is_file():
        raise _damaged(f"{REFERENCE_FILE} is missing", folder)
    if hash_file(path) != facts.sha256:
        raise _damaged(f"{REFERENCE_FILE} has changed since it was written", folder)
    try:
        return reference_from(facts, load_file(path), head)
    except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
        raise _damaged(f"{REFERENCE_FILE} is damaged", folder) from error


def _object(folder: Path) -> dict[str, Any]:
    facts = read_json(folder / BUNDLE_FILE)
    if not isinstance(facts, dict):
        raise ValueError("no JSON object")
    return facts


def _damaged(what: str, folder: Path) -> UserError:
    return UserError(what, value=folder, fix="copy the folder again, or repeat the run that wrote this head")
