"""``histotune embed`` against kaiko-eva's ``predict``: the same 2,000 images, ViT-S, weights, cores; whole processes.

eva lives in an environment of its own, whose Python is named in the variable HISTOTUNE_BENCH_EVA_PYTHON::

    python -m venv eva-venv
    eva-venv/bin/pip install 'kaiko-eva[vision]==0.4.5' 'jsonargparse[omegaconf]==4.40.0'

A round takes several minutes. ``python -m benchmarks.eva_predict --folder DIR --rounds 1`` measures one and keeps it
there; ``HISTOTUNE_BENCH_EVA_FOLDER=DIR python -m benchmarks run eva_predict`` measures what is missing and records all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks.harness import (
    BOUND_REPEATS,
    Claim,
    Part,
    Result,
    child_environment,
    cores,
    histotune_program,
    measured,
    missing_hardware,
    not_measured,
    save,
)
from histotune.tools.files import write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_CORES, N_IMAGES, BATCH_SIZE = 2, 2000, 32
EVA_PYTHON, KEPT = "HISTOTUNE_BENCH_EVA_PYTHON", "HISTOTUNE_BENCH_EVA_FOLDER"
INSTALL = (
    "python -m venv eva-venv && eva-venv/bin/pip install 'kaiko-eva[vision]==0.4.5' 'jsonargparse[omegaconf]==4.40.0'"
)
ARCHITECTURE = "vit_small_patch16_224"
METHOD = (
    " Arms in turns, each a process of its own on 2 pinned cores with 2 threads, rendered PatchCamelyon in its HDF5"
    " layout, files in the page cache, seeded random weights read by all arms from one file; histotune with an empty"
    " cache, start-up and imports included; eva 0.4.5 by its published configuration (batch 64, a loader process per"
    " core), its data set's expected length lifted. Median of 7 rounds, and its 95 % bound."
)
OVERHEAD = Claim(
    "eva_predict_overhead",
    "`histotune embed` over 2,000 PatchCamelyon tiles with ViT-S in fp32, beyond the bare forward, on 2 cores",
    "s",
    5.0,
    "at most",
    "Wall time of the command less that of timm's network alone over as many tensors held in memory, batches of 32,"
    " without imports or loading." + METHOD,
    by_bound=True,
)
SPEED = Claim(
    "eva_predict_speed",
    "`histotune embed` in bf16 against `eva predict`, 2,000 PatchCamelyon tiles with ViT-S, end to end on 2 cores",
    "x",
    2.2,
    "at least",
    "eva's wall time (fp32, as its published configuration has it) over that of the command with"
    " embedding.precision=bf16, which pays for its check of the precision on 64 tiles." + METHOD,
    by_bound=True,
)
Precision = Literal["fp32", "bf16"]
# N tiles, D columns

BARE = """
import json, sys, time
import timm, torch
from safetensors.torch import load_file
weights, architecture, precision, n_images, batch_size, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
network = timm.create_model(architecture, num_classes=0)
network.load_state_dict(load_file(weights))
network.eval()
batches = [torch.randn(min(batch_size, n_images - at), 3, 224, 224) for at in range(0, n_images, batch_size)]
with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
    network(batches[0])
    start = time.perf_counter()
    for batch in batches:
        network(batch)
