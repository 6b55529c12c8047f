"""Studies that stand in a run's report beside its own: diagnoses of transfer, and magnification matrices.

``histotune report RUN --add FOLDER`` keeps a copy of the study's JSON in the run folder, so that the report can be
drawn again without the study's own folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from histotune.evaluation.findings import nan_for_null
from histotune.tools.errors import UserError
from histotune.tools.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.evaluation.findings import Findings
    from histotune.evaluation.magnifications import MatrixStudy
    from histotune.transfer.case import Diagnosis

FOLDER, KINDS = "added", ("transfer", "matrix")
AGAIN = "run the command that wrote it again"


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
    kind = next((kind for kind in KINDS if (study / f"{kind}.json").is_file()), None)
    if kind is None:
        raise UserError("this folder holds no study that can be added to a report", value=study,
                        allowed="folders written by histotune transfer or histotune matrix",
                        fix="histotune transfer RUN DATASET --data DIR --out FOLDER")  # fmt: skip
    path = study / f"{kind}.json"
    _check_same(findings, _read_transfer(path) if kind == "transfer" else _read_matrix(path), study)
    (run / FOLDER).mkdir(exist_ok=True)
    write_text(run / FOLDER / f"{study.resolve().name}.{kind}.json", path.read_text(encoding="utf-8"))


def load_added(run: Path) -> Added:
    """Read the studies that were added to a run.

    Args:
        run: Folder of a finished run.

    Returns:
        The studies; empty where none was added.

    Raises:
        UserError: One of them is damaged.
    """
    folder = run / FOLDER
    if not folder.is_dir():
        return Added()
    return Added(
        tuple(_read_transfer(path) for path in sorted(folder.glob("*.transfer.json"))),
        tuple(_read_matrix(path) for path in sorted(folder.glob("*.matrix.json"))),
    )


def _check_same(findings: Findings, study: AddedTransfer | MatrixStudy, folder: Path) -> None:
    """Refuse a study of something else."""
    if isinstance(study, AddedTransfer):
        heads = [choice.head_id for choice in findings.choices]
        if study.found.head_id not in heads:
            raise UserError("this diagnosis is of another head than the run's", value=study.found.head_id,
                            allowed=", ".join(heads), fix="histotune transfer RUN DATASET --data DIR")  # fmt: skip
        return
    if study.backbone != findings.backbone or study.data_set not in [one.name for one in findings.datasets]:
        names = ", ".join(one.name for one in findings.datasets)
        raise UserError("this matrix is of another backbone or data set than the run's",
                        value=f"{study.backbone} on {study.data_set} ({folder})",
                        allowed=f"{findings.backbone} on {names}")  # fmt: skip


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
        raise UserError("this study is damaged, or was written by another version", value=path,
                        fix=AGAIN) from error  # fmt: skip


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: The file.
        fix: What makes it again.

    Returns:
        The object.

    Raises:
        UserError: It is damaged, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError("this file is not readable JSON", value=path, fix=fix) from error
    if not isinstance(data, dict):
        raise UserError("this file holds no JSON object", value=path, fix=fix)
    return data
