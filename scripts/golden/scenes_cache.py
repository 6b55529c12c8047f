"""Kept embeddings: listed, checked, mended, removed, written out and taken in again."""

from __future__ import annotations

from . import edits, inputs
from .scene import Scene, mistake, step
from .scenes_studies import QUICK

HISTOGRAM = "--backbone colour-histogram"
SHARD = "cache/embeddings/*/shards/*.npy"
DATA = "--dataset breakhis --data breakhis"

UPKEEP = Scene(
    "cache-upkeep",
    (
        step("nothing", "cache ls --cache cache"),
        step("embed", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache --set embedding.shard_tiles=20"),
        step("embed-again", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache"),
        step("estimate", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache --view square --estimate"),
        step("fp16", f"embed breakhis --data breakhis {HISTOGRAM} --cache half --set embedding.storage=fp16"),
        step("square", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache --view square"),
        step("sweep", f"sweep breakhis --data breakhis --cache cache --out head {QUICK}"),
        step("ls", "cache ls --cache cache"),
        step("verify", "cache verify --cache cache"),
        step("verify-damaged", "cache verify colour-histogram --cache cache", edits.flip(SHARD), code=1),
        step("repair", "cache repair --cache cache"),
        step("ls-repaired", "cache ls --cache cache"),
        step("verify-repaired", "cache verify --cache cache"),
        step("embed-missing", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache"),
        step("embed-damaged", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache", edits.cut(SHARD, 500)),
        step("run-damaged-fits", f"sweep breakhis --data breakhis --cache cache --out head {QUICK}",
             edits.flip("cache/fits/*.safetensors", -20)),
        step("damaged-hashes", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache",
             edits.cut("cache/hashes.sqlite", 1000)),
        mistake("rm-unasked", "cache rm colour-histogram --cache cache"),
        mistake("rm-nothing-named", "cache rm --cache cache"),
        mistake("rm-two-ways", "cache rm --all --older-than 1d --cache cache"),
        step("rm-young", "cache rm --older-than 30d --yes --cache cache"),
        step("rm-fits", "cache rm fits --yes --cache cache"),
        step("rm-old", "cache rm --older-than 30d --yes --cache cache", edits.age("cache/embeddings/*/space.json"),
             edits.age("cache/embeddings/*/shards")),
        step("embed-anew", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache"),
        step("rm-all", "cache rm --all --yes --cache cache"),
        step("ls-empty", "cache ls --cache cache"),
    ),
    (inputs.breakhis(n_cases=5, n_tiles=2),),
    seconds_s=28,
)  # fmt: skip
EXCHANGE = Scene(
    "cache-exchange",
    (
        step("embed", f"embed breakhis --data breakhis {HISTOGRAM} --cache cache"),
        step("npz", "cache export colour-histogram --out files/all.npz --cache cache"),
        step("parquet", f"cache export {DATA} {HISTOGRAM} --out files/breakhis.parquet --cache cache"),
        step("slides", f"cache export {DATA} {HISTOGRAM} --out slides --cache cache"),
        step("import", f"cache import slides --as mine --backbone uni {DATA} --cache cache"),
        step("import-content", "cache import files/all.npz --as by-content --cache cache"),
        step("import-parquet", f"cache import files/breakhis.parquet --as third {DATA} --cache cache"),
        step("import-again", f"cache import slides --as mine {DATA} --cache cache"),
        step("replace", f"cache import files/breakhis.parquet --as mine --replace {DATA} --cache cache"),
        step("ls", "cache ls --cache cache"),
        step("run", f"run breakhis --data breakhis --train-magnification 100X --cache cache --out run {QUICK} "
             "--backbone external:mine"),
        step("evaluate", "evaluate run breakhis --data breakhis --cache cache"),
        step("coords", f"cache export {DATA} {HISTOGRAM} --coords places.csv --out placed --cache cache",
             edits.text("places.csv", "tile_id,x,y\n" + "".join(
                 f"SOB_{letter}-14-{slide}-{magnification}-{number:03d},{slide},{number}\n"
                 for letter, base in (("B_A", 1000), ("M_DC", 1500)) for slide in range(base, base + 5)
                 for magnification in (100, 400) for number in (1, 2)))),
        step("verify", "cache verify --cache cache"),
        mistake("taken", f"cache import files/all.npz --as mine {DATA} --cache cache"),
        mistake("nothing-embedded", f"cache export {DATA} {HISTOGRAM} --out x.npz --cache empty"),
        mistake("unknown-ending", "cache export colour-histogram --out x.txt --cache cache"),
        mistake("several-slides", f"cache export {DATA} {HISTOGRAM} --out x.h5 --cache cache"),
        mistake("what", "cache export --out x.npz --cache cache"),
        mistake("predict-elsewhere", "predict run new.png --cache cache",
                edits.copy("breakhis/**/*-100-001.png", "new.png"), edits.flip("new.png", -20)),
        mistake("wrong-name", "cache import files/all.npz --as 'a b' --cache cache"),
        mistake("damaged-file", "cache import files/all.npz --as x --cache cache", edits.cut("files/all.npz", 700)),
        mistake("no-file", "cache import nowhere --as x --cache cache"),
    ),
    (inputs.breakhis(n_cases=5, n_tiles=2),),
    seconds_s=28,
)  # fmt: skip
SCENES = (UPKEEP, EXCHANGE)
