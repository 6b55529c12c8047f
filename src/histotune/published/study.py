"""A published protocol on a data set: its own number, the spread of its runs, an interval over groups, its weakness."""

# N tiles, n scored tiles, K classes

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.evaluation.material import ScoredRows, build_predictions
from histotune.evaluation.plan import marks_of, part_rows, scored_part
from histotune.published import eva as eva_protocol
from histotune.published import thunder as thunder_protocol
from histotune.published import uni as uni_protocol
from histotune.published.leaderboard import RunConditions
from histotune.published.protocols import WORDS, ProtocolData
from histotune.statistics.scores import score_predictions
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError
from histotune.tools.files import hash_bytes, parse_json
from histotune.tools.marks import LEAKY, TOO_NARROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.splits.split import Split
    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.config import EvaluationConfig
    from histotune.evaluation.material import Material
    from histotune.published.protocols import ProtocolArm, ProtocolConfig, ProtocolRun
    from histotune.statistics.predictions import Interval, IntervalConfig, Predictions

    Int = NDArray[np.int64]


@dataclass(frozen=True)
class ProtocolRow:
    """One row of a protocol's table.

    Attributes:
        name: Such as "linear layer" or "kNN, cosine".
        pooling: Column blocks, joined by "+".
        metric: What the protocol reports.
        mean: Mean over the runs; NaN where one diverged.
        sd: Standard deviation over them; NaN for one.
        n_values: Number of runs or draws.
        spread_over: What they differ in.
        interval: Over groups, of the run nearest to the mean; None where refused.
        reason: Why there is no interval; empty where there is one.
        n_tiles: Tiles scored.
        n_groups: Groups scored; 0 where unknown.
        chosen: What the protocol chose in each run.
        note: What a reader must know about this row.
    """

    name: str
    pooling: str
    metric: str
    mean: float
    sd: float
    n_values: int
    spread_over: str
    interval: Interval | None
    reason: str
    n_tiles: int
    n_groups: int
    chosen: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class ProtocolStudy:
    """What a protocol found on a data set.

    Attributes:
        title: Protocol, data set, backbone.
        scored: Which tiles were scored, in words.
        rows: The table.
        weaknesses: What its numbers suffer from, one sentence each; printed wherever the numbers are.
        marks: Warnings on every row, such as LEAKY.
        split_hash: Hash of the scored tiles, their labels and groups.
        conditions: What decides which published scores are of the same protocol.
        predictions: A row per scored tile, row of the table and run, with the columns of ``Predictions``.
    """

    title: str
    scored: str
    rows: tuple[ProtocolRow, ...]
    weaknesses: tuple[str, ...]
    marks: tuple[str, ...]
    split_hash: str
    conditions: RunConditions
    predictions: pl.DataFrame

    def as_dict(self) -> dict[str, object]:
        """Return all but the predictions, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "predictions"}


@dataclass(frozen=True)
class ProtocolTask:
    """How a protocol is run.

    Attributes:
        protocol: Its settings.
        evaluation: Whether the test part is scored.
        interval: How intervals are made.
        poolings: Each gives rows of its own; empty takes the backbone's default.
        split: The named split; None where the data set has parts of its own.
        view_documented: Whether tiles are seen as the backbone documents it.
    """

    protocol: ProtocolConfig
    evaluation: EvaluationConfig
    interval: IntervalConfig
    poolings: tuple[tuple[str, ...], ...] = ()
    split: Split | None = None
    view_documented: bool = True


def protocol_part(tiles: TileSet, evaluation: EvaluationConfig) -> str:
    """Return the part that is scored: test with ``--final``, and valid where there is no test part."""
    if tiles.table["split"].null_count() == len(tiles):
        raise UserError(
            "a protocol needs parts, and these tiles have none",
            value=tiles.name,
            fix="--split eva, thunder or pcam-official",
        )
    part = scored_part(evaluation) if "test" in set(tiles.table["split"]) else "valid"
    there = tiles.table.filter(tiles.labels_N >= 0)["split"].drop_nulls()
    missing = [name for name in dict.fromkeys(("train", "valid", part)) if name not in set(there)]
    if missing:
        raise UserError(
            f"a published protocol needs every part of its split, and {tiles.name} has no labelled "
            f"tiles in {' and '.join(missing)}",
            value=f"{len(tiles):,} tiles: {', '.join(sorted(set(there)))}",
            fix="give the whole data set: the parts are made of the published case ids",
        )
    return part


def study_protocol(material: Material, task: ProtocolTask) -> ProtocolStudy:
    """Run a protocol on embedded tiles.

    Args:
        material: Tiles with their parts, and embeddings.
        task: What to run and how to score.

    Returns:
        Its table, its weaknesses and its predictions.

    Raises:
        UserError: A part is missing, or a pooling is unknown.
    """
    tiles, part = material.tiles, protocol_part(material.tiles, task.evaluation)
    rows_n = part_rows(tiles, part)
    split_hash = hash_bytes(tiles.take(rows_n).label_fingerprint, part)
    rows, tables = [], []
    for pooling in task.poolings or (material.default_pooling,):
        for arm in _run(_data(material, pooling, rows_n), task.protocol):
            row, predictions = _scored(material, rows_n, arm, pooling, task.interval, split_hash)
            rows.append(row)
            tables.append(predictions.with_columns(row=pl.lit(arm.name), pooling=pl.lit("+".join(pooling))))
    narrow = (TOO_NARROW,) if task.interval.cluster == "tile" else ()
    split_words = f"{task.split.name} {part}" if task.split else part
    return ProtocolStudy(
        title=f"{task.protocol.name} protocol: {material.embeddings.space.backbone} on {tiles.name}",
        scored=f"{tiles.name} {split_words}",
        rows=tuple(rows),
        weaknesses=protocol_weaknesses(task, tiles, part),
        marks=(*marks_of(tiles, task.split), *narrow),
        split_hash=split_hash,
        conditions=_conditions(material, task, part),
        predictions=pl.concat(tables),
    )


def protocol_weaknesses(task: ProtocolTask, tiles: TileSet, part: str) -> tuple[str, ...]:
    """Return what a protocol's numbers suffer from on these tiles, the gravest first."""
    protocol, every = task.protocol, WORDS["every"]
    leaks = task.split.notes if task.split is not None and task.split.leaky else None
    out = [every["selects_where_it_reports"]] if part == "valid" and protocol.name != "uni" else []
    out += [every["no_final"]] if part == "valid" and "test" in set(tiles.table["split"]) else []
    if leaks is not None:
        out += [note for note in leaks if note.startswith(LEAKY)] or [every["breakhis_leak"]]
    out += [WORDS["eva"]["ten_shot"]] if protocol.name == "eva" and protocol.shots else []
    out += WORDS[protocol.name]["weaknesses"]
    out += [every["one_magnification"]] if task.split is not None and tiles.name == "breakhis" else []
    return tuple(out)


