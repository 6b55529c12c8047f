"""What the report is made from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from importlib import resources
from typing import TYPE_CHECKING, Any

import polars as pl

from histotune.evaluation.findings import Artifacts, LedgerCount, findings_from_dict, nan_for_null
from histotune.tools.atomic import bring_back
from histotune.tools.errors import UserError
from histotune.tools.files import read_json, write_json, write_text
from histotune.tools.manifest import CLAIM, is_listed, renew_manifest, unlist, verify_folder, write_manifest
from histotune.tools.progress import StageTime
from histotune.tools.tabular import read_parquet, write_parquet

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.evaluation.findings import Findings
    from histotune.evaluation.magnifications import MatrixStudy
    from histotune.transfer.case import Diagnosis


# ------------------------------------------------------------------------------
# Studies that stand in a run's report beside its own: diagnoses of transfer, and magnification matrices.
#
# ``histotune report RUN --add FOLDER`` keeps a copy of the study's JSON in the run folder, so that the report can be
# drawn again without the study's own folder.


LOG = logging.getLogger(__name__)
FOLDER, KINDS = "added", ("transfer", "matrix")
AGAIN = "run the command that wrote it again"
RECOMPUTE_FILE = "recompute.py"
ADDED_FILES = ("*.transfer.json", "*.matrix.json")


@dataclass(frozen=True)
class AddedTransfer:
    """A diagnosis.

    Attributes:
        found: The diagnosis; its neighbours' pictures stay on its own page.
        ledger: How often the target had been scored.
        command: The command that made it.
    """

    found: Diagnosis
    ledger: str
    command: str


@dataclass(frozen=True)
class Added:
    """All studies that were added to a run, by the names of their folders."""

    transfers: tuple[AddedTransfer, ...] = ()
    matrices: tuple[MatrixStudy, ...] = ()


def add_study(run: Path, findings: Findings, study: Path) -> None:
    """Keep a study with a run.

    Args:
        run: Folder of a finished run.
        findings: What the run found.
        study: Folder written by ``histotune transfer`` or ``histotune matrix``.

    Raises:
        UserError: No study there, a damaged one, or one of another head or backbone.
    """
    bring_back(study)
    kind = next((kind for kind in KINDS if (study / f"{kind}.json").is_file()), None)
    if kind is None:
        raise UserError(
            "this folder holds no study that can be added to a report",
            value=study,
            allowed="folders written by histotune transfer or histotune matrix",
            fix="histotune transfer RUN DATASET --data DIR --out FOLDER",
        )
    path = study / f"{kind}.json"
    verify_folder(study, AGAIN, path.name)
    _check_same(findings, _read_transfer(path) if kind == "transfer" else _read_matrix(path), study)
    (run / FOLDER).mkdir(exist_ok=True)
    name = f"{FOLDER}/{study.resolve().name}.{kind}.json"
    unlist(run, name)
    write_text(run / name, path.read_text(encoding="utf-8"))
    renew_manifest(run, name)


def load_added(run: Path) -> Added:
    """Read the studies that were added to a run."""
    found = [[path for path in sorted((run / FOLDER).glob(pattern)) if _is_whole(run, path)] for pattern in ADDED_FILES]
    return Added(tuple(map(_read_transfer, found[0])), tuple(map(_read_matrix, found[1])))


def _is_whole(run: Path, path: Path) -> bool:
    """Whether an added study was written to the end: its hash comes last."""
    if is_listed(run, f"{FOLDER}/{path.name}"):
        return True
    LOG.warning("a study was not added to the end and is left out; add it again with report --add: %s", path)
    return False


def _check_same(findings: Findings, study: AddedTransfer | MatrixStudy, folder: Path) -> None:
    """Refuse a study of something else."""
    if isinstance(study, AddedTransfer):
        heads = [choice.head_id for choice in findings.choices]
        if study.found.head_id not in heads:
            raise UserError(
                "this diagnosis is of another head than the run's",
                value=study.found.head_id,
                allowed=", ".join(heads),
                fix="histotune transfer RUN DATASET --data DIR",
            )
        return
    if study.backbone != findings.backbone or study.data_set not in [one.name for one in findings.datasets]:
        names = ", ".join(one.name for one in findings.datasets)
        raise UserError(
            "this matrix is of another backbone or data set than the run's",
            value=f"{study.backbone} on {study.data_set} ({folder})",
            allowed=f"{findings.backbone} on {names}",
        )


def _read_transfer(path: Path) -> AddedTransfer:
    from histotune.transfer.case import Diagnosis

    data = read_object(path, AGAIN)
    own = {field.name for field in fields(Diagnosis)}
    found = _rebuild(Diagnosis, {name: value for name, value in data.items() if name in own}, path)
    return AddedTransfer(found, str(data.get("ledger", "")), str(data.get("command", "")))


def _read_matrix(path: Path) -> MatrixStudy:
    from histotune.evaluation.magnifications import MatrixStudy

    found: MatrixStudy = _rebuild(MatrixStudy, read_object(path, AGAIN), path)
    return found


def _rebuild(kind: type[Any], data: dict[str, Any], path: Path) -> Any:  # noqa: ANN401  (the record asked for)
    """Build a frozen record and all records in it."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(nan_for_null(data))
    except ValidationError as error:
        raise UserError("this study is damaged, or was written by another version", value=path, fix=AGAIN) from error


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError("this file is not readable JSON", value=path, fix=fix) from error
    if not isinstance(data, dict):
        raise UserError("this file holds no JSON object", value=path, fix=fix)
    return data


