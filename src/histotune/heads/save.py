"""A head on disk: safetensors for the numbers, JSON for what they mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.errors import UserError
from histotune.files import atomic_path, hash_file, write_json
from histotune.heads.records import Head

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FORMAT = "histotune-head"
FORMAT_VERSION = 2
WEIGHTS_FILE = "head.safetensors"
FACTS_FILE = "head.json"
FACTS = (
    "pooling", "columns", "class_names", "train_groups", "backbone", "space_key", "meaning_key", "penalty",
    "temperature", "threshold", "n_tiles", "n_groups",
)  # fmt: skip


def save_head(head: Head, folder: Path) -> None:
    """Write a head; other files of the folder stay as they are.

    The facts are written last and name the hash of the weights, so a half-written head is never read as whole.

    Args:
        head: The head.
        folder: Where ``head.safetensors`` and ``head.json`` belong; made when missing.

    Raises:
        UserError: The folder can't be written or the disk is full.
    """
    from safetensors.numpy import save_file

    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        tensors = {"weight_KD": head.weight_KD, "bias_K": head.bias_K}
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary)
    facts = {name: getattr(head, name) for name in FACTS}
    written = {"head_id": head.head_id, "weights_sha256": hash_file(folder / WEIGHTS_FILE)}
    write_json(folder / FACTS_FILE, {"format": FORMAT, "format_version": FORMAT_VERSION, **facts, **written})


def load_head(folder: Path) -> Head:
    """Read a head that :func:`save_head` wrote.

    Args:
        folder: The head's folder.

    Returns:
        The same head, with the same ``head_id``.

    Raises:
        UserError: The folder holds no head, one of another format version, or a damaged one.
    """
    facts = _read_facts(folder)
    weight_KD, bias_K = _read_weights(folder, str(facts["weights_sha256"]))
    try:
        head = Head(
            weight_KD=weight_KD,
            bias_K=bias_K,
            pooling=tuple(facts["pooling"]),
            columns=tuple(facts["columns"]),
            class_names=tuple(facts["class_names"]),
            train_groups=tuple(facts["train_groups"]),
            **{name: facts[name] for name in FACTS[4:]},
        )
    except (KeyError, TypeError) as error:
        raise _damaged(folder, f"{FACTS_FILE} is incomplete: {error}") from error
    n_classes, n_columns = len(head.class_names), len(head.columns)
    if head.weight_KD.shape != (n_classes, n_columns) or head.bias_K.shape != (n_classes,):
        raise _damaged(folder, f"weights {head.weight_KD.shape} do not fit {n_classes} classes and {n_columns} columns")
    if head.head_id != facts["head_id"]:
        raise _damaged(folder, "its identity does not match its content")
    return head


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read and check head.json."""
    path = folder / FACTS_FILE
    if not path.is_file():
        raise UserError(
            "this folder holds no head",
            value=folder,
            allowed=f"a folder with {FACTS_FILE} and {WEIGHTS_FILE}",
            fix="pass the folder that `histotune sweep` or `histotune run` wrote",
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"{FACTS_FILE} is not JSON") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UserError(f"{FACTS_FILE} does not describe a histotune head", value=folder)
    if facts.get("format_version") != FORMAT_VERSION:
        raise UserError(
            "this head was saved in another format version",
            value=facts.get("format_version"),
            allowed=str(FORMAT_VERSION),
            fix="install the histotune version that saved it, or train it anew",
        )
    missing = [name for name in (*FACTS, "head_id", "weights_sha256") if name not in facts]
    if missing:
        raise _damaged(folder, f"{FACTS_FILE} lacks {', '.join(missing)}")
    return facts


def _read_weights(folder: Path, expected_sha256: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the tensors, after their hash has been checked."""
    from safetensors.numpy import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _damaged(folder, f"{WEIGHTS_FILE} is missing")
    if hash_file(path) != expected_sha256:
        raise _damaged(folder, f"{WEIGHTS_FILE} is not the file that {FACTS_FILE} describes")
    tensors = load_file(path)
    if set(tensors) != {"weight_KD", "bias_K"} or any(values.dtype != np.float64 for values in tensors.values()):
        raise _damaged(folder, f"{WEIGHTS_FILE} holds other tensors: {', '.join(sorted(tensors))}")
    return tensors["weight_KD"], tensors["bias_K"]


def _damaged(folder: Path, detail: str) -> UserError:
    return UserError(f"this head is damaged ({detail})", value=folder, fix="copy it again, or train it anew")
