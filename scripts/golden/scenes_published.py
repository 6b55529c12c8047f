"""Published protocols repeated, and the published scores beside them."""

from __future__ import annotations

from . import inputs
from .scene import Scene, mistake, step

HISTOGRAM = "--backbone colour-histogram"
EVA = "--set protocol.max_steps=40 --set protocol.runs=3 --set protocol.lr=0.1"
THUNDER = "--set protocol.epochs=3 --set protocol.draws=5 --set protocol.shots=[1]"
UNI = "--set protocol.draws=5 --set protocol.shots=[1,2]"

ON_BREAKHIS = Scene(
    "protocols-breakhis",
    (
        step("eva", f"run eva-breakhis --data breakhis {HISTOGRAM} --out eva {EVA}"),
        step("eva-from", "run --from eva --out eva-again"),
        step("thunder-final", f"run thunder-breakhis --data breakhis {HISTOGRAM} --out thunder-final --final "
             f"{THUNDER}"),
        step("uni", f"run uni-breakhis --data breakhis {HISTOGRAM} --out uni {UNI} --final"),
        mistake("leaderboard-of-other-protocols", "leaderboard --run thunder-final --run eva"),
        step("compare", "compare thunder-final uni --permutations 99 --out comparison"),
        step("run-eva", f"run breakhis --data breakhis {HISTOGRAM} --split eva --allow-leaky --out own "
             "--train-magnification 40X --set source.labels=eva4 --set sweep.folds=3 "
             "--set 'evaluation.floors=[\"majority\",\"untuned\"]' --set interval.n_resamples=200 "
             "--set sweep.penalties=[0.1,1]"),
        step("split-eva", "data split breakhis --data breakhis --split eva --allow-leaky --out eva.json "
             "--set source.labels=eva4"),
        step("split-thunder", "data split breakhis --data breakhis --split thunder --allow-leaky"),
        step("audit-eva", "data audit breakhis --data breakhis --split eva --quick --out audit-eva", code=1),
        step("all8", "data describe breakhis --data breakhis --set source.labels=all8"),
    ),
    (inputs.published_breakhis(),),
    seconds_s=36,
)  # fmt: skip
ON_PCAM = Scene(
    "protocols-pcam",
    (
        step("eva", f"run eva-pcam --data pcam {HISTOGRAM} --out eva --final {EVA}"),
        step("eva-10shot", f"run eva-pcam-10shot --data pcam {HISTOGRAM} --out shots --final "
             "--set protocol.runs=2 --set protocol.max_steps=30"),
        step("thunder", f"run thunder-pcam --data pcam {HISTOGRAM} --out thunder --final {THUNDER}"),
        step("uni", f"run uni-pcam --data pcam {HISTOGRAM} --out uni --final {UNI}"),
        step("thunder-tuning", f"run thunder-pcam --data pcam {HISTOGRAM} --out tuning {THUNDER}"),
        step("compare", "compare thunder uni --permutations 99"),
        step("trials", "trials"),
    ),
    (inputs.pcam(),),
    seconds_s=31,
)  # fmt: skip
WHOLE = Scene(
    "protocol-whole",
    (
        step("thunder", f"run thunder-breakhis --data breakhis {HISTOGRAM} --out thunder --final "
             "--set protocol.epochs=2 --set protocol.shots=[1] --set protocol.draws=5"),
        step("leaderboard", "leaderboard --run thunder"),
        step("leaderboard-knn", "leaderboard --run thunder --protocol thunder-knn"),
        step("leaderboard-csv", "leaderboard --run thunder --format csv"),
        step("leaderboard-file", "leaderboard --run thunder --out board.md"),
        mistake("leaderboard-other", "leaderboard --run thunder --protocol eva"),
    ),
    (inputs.published_breakhis(most_per_patient=1000, size=(8, 12)),),
    seconds_s=14,
)  # fmt: skip
LEADERBOARD = Scene(
    "leaderboard",
    (
        step("overview", "leaderboard"),
        step("eva", "leaderboard --dataset BreakHis --protocol eva"),
        step("pcam", "leaderboard --dataset PCam"),
        step("model", "leaderboard --model midnight"),
        step("markdown", "leaderboard --dataset BreakHis --format markdown"),
        step("csv", "leaderboard --protocol thunder-linear --format csv"),
        step("latex", "leaderboard --protocol thunder-knn --format latex"),
        step("by-ending", "leaderboard --protocol eva --out board.tex"),
        step("narrow", "leaderboard --dataset BreakHis --split test --metric macro_f1"),
        mistake("nothing-left", "leaderboard --dataset BreakHis --split test --metric macro_f1 --pooling CLS"),
    ),
    seconds_s=7,
)  # fmt: skip
SCENES = (ON_BREAKHIS, ON_PCAM, WHOLE, LEADERBOARD)
