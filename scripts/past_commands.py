"""What ``scripts/write_past.py`` runs: the command lines whose files are kept, and those that read them."""

from __future__ import annotations

from past_inputs import ADAPTER, BACKBONE, BREAKHIS, PCAM, PLACES, TABLE

FORMAT_1, FORMAT_2 = "530005b", "0a66d6c"
"""Commits that wrote heads of format 1 and 2; the first of them wrote manifests without a checksum, too."""
RECORDED = "recorded"

ON_CPU = ("--set", "embedding.device=cpu")
EXACT = (*ON_CPU, "--set", "embedding.precision=fp32")
KEPT = ("--cache", "cache", "--set", "ledger=state/histotune")
SWEEP = ("--set", "sweep.folds=2", "--set", "sweep.penalties=[0.01,1]")
STUDY = (
    *SWEEP, "--set", "evaluation.outer_folds=3", "--set", "interval.n_resamples=100",
    "--set", "evaluation.untuned_draws=10", "--set", "evaluation.leak_null_draws=1",
    "--set", "evaluation.permutations=99", "--set", "evaluation.robustness_k=3",
)  # fmt: skip
QUICK = ("--first", "--metric", "auroc", "--permutations", "99")
LEAN = (
    *SWEEP, "--set", "evaluation.outer_folds=3", "--set", "interval.n_resamples=100",
    "--set", 'evaluation.floors=["majority"]', "--set", "evaluation.leak_price=false",
    "--set", "evaluation.permutations=0", "--set", "evaluation.robustness_k=0", "--set", "evaluation.aggregation=none",
    "--set", "evaluation.embedding_map=none",
)  # fmt: skip
"""Quick to repeat."""
HISTOGRAM, NETWORK = ("--backbone", "colour-histogram"), ("--backbone", BACKBONE)
ON_BREAKHIS = ("breakhis", "--data", BREAKHIS)
AT_100X = ("--train-magnification", "100X")
NO_NETWORK = ("--set", 'evaluation.floors=["majority","colour-histogram","untuned"]')
HIDDEN = (
    "--set", "sweep.family=sgd", "--set", "sweep.sgd.n_trials=2", "--set", "sweep.sgd.base.hidden_units=3",
    "--set", "sweep.sgd.base.activation=gelu", "--set", "sweep.sgd.base.epochs=3", "--set", "sweep.sgd.device=cpu",
)  # fmt: skip
TRANSFER = ("--set", "transfer.draws=2", "--set", "transfer.folds=2", "--set", "transfer.few_shot=[1,2]",
            "--set", "interval.n_resamples=100")  # fmt: skip
SHORT_UNI = ("--set", "protocol.draws=3", "--set", "protocol.shots=[1,2]", "--set", "protocol.k=3",
             "--set", "interval.n_resamples=100")  # fmt: skip

