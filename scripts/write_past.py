"""Write the files that histotune keeps, small, so that later code can be tested against them: fixtures of the past.

    python scripts/write_past.py --out /tmp/past

makes a new folder like ``tests/fixtures/past``: a cache, heads, splits, runs, studies, a ledger and more, each written
by the command line of this checkout; heads and shards of earlier formats are written by the commits that had them,
in temporary worktrees. The committed folder is NOT written anew when code changes: that later code still reads it is
what ``tests/test_past.py`` is for. A new format gets files of its own beside the old ones.

The folder's path stands in the index of content hashes, and its user's home nowhere: run it under a neutral name.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from past_commands import (
    EARLIER,
    EMBEDDED,
    EXCHANGED,
    HISTOGRAM,
    MARKS,
    READ,
    RECORDED,
    STUDIES,
    TUNED_HEAD,
    TUNED_READ,
    TUNING,
)
from past_inputs import write_inputs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[1]
START = "import runpy, sys; sys.argv[0] = 'histotune'; runpy.run_module('histotune', run_name='__main__')"
EARLY_START = "import sys; sys.argv[0] = 'histotune'; from histotune.cli.main import main; main()"
"""Early commits could not run the package by its name."""
LIBRARIES = ("torch", "timm", "transformers", "pillow", "numpy", "scipy", "polars", "pyarrow", "safetensors", "peft")
BREAKHIS_COUNTS = {"40X": (625, 1370), "100X": (644, 1437), "200X": (623, 1390), "400X": (588, 1232)}
MAX_BYTES = 1_500_000
PAGES = ("*.html", "*.svg", "*lock", "matrix.csv")
"""Written and never read; left out, since nothing later depends on them."""
FACTS, CHECKSUMS = "facts.json", "checksums.txt"
TELL = (
    "import json, sys; from importlib.metadata import version as v; print(json.dumps({n: v(n) for n in sys.argv[1:]}))"
)


@dataclass(frozen=True)
class Workplace:
    """Where commands run.

    Attributes:
        folder: Working directory; all paths of all commands lie below it.
        source: ``src`` of the checkout that runs.
        start: Python that runs its command line under the name ``histotune``, since files keep the command.
        python: The interpreter.
    """

    folder: Path
    source: Path
    start: str = START
    python: str = sys.executable

    def run(self, words: Sequence[str]) -> str:
        """Run histotune and return what it printed.

        Args:
            words: The command line.

        Raises:
            SystemExit: It failed.
        """
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        home = {"HOME": str(self.folder / "home"), "XDG_CACHE_HOME": "home/cache", "XDG_STATE_HOME": "home/state"}
        environment = {**os.environ, **variables, **home, "PYTHONPATH": str(self.source)}
        print("histotune", shlex.join(words), flush=True)
        done = subprocess.run([self.python, "-c", self.start, *words], cwd=self.folder, env=environment, check=False,
                              capture_output=True, text=True)  # fmt: skip
        wanted = [self.folder / words[place + 1] for place, word in enumerate(words) if word == "--out"]
        if done.returncode or not all(path.exists() for path in wanted):
            raise SystemExit(f"it failed with code {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Check out a commit for the block and yield its ``src``.

    Args:
        commit: Of this repository.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / commit
        git = ("git", "-C", str(ROOT), "worktree")
        subprocess.run([*git, "add", "--detach", str(folder), commit], check=True, capture_output=True)
        try:
            yield folder / "src"
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def write_all(folder: Path, others: Sequence[str]) -> None:
    """Write inputs, everything that histotune makes of them, and what reading it gives.

    Args:
        folder: Empty.
        others: Interpreters with other versions of the libraries.
    """
    here = Workplace(folder, ROOT / "src")
    os.chdir(folder)  # inputs name one another by relative paths
    write_inputs(folder)
    (folder / RECORDED).mkdir()
    with ExitStack() as stack:
        for commit, words in EARLIER:
            Workplace(folder, stack.enter_context(checked_out(commit)), EARLY_START).run(words)
    for words in (*EMBEDDED, *EXCHANGED, *STUDIES):
        here.run(words)
    for python in others:
        for words in EMBEDDED:
            if HISTOGRAM[1] not in words:
                Workplace(folder, here.source, python=python).run(words)
    write_marks(here)
    write_tuned(here)
    for name, words in READ:
        printed = here.run(words)
        if name:
            (folder / RECORDED / name).write_text(printed, encoding="utf-8", newline="\n")
    write_facts(here, others)


def write_marks(here: Workplace) -> None:
    """Write the mark of a rendered cohort and the receipt of a download, without their images.

    The demo's smallest cohort takes 10 MB, so only its mark is kept. Files of BreakHis's names are all that a fetch
    needs to find its work done.

    Args:
        here: Where.
    """
    write_names(here.folder / "home/fetched")
    for words in MARKS:
        here.run(words)
    for part in ("breakhis", "pcam"):
        (here.folder / "cohort" / part).mkdir(parents=True)
        shutil.copy(here.folder / "home/cohort/synthetic" / part / "SYNTHETIC.json", here.folder / "cohort" / part)
    (here.folder / "fetched").mkdir()
    shutil.copy(here.folder / "home/fetched/.fetch/receipt.json", here.folder / "fetched/receipt.json")


def write_names(folder: Path) -> None:
    """Write empty files with as many names of BreakHis's kind as BreakHis has.

    Args:
        folder: Where.
    """
    for magnification, counts in BREAKHIS_COUNTS.items():
        for letter, kind, count in zip("BM", ("A", "DC"), counts, strict=True):
            place = folder / "BreaKHis_v1" / letter / magnification
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"SOB_{letter}_{kind}-14-1000-{magnification[:-1]}-{number:04d}.png").touch()


def write_tuned(here: Workplace) -> None:
    """Write a fine-tuned head with its changed tensors and their sidecar, and what it says of the tiles.

    Args:
        here: Holds the tiles and the network.
    """
    here.run(TUNING)
    shutil.copytree(here.folder / "unused/tuned/head-tuned", here.folder / TUNED_HEAD)
    here.run(TUNED_READ)


def write_facts(here: Workplace, others: Sequence[str]) -> None:
    """Write what made the files: commits, versions, commands, and the folder whose paths the index of hashes holds.

    Args:
        here: Where.
        others: Interpreters that embedded, too.
    """
    git = ("git", "-C", str(ROOT))
    if subprocess.run([*git, "status", "--porcelain", "src"], check=True, capture_output=True).stdout:
        raise SystemExit("src has changes that are not committed: nobody could say what wrote these files")
    last = subprocess.run([*git, "log", "-1", "--format=%h", "--", "src"], check=True, capture_output=True, text=True)
    commit = last.stdout.strip()
    now = (*EMBEDDED, *EXCHANGED, *STUDIES, *MARKS, TUNING, TUNED_READ, *(words for _, words in READ))
    versions = [
        json.loads(subprocess.run([one, "-c", TELL, *LIBRARIES], check=True, capture_output=True, text=True).stdout)
        for one in (here.python, *others)
    ]
    facts = {
        "commit": commit,
        "folder": str(here.folder),
        "versions": versions,
        "commands": [
            {"commit": one, "command": shlex.join(("histotune", *words))}
            for one, words in (*EARLIER, *((commit, words) for words in now))
        ],
    }
    text = json.dumps(facts, indent=2) + "\n"
    (here.folder / FACTS).write_text(text, encoding="utf-8", newline="\n")


def tidy(folder: Path) -> None:
    """Remove what nothing reads, and the home that commands had.

    Args:
        folder: What was written.
    """
    for place in ("home", "unused"):
        shutil.rmtree(folder / place)
    for pattern in PAGES:
        for path in folder.rglob(pattern):
            path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def check(folder: Path, names: Collection[str]) -> int:
    """Return the size in bytes; refuse folders that are too large or name this machine.

    Args:
        folder: What was written.
        names: Paths that must not stand in any file.

    Raises:
        SystemExit: A file names the checkout, the environment or the home of whoever runs this, or all is too large.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    telling = [path for path in files if any(name.encode() in path.read_bytes() for name in names)]
    if telling:
        raise SystemExit(f"these files name this machine: {', '.join(map(str, telling))}")
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise SystemExit(f"{size:,} bytes are more than {MAX_BYTES:,}")
    return size


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file, as ``sha256sum`` prints it: git must not change a byte of them.

    Args:
        folder: What was written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in files
    ]
    (folder / CHECKSUMS).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main() -> None:
    """Write a new folder of fixtures."""
    parser = argparse.ArgumentParser(description="Write small files of every format that histotune keeps.")
    parser.add_argument("--out", type=Path, required=True, help="A new folder with a neutral name.")
    also = "An interpreter with other versions of the libraries: it embeds, too. Repeatable."
    parser.add_argument("--also", action="append", default=[], metavar="PYTHON", help=also)
    asked = parser.parse_args()
    out = asked.out.absolute()
    if out.exists():
        raise SystemExit(f"{out} is there already; committed fixtures stay as they are")
    out.mkdir(parents=True)
    write_all(out, asked.also)
    tidy(out)
    names = {str(ROOT), sys.prefix, str(Path.home()), *(str(Path(one).parents[1]) for one in asked.also)}
    size = check(out, names - {"/"})
    write_checksums(out)
    print(f"{size:,} bytes in {out}")


if __name__ == "__main__":
    main()
