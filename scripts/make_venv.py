"""Make or refresh the project's virtual environment; needs nothing but the standard library.

A torch that sees a GPU is kept: one already in the environment, or the interpreter's own (as on the machine images
of cloud providers), which the environment then shares. Everything else comes from the constraints file. Where
``nvidia-smi`` works and the environment's torch can't use the GPU, the script stops with the matching install line.

    python3 scripts/make_venv.py .venv --constraints constraints.txt
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST_TORCH = (2, 8)
PROBE = """
import json, torch
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("torch", "torchvision"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps({"versions": found, "cuda": torch.version.cuda, "sees_gpu": torch.cuda.is_available()}))
"""


@dataclass(frozen=True)
class TorchState:
    """The torch of one interpreter.

    Attributes:
        versions: Installed version of torch, and of torchvision where it is there.
        cuda: CUDA version torch is built for; None for CPU builds.
        sees_gpu: Whether torch can use a GPU right now.
    """

    versions: dict[str, str]
    cuda: str | None
    sees_gpu: bool

    @property
    def usable(self) -> bool:
        """Whether it sees a GPU and is new enough."""
        numbers = tuple(int(number) for number in re.findall(r"\d+", self.versions.get("torch", "0"))[:2])
        return self.sees_gpu and OLDEST_TORCH <= numbers < (3,)


def probe_torch(python: Path) -> TorchState | None:
    """Ask an interpreter for its torch; None where it has none that imports."""
    if not python.exists():
        return None
    answer = subprocess.run([str(python), "-c", PROBE], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return None
    found = json.loads(answer.stdout.splitlines()[-1])
    return TorchState(found["versions"], found["cuda"], found["sees_gpu"])


def nvidia_smi_works() -> bool:
    """Return whether nvidia-smi is there and lists a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    answer = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and "GPU" in answer.stdout


def make_environment(venv: Path, share_interpreter: bool) -> None:
    """Make the environment unless a working one of the same Python is there.

    Args:
        venv: Its folder.
        share_interpreter: Whether the packages of the running interpreter are visible inside.
    """
    config = venv / "pyvenv.cfg"
    version = ".".join(str(part) for part in sys.version_info[:2])
    same_python = config.exists() and re.search(rf"^version\s*=\s*{re.escape(version)}\.", config.read_text(), re.M)
    if not (same_python and python_of(venv).exists()):
        flags = ["--clear", "--system-site-packages"] if share_interpreter else ["--clear"]
        subprocess.run([sys.executable, "-m", "venv", *flags, str(venv)], check=True)
    elif share_interpreter:
        config.write_text(
            re.sub(r"(include-system-site-packages\s*=\s*)false", r"\1true", config.read_text()), encoding="utf-8"
        )
    if share_interpreter and sys.prefix != sys.base_prefix:
        # "system" means the base interpreter; the torch of an activated environment needs a path of its own.
        folders = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (site_packages_of(venv) / "interpreter_packages.pth").write_text("\n".join(folders) + "\n", encoding="utf-8")


def constraints_keeping(kept: TorchState | None, constraints: Path | None) -> str:
    """Return the constraints with the kept torch's versions in place of the pinned ones.

    Args:
        kept: The torch that must stay, or None.
        constraints: The committed pins, or None for the newest versions.

    Returns:
        The text of a constraints file.
    """
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints is not None else []
    if kept is not None:
        lines = [line for line in lines if not re.match(r"(torch|torchvision|triton)\s*==", line)]
        lines += [f"{name}=={version}" for name, version in kept.versions.items()]
    return "\n".join(lines) + "\n"


def install(venv: Path, constraints: str, extras: str, upgrade: bool) -> None:
    """Install the project, editable, with its extras."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text(constraints, encoding="utf-8")
        options = ["--upgrade", "--upgrade-strategy", "eager"] if upgrade else []
        pip(venv, "install", *options, "-c", str(path), "-e", f"{ROOT}[{extras}]")


def install_torch_from(venv: Path, index: str) -> TorchState | None:
    """Install torch from the index the user named, unless it is there already, and return what is there."""
    state = probe_torch(python_of(venv))
    if state is None:
        pip(venv, "install", "torch>=2.8,<3", "torchvision", "--index-url", index)
        state = probe_torch(python_of(venv))
    return state


def stop_without_gpu(venv: Path) -> None:
    """Stop with the matching install line where there is a GPU that the environment's torch can't use."""
    state = probe_torch(python_of(venv))
    if state is None or state.sees_gpu or not nvidia_smi_works():
        return
    sys.path.insert(0, str(ROOT / "src"))
    from histotune.tools.devices import driver_cuda_version, torch_install_line

    driver = driver_cuda_version()
    command = torch_install_line(driver).replace("pip ", f"{python_of(venv)} -m pip ")
    built = f"built for CUDA {state.cuda}" if state.cuda else "built without CUDA"
    supports = f"the driver supports CUDA up to {driver}" if driver else "the driver can't be asked"
    sys.exit(
        f"\nnvidia-smi works, but torch {state.versions['torch']} ({built}) can't use the GPU; {supports}.\n"
        f"  fix: {command}\n"
        "Then run make again: a torch that sees the GPU is kept. (To use the processor all the same:"
        " make IGNORE_GPU=1 demo)"
    )


def pip(venv: Path, *arguments: str) -> None:
    """Run the environment's pip; where it fails it has said why, so no traceback follows."""
    command = [str(python_of(venv)), "-m", "pip", *arguments]
    code = subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
    if code != 0:
        sys.exit(code)


def python_of(venv: Path) -> Path:
    """Return the environment's interpreter."""
    return venv / "Scripts" / "python.exe" if sys.platform == "win32" else venv / "bin" / "python"


def site_packages_of(venv: Path) -> Path:
    """Return where the environment's packages lie."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(venv), "platbase": str(venv)}))


def main(arguments: list[str] | None = None) -> None:
    """Make the environment named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--constraints", type=Path, help="exact versions; without it the newest are installed")
    parser.add_argument("--extras", default="dev")
    parser.add_argument("--torch-index", default="", help="package index to take torch from, such as PyTorch's CPU one")
    parser.add_argument("--ignore-gpu", action="store_true", help="do not stop where torch can't use the GPU")
    options = parser.parse_args(arguments)
    own = probe_torch(Path(sys.executable))
    kept = probe_torch(python_of(options.venv)) if nvidia_smi_works() else None
    share = own is not None and own.usable and not (kept is not None and kept.usable)
    make_environment(options.venv, share)
    if share:
        kept = own
    elif options.torch_index:
        kept = install_torch_from(options.venv, options.torch_index)
    elif kept is not None and not kept.usable:
        kept = None
    install(options.venv, constraints_keeping(kept, options.constraints), options.extras, options.constraints is None)
    if not options.ignore_gpu:
        stop_without_gpu(options.venv)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  (run before anything checks the version)
        sys.exit(f"histotune needs Python 3.11 or newer and this is {sys.version.split()[0]}: make PYTHON=python3.12 …")
    main()
