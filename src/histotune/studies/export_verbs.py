"""The verbs that hand a head over: export it for other programs, and push it to a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histotune.deploy.bundle import BUNDLE_FILE, head_folder, load_bundle
from histotune.deploy.card import CardFacts
from histotune.deploy.export import export_head
from histotune.deploy.export_job import ExportConfig, check_format
from histotune.deploy.push import plan_push, push_folder
from histotune.deploy.sharing import sharing_of
from histotune.evaluation.findings import findings_from_dict
from histotune.studies.arguments import Place, bundle_of
from histotune.studies.config import ExperimentConfig
from histotune.studies.setup import backbone_of_head
from histotune.tools.errors import UserError
from histotune.tools.files import read_json
from histotune.tools.manifest import verify_folder

if TYPE_CHECKING:
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.export import Exported
    from histotune.deploy.push import PushPlan
    from histotune.evaluation.findings import Findings

SCORES = "scores.json"


def export(
    head: Bundle | Place,
    format: str,
    *,
    out: Place,
    tile_px: int | None = None,
    mpp: float | None = None,
    head_only: bool = False,
    for_own_use: bool = False,
    overwrite: bool = False,
    cache: Place | None = None,
) -> Exported:
    """Write a head for other programs: its backbone, its view and its calibration with it.

    The folder holds a model card, ``NOTICE.txt`` with the licences, and ``histotune_export.json``. Before it appears it
    is opened again by the libraries of its readers, and must say what the head says.

    Args:
        head: What :func:`sweep` gave as ``.head``, or a head's or run's folder; fine-tuned ones are merged.
        format: ``transformers``, ``onnx``, ``wsinfer`` or ``folder``.
        out: Folder to write.
        tile_px: Side of the square tiles that WSInfer and QuPath cut out of a slide.
        mpp: Scale of the images, um/px.
        head_only: Leave out the backbone's weights (``folder``).
        for_own_use: Write weights that the licence does not let one pass on.
        overwrite: Replace an earlier export.
        cache: Folder for embeddings, which remembers what timm knows.

    Returns:
        What was written, and how far it is from the head.

    Raises:
        UserError: A head, view, backbone or licence that the format can't take, or a folder that is there already.

    Example:
        >>> import histotune as ht
        >>> x = ht.embed(ht.read("breakhis", "BreaKHis_v1"), "lite0")
        >>> head = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3}).head
        >>> ht.export(head, "transformers", out="for-transformers").with_weights
        True
    """
    bundle = bundle_of(head)
    spec = backbone_of_head(bundle, _cache(cache))
    config = ExportConfig(check_format(format), tile_px, mpp, head_only, for_own_use, overwrite)
    return export_head(
        bundle, spec, Path(out), config, None if not isinstance(head, str | Path) else _findings(Path(head))
    )


def push(
    folder: Place,
    repo_id: str,
    *,
    yes: bool = False,
    public: bool = False,
    endpoint: str | None = None,
    cache: Place | None = None,
) -> PushPlan:
    """Show what an upload to a model hub would hold, and upload it where that is said.

    Args:
        folder: Written by :func:`export`, or a head's or run's folder.
        repo_id: ``OWNER/NAME``.
        yes: Upload; otherwise nothing leaves this machine.
        public: Let everybody see it; a repository that exists stays as it is.
        endpoint: Address of the hub; None takes ``HF_ENDPOINT``, or the public one.
        cache: Folder for embeddings.

    Returns:
        What was, or would be, uploaded.

    Raises:
        UserError: A licence that does not let one pass it on, odd files, no token, or a hub that refuses.

    Example:
        >>> import histotune as ht
        >>> x = ht.embed(ht.read("breakhis", "BreaKHis_v1"), "lite0")
        >>> swept = ht.sweep(x, train_magnification="100X", out="run", set={"sweep.folds": 3})
        >>> plan = ht.push("run", "yourname/breakhis-head")
        >>> [file.name for file in plan.files]
        ['README.md', 'bundle.json', 'head.json', 'head.safetensors']
    """
    place = Path(folder)
    own = head_folder(place)
    card = None
    if own is not None:
        bundle = load_bundle(own)
        spec = backbone_of_head(bundle, _cache(cache))
        card = CardFacts(bundle, spec, sharing_of(spec), _findings(place))
    plan = plan_push(own or place, repo_id, card, is_public=public)
    if yes:
        push_folder(plan, endpoint)
    return plan


def _findings(place: Path) -> Findings | None:
    """Return what the run of a head found; None where the head has no run."""
    run = next((one for one in (place, place.parent) if (one / SCORES).is_file()), None)
    if run is None or (not (place / BUNDLE_FILE).is_file() and run != place):
        return None
    verify_folder(run, "copy the run again", SCORES)
    try:
        return findings_from_dict(read_json(run / SCORES))
    except ValueError as error:
        raise UserError("what this run found can't be read", value=run / SCORES, fix="repeat the run") from error


def _cache(cache: Place | None) -> Path:
    return Path(cache) if cache is not None else ExperimentConfig(recipe="export").cache
