"""histotune: fine-tune and evaluate pathology foundation models on tiles, leak-free and with honest intervals.

>>> import histotune as ht
>>> tiles = ht.read("breakhis", "BreaKHis_v1")
>>> x = ht.embed(tiles, "colour-histogram")
>>> head = ht.sweep(x, train_magnification="100X", out="head", set={"sweep.folds": 3}).head
>>> ht.evaluate(head, tiles).finding.rows[0].domain
'breakhis 100X'

The package reads in the order of the data: tools, datasets, statistics, images, backbones, embeddings, audit, heads,
finetune, evaluation, transfer, published, report, deploy, studies, cli. A room imports the rooms before it, never those
after it. The verbs and the records named here are loaded when first used; docs/index.md has a map of the house.
"""

from importlib import import_module

__version__ = "0.1.0"

VERBS = {
    **dict.fromkeys(("read", "fetch", "audit", "split", "doctor"), "studies.data_verbs"),
    **dict.fromkeys(
        ("embed", "sweep", "evaluate", "score", "transfer", "matrix", "compare", "run"),
        "studies.verbs",
    ),
    "report": "studies.report_verb",
    "finetune": "studies.tuning_verbs",
    "export": "studies.export_verbs",
    "push": "studies.export_verbs",
    **dict.fromkeys(("predict", "explain"), "studies.head_verbs"),
}
RECORDS = {
    "TileSet": "datasets.tileset",
    "Embeddings": "embeddings.space",
    "Head": "heads.head",
    "Predictions": "statistics.predictions",
    "Score": "statistics.predictions",
    "UserError": "tools.errors",
}
__all__ = ["__version__", *VERBS, *RECORDS]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """Load a verb or a record when it is first asked for; ``audit``, ``finetune`` and others are rooms as well."""
    places = {**VERBS, **RECORDS}
    if name in places:
        return getattr(import_module(f"histotune.{places[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
