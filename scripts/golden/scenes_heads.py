"""Heads and their choice: families, rules, calibration, thresholds, intervals, label efficiency, runs compared."""

from __future__ import annotations

from . import inputs
from .scene import Scene, step
from .scenes_studies import QUICK

RUN = "run breakhis --data breakhis --train-magnification 100X"
SITED = f"--data sited/tiles.csv {QUICK}"
SGD = """--set sweep.family=sgd --set sweep.sgd.n_trials=4 --set sweep.sgd.base.epochs=5
--set sweep.sgd.base.batch_size=16"""

FAMILIES = Scene(
    "families",
    (
        step("logistic", f"{RUN} --out logistic {QUICK}"),
        step("ridge", f"{RUN} --out ridge {QUICK} "
             "--set sweep.family=ridge"),
        step("sgd", f"{RUN} --out sgd {QUICK} {SGD}"),
        step("compare", "compare logistic ridge sgd --out comparison --permutations 199"),
        step("compare-first", "compare logistic ridge sgd --first --metric accuracy --metric auroc --permutations 99"),
        step("compare-pair", "compare logistic ridge --pair logistic,ridge --seed 3 --permutations 99"),
        step("predict-sgd", "predict sgd breakhis/BreaKHis_v1/histology_slides/breast/benign"),
        step("evaluate-ridge", "evaluate ridge breakhis --data breakhis"),
        step("trials", "trials --all --top 8"),
    ),
    (inputs.breakhis(),),
    seconds_s=30,
)  # fmt: skip
SEARCHES = Scene(
    "searches",
    (
        step("grid", f"sweep tiles {SITED} --out grid {SGD} --set sweep.sgd.method=grid "
             """--set 'sweep.sgd.space={"lr":{"kind":"choice","values":[0.01,0.1]},"""
             """"optimizer":{"kind":"choice","values":["SGD","Adam"]}}'"""),
        step("random", f"sweep tiles {SITED} --out random {SGD} --set sweep.sgd.method=random "
             """--set sweep.sgd.base.hidden_units=4 --set sweep.sgd.stopping.monitor=auroc """
             """--set sweep.sgd.stopping.patience=2"""),
        step("schedule", f"sweep tiles {SITED} --out schedule {SGD} "
             """--set 'sweep.sgd.base.schedule=[{"kind":"warmup","length":2},{"kind":"cosine"}]' """
             """--set sweep.sgd.base.one_logit=true --set sweep.sgd.base.label_smoothing=0.1"""),
        step("named", f"sweep tiles {SITED} --out named --set sweep.family=sgd --set sweep.sgd=common-wandb "
             "--set sweep.sgd.n_trials=2 --set sweep.sgd.base.epochs=2"),
        step("one-se", f"sweep tiles {SITED} --out one-se --set sweep.selection_rule=one-se "
             """--set 'sweep.class_weights=["none","balanced"]' --set sweep.threshold=youden"""),
        step("nested", f"sweep tiles {SITED} --out nested --set sweep.honesty=nested --set sweep.calibration=none "
             "--set sweep.threshold=sensitivity --set sweep.sensitivity=0.9"),
        step("growth", f"sweep tiles {SITED} --out growth --set sweep.label_efficiency.draws=2 "
             "--set 'sweep.label_efficiency.sizes=[6,12]'"),
        step("no-honesty", f"sweep tiles {SITED} --out plain --set sweep.honesty=none "
             """--set 'sweep.threshold="0.5"'"""),
        step("evaluate", "evaluate one-se tiles --data sited/tiles.csv"),
        step("trials", "trials --top 12"),
        step("wandb", f"sweep tiles {SITED} --out tracked --wandb"),
    ),
    (inputs.sited_tiles(),),
    seconds_s=33,
)  # fmt: skip
CHOICES = Scene(
    "choices",
    (
        step("sites", f"run tiles {SITED} --out sites --set evaluation.robustness_k=5"),
        step("repeats", f"run tiles {SITED} --out repeats --set evaluation.repeats=2 "
             "--set sweep.label_efficiency.draws=2 --set evaluation.embedding_map=tsne"),
        step("max", f"run tiles {SITED} --out max --set evaluation.aggregation=max --set evaluation.leak_price=false "
             "--set evaluation.embedding_map=none --set evaluation.robustness_k=0"),
        step("no-units", f"run tiles {SITED} --out tiles-alone --set evaluation.aggregation=none "
             "--set evaluation.permutations=0 --set evaluation.leak_null_draws=0"),
        *(step(method, f"evaluate sites tiles --data sited/tiles.csv --set interval.method={method} "
               "--set interval.level=0.9 --set interval.n_resamples=200")
          for method in ("percentile", "bca", "studentised", "jackknife-t", "skewed-t", "resampled-t", "obuchowski-t")),
        step("evaluate", "evaluate sites tiles --data sited/tiles.csv"),
        step("report", "report repeats --latex tables.tex"),
        step("compare", "compare sites max --permutations 99 --out comparison"),
    ),
    (inputs.sited_tiles(),),
    seconds_s=36,
)  # fmt: skip
VIEWS = Scene(
    "views",
    (
        step("tiles", f"{RUN} --out tiles {QUICK} --view tiles "
             "--set view.target_mpp=0.2"),
        step("moved-label", f"run breakhis --data breakhis --pcam pcam --train-magnification 100X --out moved {QUICK} "
             "--view tiles --set view.target_mpp=0.3 --set view.allow_moved_label=true"),
        step("letterbox", f"sweep breakhis --data breakhis --train-magnification 400X --out letterbox {QUICK} "
             "--view letterbox --set view.size_px=64 --set 'view.pad_rgb=[240,230,240]'"),
        step("square", f"sweep breakhis --data breakhis --train-magnification 400X --out square {QUICK} "
             "--view square --set view.interpolation=bilinear"),
        step("predict-mpp", "predict tiles breakhis/BreaKHis_v1/histology_slides/breast/benign --mpp 0.25"),
        step("evaluate-moved", "evaluate tiles pcam --data pcam --set view.allow_moved_label=true"),
        step("own-mpp", f"{RUN} --out own {QUICK} "
             """--set 'source.mpp_by_magnification={"40X":2,"100X":1,"200X":0.5,"400X":0.3}' """
             "--set source.mpp_factor=1.2"),
        step("nominal", "data describe breakhis --data breakhis --set source.mpp_source=nominal"),
        step("transfer-scaled", "transfer tiles breakhis --data breakhis --out again --set transfer.draws=2 "
             "--set transfer.folds=2"),
        step("ls", "cache ls"),
    ),
    (inputs.breakhis(), inputs.pcam(n_per_part=20)),
    seconds_s=34,
)  # fmt: skip
SCENES = (FAMILIES, SEARCHES, CHOICES, VIEWS)
