"""Studies of other commands stand in a run's report, and only those of its own head and backbone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from histotune.evaluation.magnifications import MagnificationMatrix, MatrixCell, MatrixStudy, SeenScale
from histotune.report.page import render_page
from histotune.report.run_folder import add_study, load_added, load_run, save_run
from histotune.statistics.predictions import Interval, IntervalConfig, Score
from histotune.studies.report_verb import report
from histotune.tools.errors import UserError
from histotune.tools.files import canonical_json, write_json
from histotune.tools.manifest import unlist, write_manifest
from histotune.transfer.case import Diagnosis, TransferConfig
from histotune.transfer.diagnose import diagnose
from tests.report.made_up import made_inputs
from tests.transfer.conftest import make_transfer


@pytest.fixture(scope="module")
def found() -> Diagnosis:
    return diagnose(make_transfer(), TransferConfig(draws=2), IntervalConfig(n_resamples=200))


@pytest.fixture
def run(tmp_path: Path, found: Diagnosis) -> Path:
    inputs = made_inputs()
    choices = (replace(inputs.findings.choices[0], head_id=found.head_id), *inputs.findings.choices[1:])
    folder = tmp_path / "run"
    folder.mkdir()
    save_run(replace(inputs, findings=replace(inputs.findings, choices=choices)), folder)
    return folder


def save_transfer(found: Diagnosis, folder: Path) -> Path:
    folder.mkdir()
    write_json(
        folder / "transfer.json", {**found.as_dict(), "command": "histotune transfer <b>", "ledger": "scored once"}
    )
    return folder


def made_study(run: Path) -> MatrixStudy:
    findings = load_run(run).findings
    auroc = Score("auroc", 0.8, Interval(0.7, 0.9, 0.95, "a method"), 20, 10)
    undefined = Score("auroc", float("nan"), None, 3, 2, reason="no tile of class 'malignant'")
    cells = (
        MatrixCell("100X", "100X", (auroc, auroc, auroc), (), 40, 10),
        MatrixCell("100X", "400X", (undefined, auroc, auroc), (), 40, 10),
    )
    scales = (SeenScale("100X", 2.1, 0.66, 0.0, 0.5), SeenScale("400X", float("nan"), 0.66, 0.0, 0.5))
    matrix = MagnificationMatrix("as the network sees it", "equal", "short side", cells, scales, ("<i>note</i>",))
    name = findings.datasets[0].name
    return MatrixStudy(name, findings.backbone, "a protocol", (matrix,), (), "An answer.", "CC", "cited", "h")


def test_a_record_comes_back_from_its_file_as_it_was(found: Diagnosis, run: Path, tmp_path: Path) -> None:
    add_study(run, load_run(run).findings, save_transfer(found, tmp_path / "to-pcam"))
    (tmp_path / "m").mkdir()
    study = made_study(run)
    write_json(tmp_path / "m" / "matrix.json", study.as_dict())
    add_study(run, load_run(run).findings, tmp_path / "m")
    added = load_added(run)
    assert canonical_json(added.transfers[0].found.as_dict()) == canonical_json(found.as_dict())
    assert canonical_json(added.matrices[0].as_dict()) == canonical_json(study.as_dict())


def test_the_report_holds_them_escaped_and_again_without_their_folders(
    found: Diagnosis, run: Path, tmp_path: Path
) -> None:
    plain = render_page(load_run(run))
    transfer, matrix = save_transfer(found, tmp_path / "to-pcam"), tmp_path / "m"
    matrix.mkdir()
    write_json(matrix / "matrix.json", made_study(run).as_dict())
    report(run, add=[transfer, matrix])
    (transfer / "transfer.json").unlink()
    report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What each remedy gives back" in page and "What each remedy gives back" not in plain
    assert "histotune transfer &lt;b&gt;" in page and "&lt;i&gt;note&lt;/i&gt;" in page
    assert 'href="#transfer-1"' in page and 'href="#matrix-1"' in page
    assert "An answer." in page and "not estimable" in page


def test_studies_of_something_else_are_refused(found: Diagnosis, run: Path, tmp_path: Path) -> None:
    findings = load_run(run).findings
    other = save_transfer(replace(found, head_id="other"), tmp_path / "other")
    with pytest.raises(UserError, match="another head"):
        add_study(run, findings, other)
    (tmp_path / "m").mkdir()
    write_json(tmp_path / "m" / "matrix.json", replace(made_study(run), backbone="other").as_dict())
    with pytest.raises(UserError, match="another backbone or data set"):
        add_study(run, findings, tmp_path / "m")
    with pytest.raises(UserError, match="no study that can be added"):
        add_study(run, findings, tmp_path)
    assert not (run / "added").exists()


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"head_id": 3})])
def test_a_damaged_study_says_so(run: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "transfer.json").write_text(text)
    with pytest.raises(UserError, match=r"not readable JSON|no JSON object|damaged"):
        add_study(run, load_run(run).findings, tmp_path / "x")


def test_an_added_study_is_in_the_manifest_and_one_that_was_not_added_to_the_end_is_left_out(
    found: Diagnosis, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transfer = save_transfer(found, tmp_path / "to-pcam")
    report(run, add=[transfer])
    added = run / "added" / "to-pcam.transfer.json"
    whole = added.read_bytes()
    added.write_bytes(whole.replace(b"scored once", b"scored 0nce"))
    with pytest.raises(UserError, match=r"to-pcam\.transfer\.json \(changed\)"):
        report(run)
    added.write_bytes(whole)
    unlist(run, "added/to-pcam.transfer.json")  # as a process leaves it that is killed before it renews the manifest
    assert load_added(run).transfers == ()
    assert "add it again" in caplog.text
    report(run, add=[transfer])
    assert len(load_added(run).transfers) == 1


def test_a_study_that_changed_since_it_was_written_is_not_added(found: Diagnosis, run: Path, tmp_path: Path) -> None:
    transfer = save_transfer(found, tmp_path / "to-pcam")
    write_manifest(transfer, "transfer.json")
    (transfer / "transfer.json").write_bytes((transfer / "transfer.json").read_bytes().replace(b"0.", b"1.", 1))
    with pytest.raises(UserError, match=r"transfer\.json \(changed\)"):
        report(run, add=[transfer])
    assert not (run / "added").exists()
