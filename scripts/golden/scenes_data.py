"""Data sets looked at: described, audited, split, compared, measured, described for machines."""

from __future__ import annotations

from . import edits, inputs
from .scene import Scene, step
from .scenes_studies import QUICK

RUN = "run breakhis --data breakhis --train-magnification 100X"
BENIGN = "breakhis/BreaKHis_v1/histology_slides/breast/benign/SOB/adenosis"
MALIGNANT = "breakhis/BreaKHis_v1/histology_slides/breast/malignant/SOB/ductal_carcinoma"

AUDITS = Scene(
    "audits",
    (
        step("describe", "data describe breakhis --data breakhis"),
        step("describe-midnight", "data describe breakhis --data breakhis --backbone midnight"),
        step("describe-pcam", "data describe pcam --data pcam"),
        step("describe-table", "data describe tiles --data sited/tiles.csv"),
        step("audit", "data audit breakhis --data breakhis"),
        step("audit-quick", "data audit pcam --data pcam --quick --out quick"),
        step("audit-pcam", "data audit pcam --data pcam --out pcam-audit"),
        step("audit-table", "data audit tiles --data sited/tiles.csv --out sited-audit", code=2),
        step("audit-table-quick", "data audit tiles --data sited/tiles.csv --out sited-quick --quick"),
        step("audit-folders", "data audit tiles --data folders --out folders-audit "
             "--set 'source.group_pattern=^(?P<group>[^_]+)_'"),
        step("audit-split", "data audit breakhis --data breakhis --split random-images-5-seed0 --out leaky", code=1),
        step("croissant", "data croissant breakhis --data breakhis --out meta/breakhis.json"),
        step("croissant-pcam", "data croissant pcam --data pcam --out pcam.json"),
        step("croissant-tiles", "data croissant tiles --data sited/tiles.csv --out sited.json"),
        step("diff-same", "data diff breakhis breakhis newer", edits.copy("breakhis", "newer")),
        step("diff", "data diff breakhis breakhis newer",
             edits.copy(f"{MALIGNANT}/SOB_M_DC_14-1500/100X/SOB_M_DC-14-1500-100-001.png",
                        f"{BENIGN.replace('breakhis', 'newer', 1)}/SOB_B_A_14-1001/100X/SOB_B_A-14-1001-100-009.png"),
             edits.copy(f"{MALIGNANT}/SOB_M_DC_14-1500/100X/SOB_M_DC-14-1500-100-002.png",
                        f"{BENIGN.replace('breakhis', 'newer', 1)}/SOB_B_A_14-1001/100X/SOB_B_A-14-1001-100-001.png"),
             edits.remove(f"{MALIGNANT.replace('breakhis', 'newer', 1)}/SOB_M_DC_14-1502/400X/*-400-001.png")),
        step("duplicates", "data audit breakhis --data newer --out newer-audit"),
        step("damaged", "data audit breakhis --data newer --out damaged-audit",
             edits.cut("newer/**/*-1003-100-001.png", 1500), edits.text("newer/SOB_B_A-14-1009-100-001.png", ""),
             code=1),
        step("diff-tables", "data diff tiles sited/tiles.csv later.csv",
             edits.copy("sited/tiles.csv", "sited/later.csv"), code=2),
        step("diff-tables-there", "data diff tiles sited/tiles.csv sited/later.csv",
             edits.replace("sited/later.csv", "tumor", "normal")),
    ),
    (inputs.breakhis(), inputs.pcam(n_per_part=20), inputs.sited_tiles(), inputs.class_folders()),
    seconds_s=37,
)  # fmt: skip
SPLITS = Scene(
    "splits",
    (
        step("grouped", "data split breakhis --data breakhis --split grouped-3-seed1 --out split.json"),
        step("checked", "data split breakhis --data breakhis --split split.json"),
        step("holdout", "data split breakhis --data breakhis --split holdout-34-seed0 --out holdout.json"),
        step("random", "data split breakhis --data breakhis --split random-images-3-seed0 --allow-leaky "
             "--out leaky.json"),
        step("authors", "data split breakhis --data breakhis --split authors-5:folds"),
        step("authors-fold", "data split breakhis --data breakhis --split authors-5/fold2:folds --out authors.json"),
        step("official", "data split pcam --data pcam --split pcam-official --out official.json"),
        step("tiles", "data split tiles --data sited/tiles.csv --split grouped-4-seed2"),
        step("run-file", f"{RUN} --split split.json --out run {QUICK}"),
        step("run-named", f"{RUN} --split grouped-3-seed1 --out named "
             f"{QUICK}"),
        step("run-leaky", f"{RUN} --split leaky.json --out leaky-run "
             f"--allow-leaky {QUICK}"),
        step("run-holdout", f"{RUN} --split holdout.json --final "
             f"--out held {QUICK}"),
        step("run-from", "run --from held --out again"),
        step("sweep-part", f"sweep breakhis --data breakhis --split holdout-34-seed0 --out head {QUICK}"),
        step("evaluate-part", "evaluate head breakhis --data breakhis --final --set evaluation.split=holdout-34-seed0"),
        step("transfer-part", "transfer held breakhis --data breakhis --out transfer --no-images "
             "--set transfer.draws=2 --set transfer.folds=2"),
        step("trials", "trials --all --top 3"),
    ),
    (inputs.breakhis(), inputs.pcam(n_per_part=20), inputs.sited_tiles(), inputs.authors_folds()),
    seconds_s=36,
)  # fmt: skip
SCALE = Scene(
    "scale",
    (
        step("measured", "data estimate-mpp breakhis --data drawn --out scale/found.json"),
        step("own-ruler", "data estimate-mpp breakhis --data drawn --nucleus-um 8"),
        step("other-tissue", "data estimate-mpp breakhis --data drawn --tissue lymph-node --max-tiles 2"),
        step("no-nuclei", "data estimate-mpp breakhis --data breakhis --max-tiles 8"),
        step("pcam", "data estimate-mpp pcam --data pcam --max-tiles 10"),
        step("describe", "data describe breakhis --data drawn"),
        step("describe-adopted", """data describe breakhis --data drawn --set source.mpp_factor=1.3
             --set 'source.mpp_by_magnification={"40X":3,"100X":1.2,"200X":0.6,"400X":0.3}'"""),
    ),
    (inputs.nuclei(), inputs.breakhis(n_cases=2), inputs.pcam(n_per_part=10)),
    seconds_s=13,
)  # fmt: skip
SCENES = (AUDITS, SPLITS, SCALE)
