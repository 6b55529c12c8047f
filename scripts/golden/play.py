"""Scenes played: each command a process of its own, and everything that it left behind written into the record."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from .decode import decode, to_json
from .scene import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .masks import Masks
    from .scene import Scene, Step

LONGEST_S = 900.0
ONE_THREAD = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS", "VECLIB_MAXIMUM_THREADS",
)  # fmt: skip
FIXED = {
    "COLUMNS": "120", "LINES": "40", "TERM": "dumb", "NO_COLOR": "1", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8",
    "TZ": "UTC", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false", "WANDB_SILENT": "true",
}  # fmt: skip
KEPT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Stage:
    """Where scenes are played and recorded.

    Attributes:
        source: The ``src`` folder whose histotune is played.
        work: A folder that holds a folder per scene while it is played.
        record: Where the record is written.
        masks: What is not compared.
        wanted: Wildcards of the commands to keep; empty keeps all.
    """

    source: Path
    work: Path
    record: Path
    masks: Masks
    wanted: tuple[str, ...] = ()

    def wants(self, scene: str, step: str) -> bool:
        """Return whether a command is to be kept."""
        names = (scene, f"{scene}/{step}")
        return not self.wanted or any(fnmatchcase(name, one) for one in self.wanted for name in names)


@dataclass
class Report:
    """What the playing itself has to say.

    Attributes:
        n_commands: How many were recorded.
        surprises: Commands that ended otherwise than their scene expects.
        seconds_s: Seconds that processors spent on each command, by ``SCENE/STEP``.
    """

    n_commands: int = 0
    surprises: list[str] = field(default_factory=list)
    seconds_s: dict[str, float] = field(default_factory=dict)

    def longest(self, n: int) -> str:
        """Return the longest scenes in words."""
        scenes: Counter[str] = Counter()
        for name, seconds in self.seconds_s.items():
            scenes[name.partition("/")[0]] += round(seconds)
        return ", ".join(f"{name} {seconds} s" for name, seconds in scenes.most_common(n))


def play_all(scenes: Sequence[Scene], stage: Stage, jobs: int) -> Report:
    """Play scenes side by side, the longest first, and record them.

    Args:
        scenes: All that there are; those of which no command is wanted are left out.
        stage: Where, and which commands are kept.
        jobs: How many scenes at once.
    """
    report = Report()
    chosen = [scene for scene in scenes if _may_be_wanted(scene, stage)]
    chosen.sort(key=lambda scene: -scene.seconds_s)
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(lambda scene: play(scene, stage, report), chosen):
            pass
    return report


def _may_be_wanted(scene: Scene, stage: Stage) -> bool:
    """A scene whose commands follow from what others print is played where its name fits."""
    follows = any(step.then is not None for step in scene.steps)
    return any(stage.wants(scene.name, step.name) for step in scene.steps) or (
        follows and any(fnmatchcase(scene.name, one.partition("/")[0]) for one in stage.wanted)
    )


def play(scene: Scene, stage: Stage, report: Report) -> None:
    """Play one scene from its inputs to its last wanted command."""
    folder = stage.work / scene.name
    folder.mkdir(parents=True)
    for write in scene.inputs:
        write(folder)
    steps = list(scene.steps)
    wanted = [number for number, step in enumerate(steps) if stage.wants(scene.name, step.name)]
    follows = any(step.then is not None for step in steps)
    steps = steps if follows or not wanted else steps[: wanted[-1] + 1]
    place = 0
    while place < len(steps):  # a step may be followed by others that its output names
        step = steps[place]
        place += 1
        for edit in step.edits:
            edit(folder)
        before = files_there(folder)
        outcome, seconds = run(step, folder, stage)
        report.seconds_s[f"{scene.name}/{step.name}"] = round(seconds, 2)
        if stage.wants(scene.name, step.name):
            keep(scene, step, outcome, changes(before, folder), stage)
            report.n_commands += 1
        if outcome.code != step.code:
            report.surprises.append(f"{scene.name}/{step.name}: ended with {outcome.code}, not {step.code}")
        if step.then is not None:
            steps[place:place] = list(step.then(outcome))
    shutil.rmtree(folder, ignore_errors=True)


def run(step: Step, folder: Path, stage: Stage) -> tuple[Outcome, float]:
    """Run one command in a scene's folder; return what it left behind and the seconds that processors spent on it."""
    command = [sys.executable, "-m", "histotune", *shlex.split(step.line)]
    environment = {**surroundings(folder, stage), **step.environment}
    printed = [stage.work / f"{folder.name}.{name}" for name in ("stdout", "stderr")]
    with printed[0].open("wb") as out, printed[1].open("wb") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=err)  # fmt: skip
        watch = threading.Timer(LONGEST_S, process.kill)
        watch.start()
        _, status, used = os.wait4(process.pid, 0)
        watch.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    code = None if process.returncode == -signal.SIGKILL else process.returncode
    texts = [path.read_bytes().decode("utf-8", errors="backslashreplace") for path in printed]
    return Outcome(code, *texts), used.ru_utime + used.ru_stime


