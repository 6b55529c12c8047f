"""How a run ends at a terminal: the answer in one sentence, a small table, where the report lies, what to do next."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.tools.marks import LEAKY, PROBE
from histotune.tools.progress import time_words
from histotune.tools.streams import one_line
from histotune.tools.table import OPEN, console

if TYPE_CHECKING:
    from pathlib import Path

    from histotune.datasets.config import DatasetConfig
    from histotune.evaluation.findings import Finding, Findings
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.experiment import RunResult
    from histotune.studies.stages import SweepOutcome
    from histotune.tools.table import Table

ASKS = "look again: "
"""How a line begins that asks for a look at what was chosen."""
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NextStep:
    """What to do after a run.

    Attributes:
        why: In a few words.
        command: One command, which runs as it stands.
    """

    why: str
    command: str


def print_run(result: RunResult, config: ExperimentConfig) -> None:
    """Print what a run found."""
    from histotune.evaluation.answer import verdict_sentence
    from histotune.report.run_table import run_table

    findings, stages = result.inputs.findings, result.inputs.stages
    print(f"\n{one_line(verdict_sentence(findings))}\n")
    print_table(run_table(findings))
    print()
    for count in result.inputs.ledger:
        print(one_line(str(count)))
    for stage in stages:
        LOG.debug("%.1f s: %s", stage.seconds_s, stage.name)
    warm = "; all embeddings came from the cache, no forward pass was needed" if result.n_computed == 0 else ""
    print(f"done in {time_words(sum(stage.seconds_s for stage in stages) / 3600)}{warm}")
    if result.tracked:
        print(one_line(result.tracked))
    print_page(result.folder / "report.html")
    step = next_step(findings, config, result.folder)
    print(f"next, {step.why}:\n  {step.command}")


def print_page(page: Path) -> None:
    """Say where a page lies and how it is opened."""
    print(f"report: {page}\n  open it in a browser: {page.resolve().as_uri()}")


def print_sweep(outcome: SweepOutcome) -> None:
    """Print what a sweep chose: what it is expected to reach, its trials, where it lies; the rest is detail."""
    from histotune.datasets.dataset_spec import group_word, group_words
    from histotune.report.tables import TRIALS_LAYOUT, trials_table
    from histotune.report.words import choice_lines, chosen_trial, nested_estimates

    choice = outcome.choice
    console().print(trials_table(outcome.result.trials, choice.n_groups).as_rich(TRIALS_LAYOUT))
    word = group_word(choice.trained_on)
    print(
        f"chosen: {chosen_trial(choice)}, from {choice.n_fits} fits on {choice.n_tiles:,} tiles of "
        f"{group_words(choice.trained_on, choice.n_groups)}"
    )
    print(f"expected on new {word}s: {nested_estimates(choice)}")
    for line in choice_lines(choice):
        if line.startswith(ASKS):
            print(one_line(line))
        elif line:
            LOG.debug("%s", line)
    if outcome.tracked:
        print(one_line(outcome.tracked))
    print(f"head: {outcome.folder} ({choice.head_id})\nplots: {outcome.folder / 'plots'}; all trials: histotune trials")


def print_table(table: Table) -> None:
    """Print a table and its notes, each on lines of its own."""
    terminal = console()
    terminal.print(table.as_rich(OPEN))
    for note in table.notes:
        terminal.print(one_line(note), highlight=False, markup=False)


def next_step(findings: Findings, config: ExperimentConfig, folder: Path) -> NextStep:
    """Return what helps most after a run.

    After the demo, real tissue; where the split leaks or nothing can be told, a look at the data; after a good probe,
    what fine-tuning would take; in the end, why another data set scores as it does, or the head at work.
    """
    if config.cohort is not None:
        return NextStep("the same on real tissue (about 4 GB)", "histotune data fetch breakhis")
    main = findings.finding("in-domain") or findings.finding("direct")
    data = config.source or config.target
    if data is not None and (main is None or _in_doubt(main)):
        return NextStep("what is wrong with the data", f"histotune data audit {_named(data)}")
    if config.source is not None and config.finetune is None:
        magnification = config.evaluation.train_magnification
        only = f" --train-magnification {shlex.quote(magnification)}" if magnification else ""
        command = f"histotune finetune {_named(config.source)} --backbone {shlex.quote(config.backbone.name)}{only}"
        return NextStep("how long fine-tuning would take", f"{command} --estimate")
    if config.source is not None and config.target is not None:
        command = f"histotune transfer {shlex.quote(str(folder))} {_named(config.target)}"
        return NextStep("why the other data set scores as it does", command)
    return NextStep("every choice behind these numbers", f"histotune config show {shlex.quote(str(folder))}")


def _in_doubt(finding: Finding) -> bool:
    """Whether the probe's score says nothing about new groups."""
    probe = finding.row(PROBE)
    score = None if probe is None else probe.score("auroc")
    return probe is None or score is None or LEAKY in probe.marks or score.interval is None


def _named(data: DatasetConfig) -> str:
    """Return a data set as a command line names it."""
    name = {"patch_camelyon": "pcam", "python": str(data.code)}.get(data.name, data.name)
    return f"{shlex.quote(name)} --data {shlex.quote(str(data.path))}"