print(time.perf_counter() - start)
"""
SMALL_PCAM = '''
from eva.vision.data.datasets import PatchCamelyon

class SmallPatchCamelyon(PatchCamelyon):
    """As many tiles as there are."""

    _expected_length = {}
'''


@dataclass(frozen=True)
class Material:
    """What all arms read.

    Attributes:
        folder: Of everything below.
        data: PatchCamelyon in its HDF5 layout.
        weights: The network's weights.
        eva: Python of eva's environment.
        n_images: Tiles over the three parts.
    """

    folder: Path
    data: Path
    weights: Path
    eva: Path
    n_images: int


@dataclass(frozen=True)
class Round:
    """Seconds of each arm of one round, and how far the embeddings of both programs are apart.

    Attributes:
        bare_fp32: The network alone.
        bare_bf16: The network alone under autocast.
        histotune_fp32: The whole command.
        histotune_bf16: The whole command, its check of the precision included.
        eva: The whole command.
        distance: Largest difference of a value between eva and histotune in fp32, over the largest value.
    """

    bare_fp32: float
    bare_bf16: float
    histotune_fp32: float
    histotune_bf16: float
    eva: float
    distance: float


def measure() -> tuple[Result, ...]:
    """Measure the rounds that are not kept yet; judge all of them."""
    eva = os.environ.get(EVA_PYTHON, "")
    lacking = missing_hardware(n_cpus=N_CORES)
    if not lacking and not Path(eva).is_file():
        lacking = f"needs a Python with eva, named in {EVA_PYTHON}: {INSTALL}"
    if lacking:
        return (not_measured(OVERHEAD, lacking), not_measured(SPEED, lacking))
    with tempfile.TemporaryDirectory(prefix="histotune-eva-") as own:
        folder = Path(os.environ.get(KEPT) or own).absolute()
        material = prepare(folder, Path(eva), N_IMAGES)
        while len(rounds := kept_rounds(material)) < BOUND_REPEATS:
            keep_round(material, measure_round(material, len(rounds)))
    return judged(rounds)


def judged(rounds: list[Round]) -> tuple[Result, Result]:
    """Turn rounds into results.

    Args:
        rounds: What was measured, one or more.

    Returns:
        The overhead and the speed; "not measured" with what was seen where there are fewer than seven rounds.
    """
    names = ("bare_fp32", "bare_bf16", "histotune_fp32", "histotune_bf16", "eva")
    medians = [Part(f"{name}, s", statistics.median(asdict(one)[name] for one in rounds)) for name in names]
    apart = Part("largest difference of the embeddings, relative", max(one.distance for one in rounds))
    eva_over = Part("eva beyond the bare forward, s", statistics.median(one.eva - one.bare_fp32 for one in rounds))
    bf16_over = Part(
        "bf16 beyond its bare forward, s", statistics.median(one.histotune_bf16 - one.bare_bf16 for one in rounds)
    )
    same = Part("in fp32, x", statistics.median(one.eva / one.histotune_fp32 for one in rounds))
    overhead = [one.histotune_fp32 - one.bare_fp32 for one in rounds]
    speed = [one.eva / one.histotune_bf16 for one in rounds]
    if (n := len(rounds)) < BOUND_REPEATS:
        few = f"{n} of {BOUND_REPEATS} rounds"
        values = ", ".join(f"{part.name} {part.value:.3g}" for part in (eva_over, bf16_over, same, *medians, apart))
        return (
            not_measured(OVERHEAD, f"{few}: {', '.join(f'{one:.1f}' for one in overhead)} s (medians: {values})"),
            not_measured(SPEED, f"{few}: {', '.join(f'{one:.2f}' for one in speed)} x (medians: {values})"),
        )
    return (
        measured(OVERHEAD, overhead, [eva_over, bf16_over, *medians, apart], N_CORES),
        measured(SPEED, speed, [same, *medians, apart], N_CORES),
    )


def prepare(folder: Path, eva: Path, n_images: int) -> Material:
    """Render the tiles and make the weights, unless they are there.

    Args:
        folder: Takes them.
        eva: Python of eva's environment.
        n_images: Tiles.

    Returns:
        Where all lies.
    """
    from histotune.datasets.synthetic.cohort import SyntheticConfig
    from histotune.datasets.synthetic.cohort_folder import write_cohort

    folder.mkdir(parents=True, exist_ok=True)
    config = SyntheticConfig(n_groups=4, n_tiles_breakhis=16, n_tiles_pcam=n_images)
    data = write_cohort(config, folder / f"cohort-{n_images}").pcam
    weights = folder / "weights.safetensors"
    if not weights.exists():
        _write_weights(weights)
    (folder / "small_pcam.py").write_text(SMALL_PCAM, encoding="utf-8")
    return Material(folder, data, weights, eva, n_images)


def _write_weights(path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(ARCHITECTURE, num_classes=0).state_dict(), path)


def kept_rounds(material: Material) -> list[Round]:
    """Return the rounds measured so far with this number of images, in order."""
    paths = sorted(material.folder.glob(f"round-{material.n_images}-*.json"))
    return [Round(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def keep_round(material: Material, found: Round) -> None:
    """Write a round beside the earlier ones."""
    number = len(kept_rounds(material))
    write_json(material.folder / f"round-{material.n_images}-{number:02d}.json", asdict(found))


def measure_round(material: Material, number: int) -> Round:
    """Run every arm once; odd rounds in reverse order.

    Args:
        material: What they read.
        number: Of the round.

    Returns:
        Their seconds.
    """
    arms = {
        "bare_fp32": lambda: _bare(material, "fp32"),
        "histotune_fp32": lambda: _histotune(material, "fp32"),
        "eva": lambda: _eva(material),
        "histotune_bf16": lambda: _histotune(material, "bf16"),
        "bare_bf16": lambda: _bare(material, "bf16"),
    }
    with cores(N_CORES):
        order = list(arms)[:: -1 if number % 2 else 1]
        seconds = {}
        for name in order:
            seconds[name] = arms[name]()
            print(f"  {name} {seconds[name]:.1f} s", flush=True)
        return Round(**seconds, distance=_distance(material))


def _bare(material: Material, precision: Precision) -> float:
    """Seconds of the forward passes alone, after one that is not counted."""
    given = json.dumps([str(material.weights), ARCHITECTURE, precision, material.n_images, BATCH_SIZE, N_CORES])
    done = _run(material, [sys.executable, "-c", BARE, given])
    return float(done.splitlines()[-1])


def _histotune(material: Material, precision: Precision) -> float:
    """Seconds of the command with an empty cache."""
    cache = _cache(material, precision)
    shutil.rmtree(cache, ignore_errors=True)
    command = [histotune_program(), "embed", "pcam", "--data", str(material.data), "--cache", str(cache)]
    command += ["--backbone", f"timm/{ARCHITECTURE}", *(one for field in _fields(material) for one in ("--set", field))]
    return _timed(material, [*command, "--set", f"embedding.precision={precision}"])


def _fields(material: Material) -> list[str]:
    # eva's resize is bilinear; the same filter makes the embeddings comparable
    return [f"backbone.weights={material.weights}", "view.interpolation=bilinear"]


def _cache(material: Material, precision: Precision) -> Path:
    return material.folder / f"cache-{precision}"


def _eva(material: Material) -> float:
    """Seconds of eva's command into an empty folder."""
    for name in ("eva-embeddings", "eva-logs"):
        shutil.rmtree(material.folder / name, ignore_errors=True)
    config = material.folder / "eva.yaml"
    config.write_text(json.dumps(_eva_config(material)), encoding="utf-8")  # JSON is YAML
    return _timed(material, [str(material.eva.with_name("eva")), "predict", "--config", str(config)])