def surroundings(folder: Path, stage: Stage) -> dict[str, str]:
    """Return the environment of a scene's commands: folders of its own, one thread, no network, a fixed width."""
    home = folder / "home"
    (folder / "temporary").mkdir(exist_ok=True)
    home.mkdir(exist_ok=True)
    own = {
        "HOME": home, "XDG_CACHE_HOME": home / "cache", "XDG_STATE_HOME": home / "state",
        "XDG_CONFIG_HOME": home / "config", "XDG_DATA_HOME": home / "data", "TMPDIR": folder / "temporary",
        "MPLCONFIGDIR": stage.work / "matplotlib",
    }  # fmt: skip
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        **FIXED,
        **dict.fromkeys(ONE_THREAD, "1"),
        **{name: str(path) for name, path in own.items()},
        "PYTHONPATH": str(stage.source),
    }


def files_there(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return every file below a folder with what tells whether it was written since."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() or path.is_symlink():
            status = path.lstat()
            found[path.relative_to(folder).as_posix()] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


@dataclass(frozen=True)
class Changes:
    """Files that a command wrote and removed, by their paths below the scene's folder."""

    folder: Path
    written: tuple[str, ...]
    removed: tuple[str, ...]


def changes(before: dict[str, tuple[int, int, int]], folder: Path) -> Changes:
    """Return what changed below a folder."""
    after = files_there(folder)
    written = sorted(name for name, state in after.items() if before.get(name) != state)
    return Changes(folder, tuple(written), tuple(sorted(set(before) - set(after))))


def keep(scene: Scene, step: Step, outcome: Outcome, changed: Changes, stage: Stage) -> None:
    """Write one command's part of the record."""
    place = f"{scene.name}/{step.name}"
    masks = stage.masks
    told = {
        "command": f"histotune {step.line}",
        "environment": dict(step.environment),
        "exit code": outcome.code,
        "removed": [masks.text(f"{place}/removed", name) for name in changed.removed
                    if masks.keeps(f"{place}/files/{name}")],
    }  # fmt: skip
    texts = {"outcome.json": to_json(told), "stdout.txt": outcome.out, "stderr.txt": outcome.err}
    for name, text in texts.items():
        write(stage.record / place / name, masks.text(f"{place}/{name}", text))
    for name, text in files_kept(place, changed, masks):
        write(stage.record / place / "files" / name, text)


def files_kept(place: str, changed: Changes, masks: Masks) -> Iterator[tuple[str, str]]:
    """Yield the name in the record and the masked text of every file that a command wrote."""
    seen: Counter[str] = Counter()
    for name in (name for name in changed.written if masks.keeps(f"{place}/files/{name}")):
        ending, text = decode(changed.folder / name)
        masked = masks.text(f"{place}/files", name)
        seen[masked] += 1
        masked = masked if seen[masked] == 1 else f"{masked}.{seen[masked]}"
        yield masked + ending, mask_file(f"{place}/files/{masked}", name, text, decoded=bool(ending), masks=masks)


def mask_file(file: str, name: str, text: str, *, decoded: bool, masks: Masks) -> str:
    """Return a file's text, masked by key where it is JSON and by line otherwise."""
    if not decoded and not name.endswith(".json"):
        return masks.text(file, text)
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError:
        return masks.text(file, text)
    indent = 1 if decoded else 2
    if json.dumps(value, indent=indent, ensure_ascii=False) != text.rstrip("\n"):
        return masks.text(file, text)  # written in a way of its own, which is kept
    ending = text[len(text.rstrip("\n")) :]
    return json.dumps(masks.value(file, value), indent=indent, ensure_ascii=False) + ending


def write(path: Path, text: str) -> None:
    """Write a text with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
