"""The end of a run: one sentence, a small table, where the page lies, and one command that can be typed."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.main import get_command

from histotune.cli.ending import next_step, print_run
from histotune.cli.main import app
from histotune.datasets.config import DatasetConfig
from histotune.datasets.synthetic.cohort import SyntheticConfig
from histotune.evaluation.answer import verdict_sentence
from histotune.evaluation.findings import Findings
from histotune.finetune.config import FinetuneConfig
from histotune.studies.config import ExperimentConfig
from histotune.studies.experiment import RunResult
from histotune.tools.marks import LEAKY
from tests.report.made_up import made_findings, made_inputs

SOURCE = DatasetConfig(name="breakhis", path=Path("my data/breakhis"))
TARGET = DatasetConfig(name="patch_camelyon", path=Path("pcam"))
GOOD = made_findings(only=("in-domain", "external"))


def leaking() -> Findings:
    (found, *rest) = GOOD.findings
    rows = tuple(replace(row, marks=(LEAKY,)) for row in found.rows)
    return replace(GOOD, findings=(replace(found, rows=rows), *rest))


def config(**more: object) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"recipe": "breakhis", **more})


@pytest.mark.parametrize(
    ("findings", "settings", "begins"),
    [
        (GOOD, {"source": SOURCE, "cohort": SyntheticConfig()}, "histotune data fetch breakhis"),
        (leaking(), {"source": SOURCE}, "histotune data audit breakhis --data 'my data/breakhis'"),
        (GOOD, {"source": SOURCE}, "histotune finetune breakhis --data 'my data/breakhis' --backbone"),
        (
            GOOD,
            {"source": SOURCE, "target": TARGET, "finetune": FinetuneConfig()},
            "histotune transfer 'runs/a b' pcam",
        ),
        (GOOD, {"source": SOURCE, "finetune": FinetuneConfig()}, "histotune config show 'runs/a b'"),
        (GOOD, {"target": TARGET}, "histotune config show 'runs/a b'"),
    ],
    ids=["demo", "leaky", "good", "external", "tuned", "direct"],
)
def test_the_next_step_is_a_command_that_the_command_line_takes(
    findings: Findings, settings: dict[str, object], begins: str
) -> None:
    step = next_step(findings, config(**settings), Path("runs/a b"))
    assert step.command.startswith(begins)
    words, command = shlex.split(step.command)[1:], get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = vars(command)["commands"][words[0]], words[1:]
    assert command.make_context("histotune", words).params


def test_a_run_ends_with_sentence_table_page_and_next_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = RunResult(made_inputs(findings=GOOD), tmp_path / "a run", 0)
    print_run(result, config(source=SOURCE))
    said = capsys.readouterr().out
    parts = (
        verdict_sentence(GOOD), "in-domain: breakhis 100X", "pcam test: scored 3 times under 2 choices",
        "done in 35 s; all embeddings came from the cache", f"report: {tmp_path / 'a run' / 'report.html'}",
        f"open it in a browser: file://{tmp_path}/a%20run/report.html", "next, ", "  histotune finetune breakhis",
    )  # fmt: skip
    places = [said.index(part) for part in parts]
    assert places == sorted(places)
    assert GOOD.answer.split()[0] == "First" and GOOD.answer not in said  # the long answer is on the page
    print_run(replace(result, n_computed=3), config(source=SOURCE))
    assert "forward pass" not in capsys.readouterr().out