def _eva_config(material: Material) -> dict[str, object]:
    """Return eva's published configuration for PatchCamelyon, reduced to what ``predict`` reads."""
    folder = material.folder
    network = {"model_name": ARCHITECTURE, "checkpoint_path": str(material.weights)}
    writer = {
        "output_dir": str(folder / "eva-embeddings"), "dataloader_idx_map": {0: "train", 1: "val", 2: "test"},
        "backbone": {"class_path": "eva.vision.models.wrappers.TimmModel", "init_args": network}, "overwrite": False,
    }  # fmt: skip
    half = [0.5, 0.5, 0.5]  # this network's own normalisation
    resize = {
        "class_path": "eva.vision.data.transforms.common.ResizeAndCrop",
        "init_args": {"size": 224, "mean": half, "std": half},
    }
    parts = [
        {
            "class_path": "small_pcam.SmallPatchCamelyon",
            "init_args": {"root": str(material.data), "split": part, "transforms": resize},
        }
        for part in ("train", "val", "test")
    ]
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(folder / "eva-logs"), "name": ""},
    }
    trainer = {
        "n_runs": 1, "default_root_dir": str(folder / "eva-logs"), "max_steps": 1, "logger": [logger],
        "callbacks": [
            {"class_path": "eva.callbacks.ConfigurationLogger"},
            {"class_path": "eva.callbacks.ClassificationEmbeddingsWriter", "init_args": writer},
        ],
    }  # fmt: skip
    head = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 384, "out_features": 1}}
    data = {"datasets": {"predict": parts}, "dataloaders": {"predict": {"batch_size": 64}}}
    return {
        "trainer": {"class_path": "eva.Trainer", "init_args": trainer},
        "model": {
            "class_path": "eva.HeadModule",
            "init_args": {"head": head, "criterion": "torch.nn.BCEWithLogitsLoss"},
        },
        "data": {"class_path": "eva.DataModule", "init_args": data},
    }