EMBEDDED: tuple[tuple[str, ...], ...] = (
    ("embed", *ON_BREAKHIS, *HISTOGRAM, *EXACT, *KEPT),
    ("embed", *ON_BREAKHIS, *HISTOGRAM, *EXACT, *KEPT, "--set", "embedding.storage=fp16"),
    ("embed", *ON_BREAKHIS, *HISTOGRAM, *EXACT, *KEPT, "--view", "tiles", "--set", "view.size_px=32",
     "--set", "view.target_mpp=1"),
    ("embed", *ON_BREAKHIS, *NETWORK, *EXACT, *KEPT),
    ("embed", *ON_BREAKHIS, *NETWORK, *ON_CPU, *KEPT, "--set", "embedding.precision=bf16"),
    ("embed", *ON_BREAKHIS, *NETWORK, *EXACT, *KEPT, "--adapter", ADAPTER),
    ("embed", *ON_BREAKHIS, "--backbone", "random/timm/test_vit", *EXACT, *KEPT,
     "--set", 'source.subset.magnifications=["100X"]'),
)  # fmt: skip
EXCHANGED: tuple[tuple[str, ...], ...] = (
    *(("cache", "export", "--dataset", "breakhis", "--data", BREAKHIS, *HISTOGRAM, "--cache", "cache",
       "--out", f"exchange/rows.{suffix}") for suffix in ("npz", "parquet")),
    ("cache", "export", "--dataset", "tiles", "--data", TABLE, *HISTOGRAM, "--cache", "cache", "--coords", PLACES,
     "--set", "source.subset.shots=1", "--set", "source.subset.shots_of=groups", "--out", "exchange/slides"),
    ("cache", "import", "exchange/rows.npz", "--as", "other", "--backbone", "somebody-s-network", "--dataset",
     "breakhis", "--data", BREAKHIS, "--cache", "cache"),
)  # fmt: skip
STUDIES: tuple[tuple[str, ...], ...] = (
    ("data", "split", *ON_BREAKHIS, "--split", "grouped-3-seed0", "--out", "splits/folds.json"),
    ("data", "split", *ON_BREAKHIS, "--split", "holdout-34-seed0", "--out", "splits/parts.json"),
    ("run", "tiles", "--data", TABLE, "--pcam", PCAM, "--final", *HISTOGRAM, *EXACT, *KEPT, *STUDY, *NO_NETWORK,
     *AT_100X, "--set", "sweep.label_efficiency.draws=1", "--out", "runs/histogram"),
    ("run", "tiles", "--data", TABLE, *NETWORK, *EXACT, *KEPT, *STUDY, *AT_100X, "--out", "runs/network"),
    ("run", "tiles", "--data", TABLE, *HISTOGRAM, *EXACT, *KEPT, *LEAN, *AT_100X, "--out", "runs/lean"),
    ("run", "uni-pcam", "--data", PCAM, "--final", *HISTOGRAM, *EXACT, *KEPT, *SHORT_UNI, "--out", "runs/protocol"),
    ("transfer", "runs/histogram", "pcam", "--data", PCAM, "--final", *ON_CPU, *KEPT, *TRANSFER,
     "--out", "studies/transfer"),
    ("matrix", "tiles", "--data", TABLE, *HISTOGRAM, *EXACT, *KEPT, *STUDY, "--out", "studies/matrix"),
    ("sweep", *ON_BREAKHIS, *NETWORK, *EXACT, *KEPT, *SWEEP, *AT_100X, "--out", "heads/3-network"),
    ("sweep", *ON_BREAKHIS, *HISTOGRAM, *EXACT, *KEPT, *HIDDEN, *AT_100X, "--out", "heads/3-hidden"),
    ("cache", "rm", "fits", "--yes", "--cache", "cache"),
    ("sweep", *ON_BREAKHIS, *HISTOGRAM, *EXACT, *KEPT, *SWEEP, *AT_100X, "--out", "heads/3"),
)  # fmt: skip
HEADS = ("2", "3", "3-hidden", "3-network")
READ: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((f"evaluate-{head}.txt", ("evaluate", f"heads/{head}", *ON_BREAKHIS, *ON_CPU, *KEPT,
                                "--set", "interval.n_resamples=100")) for head in HEADS),
    *(("", ("predict", f"heads/{head}", BREAKHIS, *ON_CPU, "--cache", "cache",
            "--out", f"{RECORDED}/predict-{head}.csv")) for head in HEADS),
    ("split.txt", ("data", "split", *ON_BREAKHIS, "--split", "splits/folds.json")),
    ("", ("compare", "runs/histogram", "runs/network", *QUICK, "--out", f"{RECORDED}/compare")),
    ("", ("compare", "runs/protocol", *QUICK, "--out", f"{RECORDED}/protocol")),
    ("", ("transfer", "runs/histogram", "pcam", "--data", PCAM, "--final", *ON_CPU, *KEPT, *TRANSFER, "--no-images",
          "--out", f"{RECORDED}/transfer")),
)  # fmt: skip
"""What reads the files, and the name under which what it prints is kept for the test; empty keeps only its files."""
EARLIER: tuple[tuple[str, tuple[str, ...]], ...] = (
    (FORMAT_1, ("sweep", *ON_BREAKHIS, *HISTOGRAM, *SWEEP, *AT_100X, "--cache", "cache-early", "--out", "heads/1")),
    (FORMAT_2, ("sweep", *ON_BREAKHIS, *HISTOGRAM, *SWEEP, *AT_100X, "--cache", "unused", "--out", "heads/2")),
)
MARKS: tuple[tuple[str, ...], ...] = (
    ("demo", "--set", "backbone.name=colour-histogram", *STUDY, *NO_NETWORK, "--set", "cohort.n_groups=10",
     "--set", "cohort.n_tiles_breakhis=40", "--set", "cohort.n_tiles_pcam=30", "--set", "ledger=home/state",
     "--cache", "home/cohort", "--out", "home/demo"),
    ("data", "fetch", "breakhis", "--to", "home/fetched"),
)  # fmt: skip

TUNED_HEAD = "heads/4-tuned"
"""A fine-tuned head with the changed tensors beside it; written after the others, by a commit of its own."""
TUNING: tuple[str, ...] = (
    "finetune", *ON_BREAKHIS, *NETWORK, *EXACT, *LEAN, *AT_100X, "--set", "finetune.keep_tuned=true",
    "--set", "finetune.loop.epochs=2", "--set", "finetune.inner=hold-out", "--set", "finetune.views=2",
    "--set", "finetune.loop.precision=fp32", "--cache", "unused", "--set", "ledger=unused/state",
    "--out", "unused/tuned",
)  # fmt: skip
TUNED_READ: tuple[str, ...] = (
    "predict", TUNED_HEAD, BREAKHIS, *ON_CPU, "--cache", "unused", "--out", f"{RECORDED}/predict-4-tuned.csv",
)  # fmt: skip
