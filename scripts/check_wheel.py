"""Build the wheel, install it in a fresh environment outside of the tree, and run the demo there.

What the wheel forgets (a template, a table, ``py.typed``) shows only here: an editable install finds it in the tree.
With ``--dependencies shared`` the fresh environment sees the libraries of the running one, which takes seconds;
with ``fresh`` it downloads them all, as a user's machine does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from make_venv import pip, python_of, site_packages_of

ROOT = Path(__file__).resolve().parents[1]


def build_wheel(folder: Path) -> Path:
    """Build the wheel into a folder and return its path."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return next(folder.glob("histotune-*.whl"))


def files_left_out(wheel: Path) -> list[str]:
    """Return the tracked files of the package that the wheel does not hold."""
    command = ["git", "-C", str(ROOT), "ls-files", "src/histotune"]
    tracked = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    held = set(zipfile.ZipFile(wheel).namelist())
    return [name for name in tracked if name.removeprefix("src/") not in held]


def make_environment(venv: Path, shared: bool) -> None:
    """Make an empty environment, or one that sees the running one's libraries."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    if shared:
        # A path line is not followed further: the tree's own editable install stays invisible.
        libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (site_packages_of(venv) / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")


def run_demo(venv: Path, folder: Path) -> None:
    """Run the installed command outside of the tree."""
    program = python_of(venv).with_name("histotune.exe" if sys.platform == "win32" else "histotune")
    where = [str(python_of(venv)), "-c", "import histotune; print(histotune.__file__)"]
    origin = Path(subprocess.run(where, check=True, capture_output=True, text=True, cwd=folder).stdout.strip())
    if not origin.is_relative_to(venv):
        sys.exit(f"the demo would run from {origin}, not from the wheel")
    command = [str(program), "demo", "--out", str(folder / "run"), "--cache", str(folder / "cache")]
    own = {"XDG_CACHE_HOME": str(folder / "cache-home"), "XDG_STATE_HOME": str(folder / "state-home")}
    code = subprocess.run(
        command, check=False, cwd=folder, stdin=subprocess.DEVNULL, env={**os.environ, **own}
    ).returncode
    if code != 0:
        sys.exit(code)
    if not list((folder / "run").rglob("report.html")):
        sys.exit("the demo wrote no report.html")


def main() -> None:
    """Build, install, run."""
    parser = argparse.ArgumentParser(description="Run the demo from a built wheel outside of the tree.")
    parser.add_argument("--dependencies", choices=("shared", "fresh"), default="shared")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="histotune-wheel-") as name:
        folder = Path(name).resolve()
        wheel = build_wheel(folder)
        missing = files_left_out(wheel)
        if missing:
            sys.exit(f"the wheel leaves out {', '.join(missing)}")
        shared = options.dependencies == "shared"
        make_environment(folder / "venv", shared)
        which = ["--no-deps", "--ignore-installed"] if shared else ["-c", str(ROOT / "constraints.txt")]
        pip(folder / "venv", "install", *which, str(wheel))
        run_demo(folder / "venv", folder)
    print(f"{wheel.name}: complete, installed and run outside of the tree")


if __name__ == "__main__":
    main()
