"""What the commands do with what the user typed: build a config, call the library, print the result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError
from histotune.tools.files import readable_bytes
from histotune.tools.marks import SYNTHETIC
from histotune.tools.ranks import process_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.studies.config import ExperimentConfig
    from histotune.studies.experiment import RunResult


def build_config(recipe: str | None, **typed: Any) -> ExperimentConfig:  # noqa: ANN401  (command-line options)
    """Return a recipe's config with the command line's options and --set fields applied."""
    from histotune.studies.config import load_config, override
    from histotune.studies.recipes import RecipeData, find_recipe, recipe_names

    if typed.get("from_run") is not None:
        config = load_config(typed["from_run"])
        _check_repeat(config, recipe)
    elif recipe is None:
        raise UserError("a recipe is needed", allowed=", ".join(recipe_names()),
                        fix="histotune run breakhis --data DIR")  # fmt: skip
    else:
        config = find_recipe(recipe)(RecipeData(_folder(typed.get("data")), _folder(typed.get("pcam"))))
    config = _with_options(config, typed)
    return override(config, typed.get("settings") or [])


def run_and_print(config: ExperimentConfig) -> None:
    """Run an experiment; print its stages, summary and report path. Ranks other than 0 leave after embedding."""
    if config.protocol is not None:
        protocol_and_print(config)
        return
    from histotune.studies.experiment import run_experiment
    from histotune.studies.setup import embed_experiment
    from histotune.tools.progress import Stopwatch

    if not process_rank().leads:
        embed_experiment(config, Stopwatch())
        return
    _print_run(run_experiment(config, " ".join(["histotune", *sys.argv[1:]])))


def protocol_and_print(config: ExperimentConfig) -> None:
    """Repeat a published protocol; print its table and what weakens it. Ranks other than 0 leave after embedding."""
    from histotune.report.tables import ProtocolTable
    from histotune.studies.protocol import embed_protocol, run_protocol

    if not process_rank().leads:
        embed_protocol(config)
        return
    outcome = run_protocol(config, " ".join(["histotune", *sys.argv[1:]]))
    _console().print(ProtocolTable(outcome.study))
    print(f"\n{outcome.ledger}\nsaved: {outcome.folder}")


def embed_and_print(config: ExperimentConfig) -> None:
    """Embed a data set; rank 0 says what was computed."""
    from histotune.studies.stages import embed_only

    material = embed_only(config)
    if not process_rank().leads:
        return
    computed, total = material.embeddings.n_computed, len(material.tiles)
    blocks = ", ".join(f"{block.name} {block.stop - block.start}" for block in material.embeddings.blocks)
    space = material.embeddings.space
    print(f"{material.tiles.name}: {total:,} tiles, {computed:,} computed, {total - computed:,} from the cache")
    print(f"columns: {blocks}; {space.backbone}, {space.precision}, space {space.key[:16]}")
    if computed == 0:
        print("no forward pass was needed")
    for note in material.embeddings.notes:
        print(note)


def estimate_and_print(config: ExperimentConfig) -> None:
    """Time a few batches and say what embedding the data set will take."""
    from histotune.studies.stages import estimate_only

    if not process_rank().leads:
        return
    found = estimate_only(config)
    print(f"{found.n_tiles:,} tiles, {found.n_cached:,} embedded already, {found.n_missing:,} to compute "
          f"({found.precision} on {found.device})")  # fmt: skip
    for stage in found.stages:
        limits = "  <- the limit" if stage == found.limit else ""
        print(f"  {stage.name:16} {stage.images_per_s:10,.1f} images/s on its own{limits}")
    if found.n_missing:
        fastest, slowest = (found.batch_size / seconds for seconds in (min(found.batches_s), max(found.batches_s)))
        low, high = found.hours_between
        print(f"  {'all together':16} {found.images_per_s:10,.1f} images/s ({slowest:,.1f} to {fastest:,.1f} over "
              f"{len(found.batches_s)} batches of {found.batch_size})")  # fmt: skip
        print(f"about {_duration(found.hours)} ({_duration(low)} to {_duration(high)}), "
              f"{readable_bytes(found.storage_bytes)} of embeddings")  # fmt: skip
    if found.download_bytes:
        print(f"about {readable_bytes(found.download_bytes)} of weights to download first")
    for note in found.notes:
        print(note)


def sweep_and_print(config: ExperimentConfig, out: Path | None) -> None:
    """Sweep, save the head, print the trials. Ranks other than 0 leave after embedding."""
    from histotune.report.tables import TRIALS_LAYOUT, BestSoFar, trials_table
    from histotune.report.words import choice_lines, chosen_trial
    from histotune.studies.setup import refuse_foreign_folder
    from histotune.studies.stages import embed_only, sweep_only
    from histotune.tools.progress import live_line

    if not process_rank().leads:
        embed_only(config)
        return
    config = config.model_copy(update={"out": out or Path("heads") / config.recipe})
    refuse_foreign_folder(config.out)
    with live_line() as show:
        outcome = sweep_only(config, BestSoFar(show) if sys.stderr.isatty() else None)
    choice = outcome.choice
    _console().print(trials_table(outcome.result.trials, choice.n_groups).as_rich(TRIALS_LAYOUT))
    print(
        f"chosen: {chosen_trial(choice)}, from {choice.n_fits} fits on "
        f"{choice.n_tiles:,} tiles of {choice.n_groups} groups"
    )
    for line in choice_lines(choice):
        print(line)
    print(f"head {choice.head_id} saved: {outcome.folder}")
    print(f"plots: {outcome.folder / 'plots'}; every trial: histotune trials")
    if outcome.tracked:
        print(outcome.tracked)


def evaluate_and_print(head: Path, config: ExperimentConfig) -> None:
    """Score a saved head and print the scores."""
    from histotune.report.tables import SummaryRow, SummaryTable, robustness_lines
    from histotune.studies.stages import evaluate_only

    outcome = evaluate_only(head, config)
    rows = tuple(SummaryRow(arm.domain, arm) for arm in outcome.finding.rows)
    synthetic = SYNTHETIC in rows[0].arm.marks
    _console().print(SummaryTable(outcome.finding.title, synthetic, rows))
    for part in outcome.finding.parts:
        by = tuple(SummaryRow(arm.domain, arm) for arm in part.rows)
        if by:
            _console().print(SummaryTable(f"By {part.column}", synthetic, by))
        if part.note:
            print(f"By {part.column}: {part.note}")
    for table in outcome.finding.robustness:
        for line in robustness_lines(table):
            print(line)
    for note in outcome.finding.notes:
        print(note)
    print(outcome.ledger)


def predict_and_print(head: Path, images: Sequence[Path], out: Path | None, **typed: Any) -> None:  # noqa: ANN401
    """Predict and write or print the table."""
    from histotune.datasets.config import check_on_bad_image
    from histotune.deploy.bundle import load_bundle
    from histotune.deploy.predict import PredictSettings, predict, write_predictions
    from histotune.studies.config import ExperimentConfig, override

    config = override(ExperimentConfig(recipe="predict"), typed.get("settings") or [])
    bad = check_on_bad_image(typed.get("on_bad_image") or "fail")
    cache = typed.get("cache") or config.cache
    given = PredictSettings(config.embedding, config.loader, cache, bad, typed.get("mpp"))
    table = predict(load_bundle(head), images, given)
    if out is None:
        sys.stdout.write(table.write_csv(float_precision=6))
    else:
        write_predictions(table, out)
        print(f"{table.height:,} predictions: {out}")


def report_and_print(
    run_folder: Path, out: Path | None, studies: Sequence[Path] | None = None, latex: Path | None = None
) -> None:
    """Draw a report again from its run folder, with studies added to it; its tables as LaTeX too where asked."""
    from histotune.report.page import write_report
    from histotune.report.run_folder import add_study, load_run
    from histotune.report.study_tables import write_latex

    findings = load_run(run_folder).findings
    for study in studies or ():
        add_study(run_folder, findings, study)
    path = out or run_folder / "report.html"
    inputs = load_run(run_folder)
    write_report(inputs, path)
    print(f"report: {path}")
    if latex is not None:
        write_latex(inputs, latex)
        print(f"tables: {latex}")


def config_and_print(recipe: str, settings: Sequence[str] | None) -> None:
    """Print a recipe's or a run's config as JSON."""
    from histotune.studies.config import load_config, override
    from histotune.studies.recipes import RecipeData, find_recipe, recipe_names
    from histotune.tools.files import canonical_json

    placeholder = Path("DATA")
    if recipe in recipe_names() or recipe.endswith(".py") or not Path(recipe).exists():
        config = find_recipe(recipe)(RecipeData(placeholder, None))
    else:
        config = load_config(Path(recipe))
    print(canonical_json(override(config, settings or []).model_dump(mode="json")))


def doctor_and_print(cache: Path | None, deep: bool) -> None:
    """Print what works on this machine."""
    from histotune.tools.doctor import diagnose, render
    from histotune.tools.files import user_dir

    _console().print(render(diagnose(cache or user_dir("cache"), deep=deep)))


def _check_repeat(config: ExperimentConfig, recipe: str | None) -> None:
    """Refuse a recipe beside --from, and a run folder that would run somebody's Python file unasked."""
    code = next((data.code for data in (config.source, config.target) if data is not None and data.code), None)
    if code is None and recipe is not None:
        raise UserError("--from repeats a run, so no recipe goes with it", value=recipe)
    if code is not None and (recipe is None or Path(recipe).expanduser().absolute() != code.absolute()):
        raise UserError("this run read its data with a Python file, which only runs when you name it", value=code,
                        fix=f"histotune run {code} --from RUN")  # fmt: skip


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def _with_options(config: ExperimentConfig, typed: dict[str, Any]) -> ExperimentConfig:
    """Put the named options into their fields."""
    from histotune.datasets.config import check_on_bad_image
    from histotune.images.config import check_view_name
    from histotune.studies.config import parse_config

    data = config.model_dump(mode="json")
    for name in ("train_magnification", "final", "split", "allow_leaky"):
        if typed.get(name) not in (None, False):
            data["evaluation"][name] = typed[name]
    if typed.get("cluster") is not None:
        data["interval"]["cluster"] = typed["cluster"]
    for dataset in (data["source"], data["target"]):
        if dataset is not None and typed.get("on_bad_image") is not None:
            dataset["on_bad_image"] = check_on_bad_image(typed["on_bad_image"])
    if typed.get("wandb") is not None:
        data["tracking"]["wandb"] = typed["wandb"]
    if typed.get("view") is not None:
        data["view"] = {**(data["view"] or {}), "name": check_view_name(typed["view"])}
    if typed.get("backbone") is not None:
        data["backbone"] = {"name": typed["backbone"]}
    if typed.get("adapter") is not None:
        data["backbone"]["adapter"] = typed["adapter"]
    for name in ("out", "cache"):
        if typed.get(name) is not None:
            data[name] = str(typed[name])
    if typed.get("cache") is not None and data["cohort"] is not None:
        cohort = Path(typed["cache"]) / "synthetic"
        data["cohort_path"] = str(cohort)
        data["source"]["path"], data["target"]["path"] = str(cohort / "breakhis"), str(cohort / "pcam")
    return parse_config(data)


def _print_run(result: RunResult) -> None:
    from histotune.report.tables import summary_table

    console = _console()
    inputs = result.inputs
    for stage in inputs.stages:
        console.print(f"{stage.seconds_s:7.1f} s  {stage.name}", highlight=False)
    console.print(f"{sum(stage.seconds_s for stage in inputs.stages):7.1f} s  in all\n", highlight=False)
    if result.n_computed == 0:
        console.print("all embeddings came from the cache: no forward pass\n")
    console.print(summary_table(inputs.findings))
    console.print(f"\n{inputs.findings.answer}\n", highlight=False)
    for count in inputs.ledger:
        console.print(str(count), highlight=False)
    if result.tracked:
        print(result.tracked)
    print(f"report: {result.folder / 'report.html'}")


def _folder(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser()


def _console() -> Any:  # noqa: ANN401  (rich is imported when something is printed)
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120)
