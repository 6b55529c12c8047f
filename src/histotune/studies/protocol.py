"""A published protocol from files to a folder: read, embed, train, score, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.backbones.catalog import find_backbone, pinned_config
from histotune.datasets.read import read_dataset
from histotune.embeddings.space import chosen_view
from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.evaluation.plan import with_parts
from histotune.published.study import ProtocolTask, protocol_part, study_protocol
from histotune.studies.setup import embed_dataset, refuse_foreign_folder, single_dataset
from histotune.tools.errors import UserError
from histotune.tools.files import atomic_folder, hash_json, write_json
from histotune.tools.provenance import collect_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.evaluation.findings import LedgerCount
    from histotune.evaluation.material import Material
    from histotune.published.study import ProtocolStudy
    from histotune.studies.config import ExperimentConfig


@dataclass(frozen=True)
class ProtocolOutcome:
    """A finished protocol.

    Attributes:
        study: Its table and weaknesses.
        ledger: How often its scored part has been scored.
        folder: ``protocol.json``, ``predictions.parquet`` and ``config.json``.
    """

    study: ProtocolStudy
    ledger: LedgerCount
    folder: Path


def embed_protocol(config: ExperimentConfig) -> tuple[Material, ProtocolTask]:
    """Read the protocol's tiles and embed them: what several processes do together."""
    if config.protocol is None:
        raise UserError("this recipe is no published protocol", value=config.recipe, fix="histotune run eva-breakhis")
    dataset = single_dataset(config)
    tiles, split = with_parts(read_dataset(dataset), config.evaluation)
    protocol_part(tiles, config.evaluation)  # a missing part shows before anything is embedded
    spec = find_backbone(config.backbone, config.cache)
    material = embed_dataset(config, tiles, spec, dataset.on_bad_image)
    documented = chosen_view(config.view, spec) == chosen_view(None, spec)
    task = ProtocolTask(config.protocol, config.evaluation, config.interval, config.sweep.poolings, split, documented)
    return material, task


def run_protocol(config: ExperimentConfig, command: str) -> ProtocolOutcome:
    """Run a published protocol and save what it gave.

    Args:
        config: A protocol's recipe.
        command: The command line, kept with the numbers.

    Returns:
        The study, the ledger's count and the folder, which appears only when everything is done.

    Raises:
        UserError: Anything the user can mend.
    """
    refuse_foreign_folder(config.out)
    material, task = embed_protocol(config)
    study = study_protocol(material, task)
    spec = find_backbone(config.backbone, config.cache)
    config = config.model_copy(update={"backbone": pinned_config(config.backbone, spec)})
    choice = hash_json([config.choices(), [row.chosen for row in study.rows]])
    ledger = record_scoring(config.ledger, Scoring(study.split_hash, study.scored, choice))
    facts = {"command": command, "ledger": str(ledger), "provenance": collect_provenance().as_dict()}
    with atomic_folder(config.out) as folder:
        write_json(folder / "protocol.json", {**study.as_dict(), **facts})
        study.predictions.write_parquet(folder / "predictions.parquet")
        write_json(folder / "config.json", config.model_dump(mode="json"))
    return ProtocolOutcome(study, ledger, config.out)
