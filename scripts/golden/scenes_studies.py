"""Whole studies: the demo, BreakHis and an external validation, PatchCamelyon, three tissues, real networks."""

from __future__ import annotations

from . import edits, inputs, models
from .scene import Scene, mistake, step

QUICK = """--set sweep.penalties=[0.01,1] --set sweep.folds=3 --set evaluation.outer_folds=3
--set 'evaluation.floors=["majority","untuned"]' --set interval.n_resamples=200 --set evaluation.untuned_draws=20
--set evaluation.permutations=199 --backbone colour-histogram"""
SMALL_DEMO = """--set cohort.n_groups=8 --set cohort.n_tiles_breakhis=32 --set cohort.n_tiles_pcam=60
--set sweep.folds=2 --set evaluation.outer_folds=2
--set interval.n_resamples=200 --set evaluation.permutations=199"""
TRANSFER = "--set transfer.draws=3 --set transfer.folds=2"
READER = """
from histotune.datasets import ClassScheme, DatasetSpec, Tile

NAMES = ("tumour", "adipose", "stroma")
SPEC = DatasetSpec(name="tiles", title="The same tiles", licence="CC0", citation="Me.", caveats=("Made up.",),
                   schemes=(ClassScheme("tissues", NAMES, {name: name for name in NAMES}, "Another order."),))


def read(config):
    for path in sorted((config.path / "img").glob("*.png")):
        tissue, group, _ = path.stem.split("_")
        group = f"{config.path.name}-{tissue}-{group}"
        yield Tile(path, label=tissue, group=group, mpp=0.5, tile_id=f"img/{path.name}")
"""

