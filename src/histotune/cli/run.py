"""What the commands do with what the user typed: build a config, call the library, print the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histotune.cli.ending import print_run, print_sweep, print_table
from histotune.cli.options import (
    Adapter,
    AllowLeaky,
    BackboneName,
    Cache,
    Classes,
    Cluster,
    Data,
    DatasetArgument,
    EstimateTuning,
    Final,
    Fit,
    Fraction,
    FromRun,
    Magnification,
    Method,
    OnBadImage,
    Out,
    OuterFolds,
    Pcam,
    RecipeName,
    SetField,
    SplitName,
    View,
    Wandb,
)
from histotune.tools.atomic import bring_back
from histotune.tools.files import readable_bytes
from histotune.tools.marks import SYNTHETIC
from histotune.tools.progress import time_words
from histotune.tools.ranks import process_rank
from histotune.tools.streams import one_line
from histotune.tools.table import console

if TYPE_CHECKING:
    from histotune.studies.config import ExperimentConfig
    from histotune.studies.protocol import ProtocolOutcome


def demo(
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Also fine-tune the backbone's last stage: up to 3 minutes more.")
    ] = False,
) -> None:
    """The main job on synthetic tissue: audit, embed, sweep, score, report. No download, no GPU, under 3 minutes.

    Example: histotune demo --out runs/demo
    """
    from histotune.studies.arguments import build_config
    from histotune.studies.config import override
    from histotune.studies.recipes import with_quick_finetune

    config = build_config("demo", out=out, cache=cache)
    _run(override(with_quick_finetune(config) if finetune else config, settings or []))


def run(
    recipe: RecipeName = None,
    data: Data = None,
    pcam: Pcam = None,
    train_magnification: Magnification = None,
    backbone: BackboneName = None,
    adapter: Adapter = None,
    view: View = None,
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    split: SplitName = None,
    allow_leaky: AllowLeaky = False,
    classes: Classes = None,
    final: Final = False,
    fraction: Fraction = None,
    cluster: Cluster = None,
    on_bad_image: OnBadImage = None,
    from_run: FromRun = None,
    wandb: Wandb = None,
) -> None:
    """Run a whole experiment and write its report.

    Example: histotune run --from runs/breakhis --out runs/again

    Example: histotune run midnight --data data/breakhis --pcam data/pcam --train-magnification 40X
    """
    from histotune.studies.arguments import build_config

    _run(
        build_config(
            recipe,
            data=data,
            pcam=pcam,
            train_magnification=train_magnification,
            backbone=backbone,
            adapter=adapter,
            view=view,
            out=out,
            cache=cache,
            settings=settings,
            split=split,
            allow_leaky=allow_leaky,
            classes=classes,
            final=final,
            fraction=fraction,
            cluster=cluster,
            on_bad_image=on_bad_image,
            from_run=from_run,
            wandb=wandb,
        )
    )


def _run(config: ExperimentConfig) -> None:
    """Run an experiment or a published protocol; print what was found. Ranks other than 0 leave after embedding."""
    from histotune.studies import verbs
    from histotune.studies.protocol import ProtocolOutcome

    if not process_rank().leads:
        _embed_alone(config)
        return
    result = verbs.run(config)
    if isinstance(result, ProtocolOutcome):
        _print_protocol(result)
    else:
        print_run(result, config)


def finetune(
    dataset: DatasetArgument,
    data: Data = None,
    backbone: BackboneName = None,
    method: Method = None,
    pcam: Pcam = None,
    train_magnification: Magnification = None,
    view: View = None,
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    split: SplitName = None,
    outer: OuterFolds = None,
    fraction: Fraction = None,
    classes: Classes = None,
    final: Final = False,
    on_bad_image: OnBadImage = None,
    fit: Fit = None,
    estimate: EstimateTuning = False,
) -> None:
    """Fine-tune a backbone from its probe on, and say whether that helped.

    Example: histotune finetune breakhis --data data/breakhis --train-magnification 100X --estimate

    Example: histotune finetune breakhis --data data/breakhis --backbone midnight --method lora --out runs/lora
    """
    from histotune.studies.arguments import build_config
    from histotune.studies.config import override
    from histotune.studies.recipes import with_finetuning

    config = build_config(
        dataset,
        data=data,
        backbone=backbone,
        method=method,
        pcam=pcam,
        train_magnification=train_magnification,
        view=view,
        out=out,
        cache=cache,
        split=split,
        outer=outer,
        fraction=fraction,
        classes=classes,
        final=final,
        on_bad_image=on_bad_image,
    )
    fields = [*(settings or ()), *([] if fit is None else [f"finetune.fit={fit}"])]
    config = override(with_finetuning(config), fields)
    if estimate:
        _print_tuning_estimate(config)
    else:
        _run(config)


def _print_tuning_estimate(config: ExperimentConfig) -> None:
    """Time a few steps and say what the fine-tuning will take."""
    from histotune.studies.tuning_estimate import estimate_finetuning

    if not process_rank().leads:
        return
    for table in estimate_finetuning(config).tables():
        print_table(table)
        print()


def embed(
    dataset: DatasetArgument,
    data: Data = None,
    backbone: BackboneName = None,
    adapter: Adapter = None,
    view: View = None,
    cache: Cache = None,
    settings: SetField = None,
    on_bad_image: OnBadImage = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only time a few batches: hours and GB.")] = False,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Read every image again, even where path, size and times are known.")
    ] = False,
) -> None:
    """Embed every tile once with a frozen backbone; the second time nothing is computed.

    Example: histotune embed breakhis --data data/breakhis --backbone midnight --estimate
    """
    from histotune.studies.arguments import build_config

    config = build_config(
        dataset,
        data=data,
        backbone=backbone,
        adapter=adapter,
        view=view,
        cache=cache,
        settings=[*(settings or ()), *(["loader.rehash=true"] if rehash else [])],
        on_bad_image=on_bad_image,
    )
    from histotune.studies import verbs

    if estimate:
        _print_estimate(config)
        return
    material = verbs.embed(config).material
    if not process_rank().leads:
        return
    computed, total = material.embeddings.n_computed, len(material.tiles)
    blocks = ", ".join(f"{block.name} {block.stop - block.start}" for block in material.embeddings.blocks)
    space = material.embeddings.space
    print(f"{material.tiles.name}: {total:,} tiles, {computed:,} computed, {total - computed:,} from the cache")
    print(f"kept for {space.backbone} ({space.precision}): columns {blocks}; space {space.key[:16]}")
    if computed == 0:
        print("no forward pass was needed")
    for note in material.embeddings.notes:
        print(one_line(note))


def _print_estimate(config: ExperimentConfig) -> None:
    """Time a few batches and say what embedding the data set will take."""
    from histotune.studies.stages import estimate_only

    if not process_rank().leads:
        return
    found = estimate_only(config)
    print(
        f"{found.n_tiles:,} tiles: {found.n_cached:,} embedded already, {found.n_missing:,} to compute "
        f"({found.precision} on {found.device})"
    )
    for stage in found.stages:
        limits = "  <- the limit" if stage == found.limit else ""
        print(f"  {stage.name:16} {stage.images_per_s:10,.1f} images/s on its own{limits}")
    if found.n_missing:
        fastest, slowest = (found.batch_size / seconds for seconds in (min(found.batches_s), max(found.batches_s)))
        low, high = found.hours_between
        print(
            f"  {'all together':16} {found.images_per_s:10,.1f} images/s ({slowest:,.1f} to {fastest:,.1f} over "
            f"{len(found.batches_s)} batches of {found.batch_size})"
        )
        print(
            f"about {time_words(found.hours)} ({time_words(low)} to {time_words(high)}), "
            f"{readable_bytes(found.storage_bytes)} of embeddings"
        )
    if found.download_bytes:
        print(f"about {readable_bytes(found.download_bytes)} of weights to download first")
    for note in found.notes:
        print(note)


def sweep(
    dataset: DatasetArgument,
    data: Data = None,
    train_magnification: Magnification = None,
    backbone: BackboneName = None,
    adapter: Adapter = None,
    view: View = None,
    out: Out = None,
    cache: Cache = None,
    settings: SetField = None,
    on_bad_image: OnBadImage = None,
    split: SplitName = None,
    wandb: Wandb = None,
) -> None:
    """Choose a head by grouped cross-validation over the training groups (BreakHis: cases) and save it.

    Example: histotune sweep breakhis --data data/breakhis --train-magnification 100X --out heads/breakhis
    """
    from histotune.studies.arguments import build_config

    config = build_config(
        dataset,
        data=data,
        train_magnification=train_magnification,
        backbone=backbone,
        adapter=adapter,
        view=view,
        out=out,
        cache=cache,
        settings=settings,
        on_bad_image=on_bad_image,
        split=split,
        wandb=wandb,
    )
    from histotune.report.tables import BestSoFar
    from histotune.studies import verbs
    from histotune.tools.progress import is_watched, live_line

    if not process_rank().leads:
        verbs.embed(config)
        return
    with live_line() as show:
        outcome = verbs.sweep(config, out=out, watch=BestSoFar(show) if is_watched() else None)
    print_sweep(outcome)


def evaluate(
    head: Annotated[Path, typer.Argument(help="Head folder, or a run folder.")],
    dataset: DatasetArgument,
    data: Data = None,
    cache: Cache = None,
    settings: SetField = None,
    classes: Classes = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen", help="Leave out tiles that trained the head, and tiles of such groups.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Table of the predictions to write: .csv, .tsv, .parquet, .xlsx."),
    ] = None,
    final: Final = False,
    cluster: Cluster = None,
    on_bad_image: OnBadImage = None,
) -> None:
    """Score a saved head on a data set; tiles and groups that trained it are found, and their rows marked.

    Example: histotune evaluate runs/breakhis pcam --data data/pcam --out predictions.parquet
    """
    from histotune.studies.arguments import build_config

    config = build_config(
        dataset,
        data=data,
        cache=cache,
        settings=settings,
        classes=classes,
        final=final,
        cluster=cluster,
        on_bad_image=on_bad_image,
    )
    from histotune.report.decision_tables import decision_tables
    from histotune.report.tables import SummaryRow, SummaryTable, robustness_lines
    from histotune.studies import verbs

    outcome = verbs.evaluate(head, config, exclude_seen=exclude_seen, out=out)
    rows = tuple(SummaryRow(arm.domain, arm) for arm in outcome.finding.rows)
    synthetic = SYNTHETIC in rows[0].arm.marks
    console().print(SummaryTable(outcome.finding.title, synthetic, rows))
    for decided in decision_tables(outcome.finding):
        print_table(decided)
    for part in outcome.finding.parts:
        by = tuple(SummaryRow(arm.domain, arm) for arm in part.rows)
        if by:
            console().print(SummaryTable(f"By {part.column}", synthetic, by))
        if part.note:
            print(one_line(f"By {part.column}: {part.note}"))
    for table in outcome.finding.robustness:
        for line in robustness_lines(table):
            print(one_line(line))
    for note in outcome.finding.notes:
        print(one_line(note))
    print(one_line(str(outcome.ledger)))
    if out is not None:
        print(f"{outcome.table.height:,} predictions: {out}")


def show(
    recipe: Annotated[str, typer.Argument(help="demo, breakhis, pcam, midnight, or a run folder.")],
    settings: SetField = None,
) -> None:
    """Print every field of a recipe's config; each can be changed with --set.

    Example: histotune config show breakhis --set sweep.folds=3
    """
    from histotune.studies.config import load_config, override
    from histotune.studies.recipes import RecipeData, find_recipe, recipe_names
    from histotune.tools.files import canonical_json

    placeholder = Path("DATA")
    bring_back(Path(recipe))
    if recipe in recipe_names() or recipe.endswith(".py") or not Path(recipe).exists():
        config = find_recipe(recipe)(RecipeData(placeholder, None))
    else:
        config = load_config(Path(recipe))
    print(canonical_json(override(config, settings or []).model_dump(mode="json")))


def _embed_alone(config: ExperimentConfig) -> None:
    """Take part in the embedding of a run, as a rank that does not lead."""
    from histotune.studies.experiment import embed_experiment
    from histotune.studies.protocol import set_up_protocol
    from histotune.studies.setup import set_up_experiment
    from histotune.tools.progress import Stopwatch

    watch = Stopwatch()
    if config.protocol is None:
        embed_experiment(set_up_experiment(config, watch), watch)
    else:
        set_up_protocol(config).embed()


def _print_protocol(outcome: ProtocolOutcome) -> None:
    """Print a protocol's table and what weakens it."""
    from histotune.report.tables import ProtocolTable

    console().print(ProtocolTable(outcome.study))
    print(f"\n{one_line(str(outcome.ledger))}\nsaved: {outcome.folder}")
