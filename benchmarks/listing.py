"""BreakHis at full size: 7,909 names of 82 patients are listed, parsed and described in a moment."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import MIN_REPEATS, Claim, Part, Result, child_environment, measured

METHOD = (
    "A tree of 7,909 names with the data set's counts per magnification and class over its 82 patients, tiny PNGs; a"
    " process of its own reads and describes it, 5 repeats after 1 warm-up."
)
TIME = Claim("listing", "full-size BreakHis listed, parsed and described", "s", 5.0, "at most",
             f"{METHOD} Wall time of the process, imports included; parts are measured inside it.")  # fmt: skip
MEMORY = Claim("listing_memory", "peak memory of listing, parsing and describing full-size BreakHis", "MB", 500.0,
               "at most", f"{METHOD} Largest resident set of the process.")  # fmt: skip
IMAGES = {"40": (625, 1370), "100": (644, 1437), "200": (623, 1390), "400": (588, 1232)}  # benign, malignant
PATIENTS = {"A": 4, "F": 10, "PT": 3, "TA": 7, "DC": 38, "LC": 5, "MC": 9, "PC": 6}
FOLDERS = {
    "A": "adenosis", "F": "fibroadenoma", "PT": "phyllodes_tumor", "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma", "LC": "lobular_carcinoma", "MC": "mucinous_carcinoma", "PC": "papillary_carcinoma",
}  # fmt: skip
CHILD = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from histotune.datasets.config import DatasetConfig
from histotune.datasets.describe import describe, render_text
from histotune.datasets.read import read_dataset
imported = time.perf_counter()
tiles = read_dataset(DatasetConfig(name="breakhis", path=Path(sys.argv[1])))
read = time.perf_counter()
text = render_text(describe(tiles))
described = time.perf_counter()
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({
    "n_tiles": len(tiles), "import": imported - start, "list and parse": read - imported, "describe": described - read,
    "total_s": described - start, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6,
}))
"""


def measure() -> tuple[Result, ...]:
    """Write the tree once and read it again and again."""
    with tempfile.TemporaryDirectory(prefix="histotune-listing-") as name:
        folder = Path(name)
        write_tree(folder / "data")
        runs = [run_child(folder) for _ in range(MIN_REPEATS + 1)][1:]
    assert all(run["n_tiles"] == 7909 for run in runs)
    parts = [
        Part(stage, statistics.median(run[stage] for run in runs)) for stage in ("import", "list and parse", "describe")
    ]
    return (
        measured(TIME, [run["total_s"] for run in runs], parts),
        measured(MEMORY, [run["peak_mb"] for run in runs]),
    )


def run_child(folder: Path) -> dict[str, float]:
    """Describe the tree in a process of its own."""
    command = [sys.executable, "-c", CHILD, str(folder / "data")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=child_environment(folder))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_tree(root: Path) -> None:
    """Write the tree in the data set's own layout, one tiny image under every name."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (7, 5), (200, 120, 170)).save(stream, "PNG")
    for folder, names in names_by_folder().items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(stream.getvalue())


def names_by_folder() -> dict[str, list[str]]:
    """Return 7,909 names by folder: every patient has images at every magnification, as evenly as counts allow."""
    names: dict[str, list[str]] = {}
    for magnification, counts in IMAGES.items():
        for letter, side, n_images in zip("BM", ("benign", "malignant"), counts, strict=True):
            tumours = list(PATIENTS)[:4] if letter == "B" else list(PATIENTS)[4:]
            patients = [(tumour, number) for tumour in tumours for number in range(PATIENTS[tumour])]
            for image in range(n_images):
                tumour, number = patients[image % len(patients)]
                slide = f"14-{10_000 + 1_000 * list(PATIENTS).index(tumour) + number}"
                folder = (
                    f"BreaKHis_v1/histology_slides/breast/{side}/SOB/{FOLDERS[tumour]}/"
                    f"SOB_{letter}_{tumour}_{slide}/{magnification}X"
                )
                sequence = image // len(patients) + 1
                name = f"SOB_{letter}_{tumour}-{slide}-{magnification}-{sequence:03d}.png"
                names.setdefault(folder, []).append(name)
    return names