DEMO = Scene(
    "demo",
    (
        step("demo", f"demo {SMALL_DEMO}"),
        step("again", f"demo {SMALL_DEMO} --out again"),
        step("report", "report runs/demo --out page.html --latex tables.tex"),
        step("evaluate", "evaluate runs/demo pcam --data home/cache/histotune/synthetic/pcam --final"),
        step("transfer", "transfer runs/demo pcam --data home/cache/histotune/synthetic/pcam --final --no-images "
             f"{TRANSFER}"),
        step("describe", "data describe breakhis --data home/cache/histotune/synthetic/breakhis"),
        step("audit", "data audit pcam --data home/cache/histotune/synthetic/pcam"),
        step("ls", "cache ls"),
        step("trials", "trials --top 6"),
        step("config", "config show runs/demo"),
        step("doctor", "doctor"),
    ),
    seconds_s=60,
)  # fmt: skip
BREAKHIS = Scene(
    "breakhis",
    (
        step("run", f"run breakhis --data breakhis --pcam pcam --train-magnification 100X --out run {QUICK}"),
        step("warm", f"run breakhis --data breakhis --pcam pcam --train-magnification 100X --out warm {QUICK}"),
        step("quiet", "--quiet run --from run --out repeated"),
        step("final", "run --from run --out final --final"),
        step("report", "report run"),
        step("page-and-tables", "report run --out pages/page.html --latex pages/tables.tex"),
        step("predict", "predict run breakhis/BreaKHis_v1/histology_slides/breast/benign"),
        step("predict-table", "predict run/head-direct pcam-images breakhis --out tables/all.csv",
             edits.copy("breakhis/BreaKHis_v1/histology_slides/breast/malignant", "pcam-images")),
        step("predict-parquet", "predict run/head pcam-images --out tables/some.parquet"),
        step("evaluate-own", "evaluate run breakhis --data breakhis"),
        step("evaluate-pcam", "evaluate run/head pcam --data pcam"),
        step("evaluate-pcam-final", "evaluate run/head-direct pcam --data pcam --final --cluster tile"),
        step("transfer", f"transfer run pcam --data pcam --final --out transfer {TRANSFER}"),
        step("transfer-default-folder", f"transfer run pcam --data pcam --no-images {TRANSFER}"),
        step("matrix", f"matrix breakhis --data breakhis --matched --out matrix {QUICK}"),
        step("matrix-split", f"matrix breakhis --data breakhis --split grouped-3-seed1 {QUICK}"),
        step("add", "report run --add transfer --add matrix --latex pages/added.tex"),
        step("add-again", "report run --add transfer --out pages/added.html"),
        step("trials", "trials"),
        step("trials-all", "trials --all --top 5 --dataset breakhis --backbone colour-histogram"),
        step("config", "config show run --set sweep.folds=4"),
        step("ls", "cache ls"),
    ),
    (inputs.breakhis(), inputs.pcam()),
    seconds_s=85,
)  # fmt: skip
PCAM = Scene(
    "pcam",
    (
        step("run", f"run pcam --data pcam --out run {QUICK}"),
        step("final", f"run pcam --data pcam --out final --final {QUICK}"),
        step("final-again", f"run pcam --pcam pcam --out again --final {QUICK}"),
        step("named-split", f"run pcam --data pcam --out named --split pcam-official {QUICK}"),
        step("few-tiles", f"run pcam --data pcam --out few {QUICK} --set target.max_tiles_per_split=20"),
        step("sweep", f"sweep pcam --data pcam --out head {QUICK}"),
        step("evaluate", "evaluate head pcam --data pcam --final"),
        step("kaggle", f"run pcam --data kaggle --out kaggle-run {QUICK}"),
        step("kaggle-tiles", "evaluate kaggle-run pcam --data kaggle --cluster tile"),
        step("hub", f"run pcam --data hub --out hub-run {QUICK}"),
        step("hub-describe", "data describe pcam --data hub"),
        step("kaggle-describe", "data describe pcam --data kaggle"),
        step("kaggle-slides", "data describe pcam --data kaggle --set source.slides_from=pcam"),
    ),
    (inputs.pcam(), inputs.kaggle_pcam(), inputs.hub_pcam()),
    seconds_s=31,
)  # fmt: skip
TISSUES = Scene(
    "tissues",
    (
        step("run", f"run tiles --data home-lab/tiles.csv --out run {QUICK}"),
        step("evaluate", "evaluate run tiles --data abroad/tiles.csv"),
        step("predict", "predict run abroad/img --out table.csv"),
        step("transfer", f"transfer run tiles --data abroad/tiles.csv --out transfer {TRANSFER} "
             "--set transfer.stain=reinhard"),
        step("transfer-reader", f"transfer run reader.py --data abroad --out other-order --no-images {TRANSFER}",
             edits.text("reader.py", READER)),
        step("add", "report run --add transfer --latex tables.tex"),
        step("reader", f"run reader.py --data home-lab --out reader-run {QUICK}"),
        step("reader-again", "run reader.py --from reader-run --out reader-again"),
        step("reader-describe", "data describe reader.py --data home-lab"),
        step("subset", f"run tiles --data home-lab/tiles.csv --out subset {QUICK} "
             """--set 'source.subset.classes=["stroma","tumour"]' --set source.subset.group_fraction=0.75"""),
        step("balanced-vector", f"sweep tiles --data home-lab/tiles.csv --out vector {QUICK} "
             """--set 'sweep.class_weights=["none","balanced"]' --set sweep.calibration=vector"""),
        step("sgd", f"sweep tiles --data home-lab/tiles.csv --out sgd {QUICK} --set sweep.family=sgd "
             "--set sweep.sgd.n_trials=3 --set sweep.sgd.base.epochs=4 --set sweep.sgd.base.batch_size=16"),
        step("ridge", f"sweep tiles --data home-lab/tiles.csv --out ridge {QUICK} --set sweep.family=ridge"),
    ),
    (inputs.tissues("home-lab", 1), inputs.tissues("abroad", 2)),
    seconds_s=45,
)  # fmt: skip
FOLDERS = Scene(
    "folders",
    (
        step("run", f"run tiles --data folders --out run {QUICK}"),
        step("tile-cluster", f"run tiles --data folders --out asked --cluster tile {QUICK}"),
        step("pattern", f"run tiles --data folders --out groups {QUICK} "
             "--set 'source.group_pattern=^(?P<group>[^_]+)_'"),
        step("positive", f"sweep tiles --data folders --out head {QUICK} --set source.positive_class=benign"),
        step("skip", f"run tiles --data folders --out skipped --on-bad-image skip {QUICK} "
             "--set 'source.group_pattern=^(?P<group>[^_]+)_'",
             edits.cut("folders/benign/b0_1.png", -300), edits.text("folders/malignant/m1_4.png", "")),
        step("predict-skip", "predict groups folders/benign --on-bad-image skip"),
        step("evaluate-skip", "evaluate groups tiles --data folders --on-bad-image skip"),
    ),
    (inputs.class_folders(),),
    seconds_s=17,
)  # fmt: skip
LITE0 = Scene(
    "lite0",
    (
        step("run", "run breakhis --data breakhis --train-magnification 100X --out run --set sweep.folds=3 "
             "--set evaluation.outer_folds=3 --set interval.n_resamples=200 --set evaluation.permutations=199"),
        step("warm", "run --from run --out warm"),
        step("predict", "predict run breakhis/BreaKHis_v1/histology_slides/breast/benign --out table.csv"),
        step("estimate-warm", "embed breakhis --data breakhis --estimate"),
        step("audit", "data audit breakhis --data breakhis --embeddings"),
    ),
    (inputs.breakhis(n_tiles=1),),
    seconds_s=25,
)  # fmt: skip
NETWORKS = Scene(
    "networks",
    (
        step("run", "run breakhis --data breakhis --train-magnification 100X --out run --backbone dinov2 "
             "--set view.size_px=56 --set sweep.folds=3 --set evaluation.outer_folds=3 "
             """--set 'sweep.poolings=[["cls"],["cls","patch_mean"]]' --set interval.n_resamples=200 """
             """--set 'evaluation.floors=["majority","random-weights"]' --set evaluation.permutations=99"""),
        step("predict", "predict run breakhis"),
        step("embed-adapter", "embed breakhis --data breakhis --backbone dinov2 --adapter adapter"),
        step("sweep-adapter", "sweep breakhis --data breakhis --backbone dinov2 --adapter adapter --out head "
             "--set sweep.folds=3 --set sweep.penalties=[0.1,1]"),
        step("predict-adapter", "predict head breakhis/BreaKHis_v1/histology_slides/breast/malignant"),
        step("registers-bf16", "embed breakhis --data breakhis --backbone registers --set embedding.precision=bf16"),
        step("embed-timm", "embed breakhis --data breakhis --backbone vit"),
        mistake("no-adapter", "embed breakhis --data breakhis --backbone dinov2 --adapter nowhere"),
        mistake("changed-weights", "embed breakhis --data breakhis --backbone cut", edits.copy("dinov2", "cut"),
                edits.cut("cut/model.safetensors", -64)),
        step("describe", "data describe breakhis --data breakhis --backbone dinov2"),
        step("ls", "cache ls"),
        step("export", "cache export registers --out features.npz"),
    ),
    (inputs.breakhis(n_tiles=1), models.dinov2(), models.dinov2("registers", n_registers=4), models.adapter(),
     models.timm_vit()),
    seconds_s=75,
)  # fmt: skip
SCENES = (DEMO, BREAKHIS, PCAM, TISSUES, FOLDERS, LITE0, NETWORKS)
