"""Five records carry an image from its file to its embedding; every other record on the way is for something else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import histotune

PACKAGE = Path(histotune.__file__).parent
ROUTE = {
    "PixelSource": "images/decode.py",
    "Wanted": "images/loader.py",
    "Views": "images/loader.py",
    "Pending": "backbones/engine.py",
    "Embeddings": "embeddings/space.py",
}
MODULES = (
    "images/decode.py",
    "images/loader.py",
    "images/hashes.py",
    "images/views.py",
    "images/device_resize.py",
    "backbones/engine.py",
    "embeddings/space.py",
    "embeddings/row_keys.py",
    "embeddings/runner.py",
    "embeddings/store.py",
    "embeddings/gather.py",
    "embeddings/embed.py",
)
BESIDE_THE_ROUTE = {
    "_Stream": "a parquet file that is being read",
    "UnreadableTile": "why an image leaves the route",
    "Placement": "arithmetic of a view, the same for all images of one size",
    "ViewGeometry": "arithmetic of a view, for a whole tile set",
    "DeviceVerdict": "whether a device may resize",
    "ResizePlan": "how a device resizes, the same for all images of one size",
    "Weights": "weights of a resize",
    "EngineConfig": "how a network is run",
    "ParallelDone": "threads to wait for",
    "EmbedRequest": "what the user asks for",
    "LoadedBackbone": "the network, kept between requests that follow each other",
    "EmbeddingSpace": "which embeddings can be compared",
    "BatchRate": "how fast a batch size is",
    "ShardPlan": "which rows a shard will hold",
    "RunFacts": "how a shard was computed",
    "Manifest": "what a shard holds",
    "Inspection": "the state of all shards",
    "Damage": "a shard that can't be trusted",
    "_Part": "which rows of a shard are copied where",
    "MappedFile": "a file that holds a large matrix",
    "_Job": "the request with everything resolved",
}


def records(module: str) -> set[str]:
    """Return the names of a module's dataclasses, named tuples and typed dictionaries, private ones among them."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            words = [ast.unparse(one) for one in (*node.decorator_list, *node.bases)]
            if any(re.search(r"\b(dataclass|NamedTuple|TypedDict)\b", one) for one in words):
                found.add(node.name)
    return found


def test_the_route_of_an_image_has_five_records_and_no_sixth() -> None:
    assert len(ROUTE) == 5
    for name, module in ROUTE.items():
        assert name in records(module), f"{name} is no record of {module}"
    found = set[str]().union(*(records(module) for module in MODULES))
    new = found - ROUTE.keys() - BESIDE_THE_ROUTE.keys()
    assert not new, f"fold these into the five records of the route, or say what else they are for: {sorted(new)}"
    gone = BESIDE_THE_ROUTE.keys() - found
    assert not gone, f"strike these from the list: {sorted(gone)}"


def test_every_module_between_the_file_and_the_embedding_is_looked_at() -> None:
    """What embed() takes from these rooms by name is in the list above."""
    tree = ast.parse((PACKAGE / "embeddings/embed.py").read_text(encoding="utf-8"))
    imported = {
        node.module.removeprefix("histotune.").replace(".", "/") + ".py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }
    aside = {
        "embeddings/precision.py",
        "embeddings/workers.py",
        "images/view_checks.py",
        "backbones/spec.py",
    }  # checks, other processes, the network's own record
    near = {one for one in imported if one.startswith(("images/", "backbones/", "embeddings/"))}
    assert near - aside <= set(MODULES)


def test_the_loop_says_the_route_at_its_top() -> None:
    words = ast.get_docstring(ast.parse((PACKAGE / "embeddings/embed.py").read_text(encoding="utf-8"))) or ""
    said = re.findall(r"^(\d)\. ``(\w+)`` \(([\w/.]+)\)", words, re.MULTILINE)
    assert said == [(str(number), name, module) for number, (name, module) in enumerate(ROUTE.items(), start=1)]
