"""A published protocol from files to a folder: read, embed, train, score, save."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.evaluation.ledger import Scoring, record_scoring
from histotune.published.study import ProtocolTask, protocol_part, study_protocol
from histotune.report.result_tables import tables_of
from histotune.studies.setup import claimed_folder, is_documented_view, read_with_parts, set_up
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json, write_json
from histotune.tools.manifest import CLAIM, write_manifest
from histotune.tools.provenance import collect_provenance
from histotune.tools.table import ShownAsTables, Table
from histotune.tools.tabular import write_parquet

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.evaluation.findings import LedgerCount
    from histotune.published.study import ProtocolStudy
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.setup import Setup


@dataclass(frozen=True)
class ProtocolOutcome(ShownAsTables):
    """A finished protocol.

    Attributes:
        study: Its table and weaknesses.
        ledger: How often its scored part has been scored.
        folder: ``protocol.json``, ``predictions.parquet`` and ``config.json``.
    """

    study: ProtocolStudy
    ledger: LedgerCount
    folder: Path

    def tables(self) -> tuple[Table, ...]:
        """Return the protocol's table."""
        return tables_of(self.study)


def set_up_protocol(config: ExperimentConfig) -> Setup:
    """Read the protocol's tiles and find what embeds them; a missing part shows before anything is embedded."""
    if config.protocol is None:
        raise UserError("this recipe is no published protocol", value=config.recipe, fix="histotune run eva-breakhis")
    tiles, split = read_with_parts(config)
    protocol_part(tiles, config.evaluation)
    return set_up(config, tiles, split)


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
    with claimed_folder(config):
        setup = set_up_protocol(config)
        config = setup.config
        assert config.protocol is not None  # set_up_protocol refuses a config without one
        documented = is_documented_view(setup)
        poolings = config.sweep.poolings
        task = ProtocolTask(config.protocol, config.evaluation, config.interval, poolings, setup.split, documented)
        study = study_protocol(setup.embed(), task)
        choice = hash_json([config.choices(), [row.chosen for row in study.rows]])
        ledger = record_scoring(config.ledger, Scoring(study.split_hash, study.scored, choice))
        facts = {"command": command, "ledger": str(ledger), "provenance": {**collect_provenance().as_dict(), **CLAIM}}
        with atomic_folder(config.out) as folder:
            write_json(folder / "protocol.json", {**study.as_dict(), **facts})
            write_parquet(study.predictions, folder / "predictions.parquet")
            write_json(folder / "config.json", config.model_dump(mode="json"))
            write_manifest(folder)
        return ProtocolOutcome(study, ledger, config.out)