def _conditions(material: Material, task: ProtocolTask, part: str) -> RunConditions:
    tiles, space = material.tiles, material.embeddings.space
    return RunConditions(
        dataset=tiles.name,
        class_names=tiles.class_names,
        split="" if task.split is None else task.split.name,
        part=part,
        n_train=len(part_rows(tiles, "train")),
        n_valid=len(part_rows(tiles, "valid")),
        n_scored=len(part_rows(tiles, part)),
        backbone=f"{space.backbone} + adapter" if space.adapter_hash else space.backbone,
        default_pooling="+".join(material.default_pooling),
        view=parse_json(space.view),
        view_documented=task.view_documented,
        settings=task.protocol.model_dump(mode="json"),
    )


def _run(data: ProtocolData, protocol: ProtocolConfig) -> tuple[ProtocolArm, ...]:
    device: Literal["cpu", "cuda"] = "cuda" if find_device(protocol.device).kind == "cuda" else "cpu"
    if protocol.name == "eva":
        return eva_protocol.eva(data, protocol, device)
    if protocol.name == "thunder":
        return thunder_protocol.thunder(data, protocol, device)
    return uni_protocol.uni(data, protocol, device)


def _data(material: Material, pooling: tuple[str, ...], rows_n: Int) -> ProtocolData:
    columns = material.embeddings.columns(pooling)
    matrix_ND = material.embeddings.matrix_ND
    # A contiguous pooling stays a view of what may be a mapped file.
    whole = len(columns) == columns[-1] - columns[0] + 1
    x_ND = matrix_ND[:, columns[0] : columns[-1] + 1] if whole else matrix_ND[:, columns]
    tiles = material.tiles
    return ProtocolData(
        x_ND, tiles.labels_N, len(tiles.class_names), part_rows(tiles, "train"), part_rows(tiles, "valid"), rows_n
    )


def _scored(
    material: Material,
    rows_n: Int,
    arm: ProtocolArm,
    pooling: tuple[str, ...],
    interval: IntervalConfig,
    split_hash: str,
) -> tuple[ProtocolRow, pl.DataFrame]:
    """Return a row, its interval over groups, and the predictions of its runs."""
    # The interval is that of the run whose value lies nearest to the mean of those that did not diverge.
    finite = [number for number, run in enumerate(arm.runs) if np.isfinite(run.value)]
    predictions = {
        number: _predictions(material, rows_n, arm.runs[number], f"{arm.name} {number}", number, split_hash)
        for number in finite
    }
    found, reason, n_groups = None, "a run diverged", 0
    if finite:
        middle = min(
            finite, key=lambda number: abs(arm.runs[number].value - np.mean([arm.runs[k].value for k in finite]))
        )
        (score,) = score_predictions(predictions[middle], [arm.metric], interval)
        found, reason, n_groups = score.interval, score.reason, score.n_groups
    row = ProtocolRow(
        name=arm.name,
        pooling="+".join(pooling),
        metric=arm.metric,
        mean=arm.mean,
        sd=arm.sd,
        n_values=len(arm.values),
        spread_over=arm.spread_over,
        interval=found,
        reason=reason,
        n_tiles=len(rows_n),
        n_groups=n_groups,
        chosen=tuple(run.chosen for run in arm.runs),
        note=arm.note,
    )
    empty = pl.DataFrame()
    return row, pl.concat([part.table for part in predictions.values()]) if predictions else empty


def _predictions(
    material: Material, rows_n: Int, run: ProtocolRun, head_id: str, seed: int, split_hash: str
) -> Predictions:
    # Shares of a vote have no logits: their logarithms stand in, 0 as the smallest positive number.
    logit_nK = np.log(np.maximum(run.probability_nK, np.finfo(np.float64).tiny))
    scored = ScoredRows(
        rows=rows_n,
        logit_NK=logit_nK,
        probability_NK=run.probability_nK,
        head_ids=[head_id] * len(rows_n),
        fold_N=np.zeros(len(rows_n), np.int64),
        seed=seed,
        split_hash=split_hash,
    )
    return build_predictions(material, scored)