def _timed(material: Material, command: list[str]) -> float:
    start = time.perf_counter()
    _run(material, command)
    return time.perf_counter() - start


def _run(material: Material, command: list[str]) -> str:
    """Run an arm to its end; eva finds the small data set on its path."""
    environment = child_environment(material.folder, N_CORES)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(material.folder), environment.get("PYTHONPATH", ""))))
    done = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[:3]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _distance(material: Material) -> float:
    """Return the largest difference between the class tokens of both programs in fp32, over the largest value."""
    from histotune.studies.arguments import build_config
    from histotune.studies.stages import embed_only

    config = build_config(
        "pcam", data=material.data, backbone=f"timm/{ARCHITECTURE}", cache=_cache(material, "fp32"),
        settings=[*_fields(material), "embedding.precision=fp32"],
    )  # fmt: skip
    embeddings = embed_only(config).embeddings
    if embeddings.n_computed:
        raise RuntimeError("the embeddings that were timed are not in the cache")
    ours_ND = np.asarray(embeddings.matrix_ND[:, :384], np.float32)
    theirs_ND = np.stack([_eva_row(material, tile_id) for tile_id in embeddings.tile_ids])
    return float(np.abs(ours_ND - theirs_ND).max() / np.abs(theirs_ND).max())


def _eva_row(material: Material, tile_id: str) -> NDArray[np.float32]:
    import torch

    part, number = tile_id.split("/")
    part = {"valid": "val"}.get(part, part)
    path = material.folder / "eva-embeddings" / f"camelyonpatch_level_2_split_{part}_x_{int(number)}.pt"
    (row_D,) = torch.load(path, weights_only=True)
    return np.asarray(row_D.numpy(), dtype=np.float32)


def main() -> None:
    """Measure some rounds and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eva_predict", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="keeps tiles, weights and rounds")
    parser.add_argument("--eva-python", type=Path, default=os.environ.get(EVA_PYTHON), help=f"default: {EVA_PYTHON}")
    parser.add_argument("--rounds", type=int, default=1, help="rounds to add")
    parser.add_argument("--results", type=Path, help="record what all kept rounds say in this folder")
    parser.add_argument("--images", type=int, default=N_IMAGES, help="tiles; the claims speak of 2,000")
    options = parser.parse_args()
    if options.eva_python is None:
        sys.exit(f"no Python with eva; make one: {INSTALL}")
    material = prepare(options.folder.absolute(), options.eva_python, options.images)
    for _ in range(options.rounds):
        found = measure_round(material, len(kept_rounds(material)))
        keep_round(material, found)
        print(found)
    if options.results is not None and (rounds := kept_rounds(material)):
        for result in judged(rounds):
            save(result, options.results)


if __name__ == "__main__":
    main()