@dataclass(frozen=True)
class Thumbnail:
    """One tile that the probe got badly wrong.

    Attributes:
        finding: Id of the finding it belongs to.
        tile_id: The tile.
        domain: Where it comes from, such as "breakhis 100X"; the data set's credit is found by it.
        group_id: Its group.
        y_true: Name of its true class.
        y_predicted: Name of the predicted class.
        probability: Probability that the head gave to the predicted class.
        jpeg: The picture as JPEG bytes.
        head_id: The head that scored it; empty in runs of before.
        map_jpeg: Where in the tile the logit of the predicted class comes from; empty without a map.
        map_words: That logit as a sum, in words; empty without a map.
    """

    finding: str
    tile_id: str
    domain: str
    group_id: str
    y_true: str
    y_predicted: str
    probability: float
    jpeg: bytes
    head_id: str = ""
    map_jpeg: bytes = b""
    map_words: str = ""


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report shows; equal inputs give an equal page, byte for byte.

    Attributes:
        findings: The tables, the answer, what was chosen and the data sets' facts.
        artifacts: Predictions and trials, for the curves.
        provenance: Versions, hardware, start time (``Provenance.as_dict``).
        stages: Seconds by stage, in order.
        ledger: How often each test split has been scored.
        config: The resolved config, nested by room.
        thumbnails: The largest errors.
        command: One command that repeats the run.
        added: Studies that were added to the run.
    """

    findings: Findings
    artifacts: Artifacts
    provenance: dict[str, object]
    stages: tuple[StageTime, ...]
    ledger: tuple[LedgerCount, ...]
    config: dict[str, object]
    thumbnails: tuple[Thumbnail, ...]
    command: str
    added: Added = field(default_factory=Added)


# ------------------------------------------------------------------------------
# A run folder: what is written when a run ends, and read back to draw its report again.


FILES = ("scores.json", "predictions.parquet", "trials.parquet", "provenance.json", "config.json", "thumbnails.json")

REPEAT = "histotune run --from {} --out NEW repeats the run"


def save_run(inputs: ReportInputs, folder: Path) -> None:
    """Write everything a report is made from.

    ``scores.json`` holds results only, so that equal runs give equal bytes; times and counts go to
    ``provenance.json``.

    Args:
        inputs: The finished run.
        folder: An existing folder; what lies in it already is in the manifest, which is written last.
    """
    write_json(folder / "scores.json", inputs.findings.as_dict())
    for name, table in vars(inputs.artifacts).items():
        if table is not None:
            write_parquet(table, folder / f"{name}.parquet")
    write_json(folder / "config.json", inputs.config)
    write_json(
        folder / "provenance.json",
        {
            **inputs.provenance,
            **CLAIM,
            "command": inputs.command,
            "stages": [{"name": stage.name, "seconds_s": round(stage.seconds_s, 3)} for stage in inputs.stages],
            "ledger": [{"target": c.target, "times": c.times, "choices": c.choices} for c in inputs.ledger],
        },
    )
    _save_thumbnails(inputs.thumbnails, folder)
    again = resources.files(__package__).joinpath(RECOMPUTE_FILE).read_text(encoding="utf-8")
    write_text(folder / RECOMPUTE_FILE, again)  # a second implementation, for who doubts the first
    write_manifest(folder)


def load_run(folder: Path) -> ReportInputs:
    """Read a run folder back.

    Args:
        folder: Written by :func:`save_run`.

    Returns:
        What its report is made from.

    Raises:
        UserError: Files are missing, or one of them has changed since it was written.
    """
    bring_back(folder)
    again = REPEAT.format(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"this is no finished run: {', '.join(missing)} missing", value=folder, fix="histotune run RECIPE --out DIR"
        )
    verify_folder(folder, again)
    provenance = read_object(folder / "provenance.json", again)
    for name in CLAIM:
        provenance.pop(name, None)
    tables = [folder / f"{table.name}.parquet" for table in fields(Artifacts)]
    try:
        return ReportInputs(
            findings=findings_from_dict(read_object(folder / "scores.json", again)),
            artifacts=Artifacts(**{path.stem: read_parquet(path) for path in tables if path.is_file()}),
            stages=tuple(StageTime(**stage) for stage in provenance.pop("stages")),
            ledger=tuple(LedgerCount(**count) for count in provenance.pop("ledger")),
            config=read_object(folder / "config.json", again),
            thumbnails=_load_thumbnails(folder),
            command=provenance.pop("command"),
            added=load_added(folder),
            provenance=provenance,
        )
    except (ValueError, KeyError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"this run folder is damaged: {error}", value=folder, fix=again) from error


def _save_thumbnails(thumbnails: tuple[Thumbnail, ...], folder: Path) -> None:
    index = []
    (folder / "thumbnails").mkdir(exist_ok=True)
    for number, thumbnail in enumerate(thumbnails):
        name = f"thumbnails/{number:03d}.jpg"
        (folder / name).write_bytes(thumbnail.jpeg)
        facts = {key: value for key, value in vars(thumbnail).items() if not isinstance(value, bytes)}
        if thumbnail.map_jpeg:
            facts["map_file"] = f"thumbnails/{number:03d}-map.jpg"
            (folder / facts["map_file"]).write_bytes(thumbnail.map_jpeg)
        index.append({**facts, "file": name})
    write_json(folder / "thumbnails.json", index)


def read_thumbnails(folder: Path) -> tuple[Thumbnail, ...]:
    """Return the largest errors of a run whose pictures are as they were written; none where there is no such run."""
    try:
        verify_folder(folder, "")
        return _load_thumbnails(folder)
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return ()


def _load_thumbnails(folder: Path) -> tuple[Thumbnail, ...]:
    return tuple(_load_thumbnail(folder / "thumbnails", facts) for facts in read_json(folder / "thumbnails.json"))


def _load_thumbnail(folder: Path, facts: dict[str, Any]) -> Thumbnail:
    files = {name: facts.get(name, "").rpartition("/")[2] for name in ("file", "map_file")}
    pictures = {name: (folder / file).read_bytes() if file else b"" for name, file in files.items()}
    said = {key: value for key, value in facts.items() if key not in files}
    return Thumbnail(**said, jpeg=pictures["file"], map_jpeg=pictures["map_file"])
