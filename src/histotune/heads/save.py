"""A head on disk: safetensors for the numbers, JSON for what they mean."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from histotune.heads.head import Calibration, Decision, Head, HiddenLayer, Selection
from histotune.tools.errors import UserError
from histotune.tools.files import atomic_path, hash_file, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[np.float64]]

FORMAT = "histotune-head"
FORMAT_VERSION = 3
OLD_VERSION = 2
"""Version 2 held a temperature and a threshold and nothing about them; it is read as version 3."""
WEIGHTS_FILE = "head.safetensors"
FACTS_FILE = "head.json"
LISTS = ("pooling", "columns", "class_names", "train_groups")
PLAIN = ("backbone", "space_key", "meaning_key", "penalty", "n_tiles", "n_groups", "family")
NESTED: dict[str, Any] = {"calibration": Calibration, "decision": Decision, "selection": Selection | None}
LINEAR, HIDDEN = {"weight_KD", "bias_K"}, {"weight_HD", "bias_H"}


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

    tensors = {"weight_KD": head.weight_KD, "bias_K": head.bias_K}
    if head.hidden is not None:
        tensors |= {"weight_HD": head.hidden.weight_HD, "bias_H": head.hidden.bias_H}
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary)
    facts = {name: getattr(head, name) for name in (*LISTS, *PLAIN)}
    nested = {
        "calibration": asdict(head.calibration),
        "decision": asdict(head.decision),
        "selection": None if head.selection is None else asdict(head.selection),
    }
    written = {
        "activation": None if head.hidden is None else head.hidden.activation,
        "head_id": head.head_id,
        "weights_sha256": hash_file(folder / WEIGHTS_FILE),
    }
    write_json(folder / FACTS_FILE, {"format": FORMAT, "format_version": FORMAT_VERSION, **facts, **nested, **written})


def load_head(folder: Path) -> Head:
    """Read a head that :func:`save_head` wrote, or one of format version 2.

    Args:
        folder: The head's folder.

    Returns:
        The same head, with the same ``head_id``.

    Raises:
        UserError: The folder holds no head, one of another format version, or a damaged one.
    """
    facts = _read_facts(folder)
    tensors = _read_weights(folder, facts)
    try:
        head = Head(
            weight_KD=tensors["weight_KD"],
            bias_K=tensors["bias_K"],
            hidden=HiddenLayer(tensors["weight_HD"], tensors["bias_H"], facts["activation"])
            if facts["activation"]
            else None,
            **_typed(facts),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise _damaged(folder, f"{FACTS_FILE} is incomplete: {error}") from error
    _check_shapes(head, folder)
    if head.head_id != facts["head_id"]:
        raise _damaged(folder, "its identity does not match its content")
    return head


def _typed(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts as the fields of a head."""
    lists = {name: tuple(facts[name]) for name in LISTS}
    nested: dict[str, Any] = {name: TypeAdapter(kind).validate_python(facts[name]) for name, kind in NESTED.items()}
    return {**lists, **{name: facts[name] for name in PLAIN}, **nested}


def _check_shapes(head: Head, folder: Path) -> None:
    """Refuse tensors that don't fit each other or the facts."""
    n_classes, n_inputs = len(head.class_names), len(head.columns)
    if head.hidden is not None:
        n_hidden = len(head.hidden.bias_H)
        if head.hidden.weight_HD.shape != (n_hidden, n_inputs):
            raise _damaged(folder, f"hidden weights {head.hidden.weight_HD.shape} do not fit {n_inputs} columns")
        n_inputs = n_hidden
    if head.weight_KD.shape != (n_classes, n_inputs) or head.bias_K.shape != (n_classes,):
        raise _damaged(folder, f"weights {head.weight_KD.shape} do not fit {n_classes} classes and {n_inputs} inputs")
    if len(head.calibration.scale_K) not in {0, n_classes} or len(head.calibration.shift_K) != len(
        head.calibration.scale_K
    ):
        raise _damaged(folder, f"its calibration does not fit {n_classes} classes")


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
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, f"{FACTS_FILE} is not JSON") from error
    facts: dict[str, Any] = read if isinstance(read, dict) else {}
    if facts.get("format") != FORMAT:
        raise UserError(f"{FACTS_FILE} does not describe a histotune head", value=folder)
    if facts.get("format_version") == OLD_VERSION:
        facts = _from_version_2(facts)
    if facts.get("format_version") != FORMAT_VERSION:
        raise UserError(
            "this head was saved in another format version",
            value=facts.get("format_version"),
            allowed=f"{OLD_VERSION}, {FORMAT_VERSION}",
            fix="install the histotune version that saved it, or train it anew",
        )
    missing = [
        name for name in (*LISTS, *PLAIN, *NESTED, "activation", "head_id", "weights_sha256") if name not in facts
    ]
    if missing:
        raise _damaged(folder, f"{FACTS_FILE} lacks {', '.join(missing)}")
    return facts


def _from_version_2(facts: dict[str, Any]) -> dict[str, Any]:
    """Return version 2's facts in today's form; its heads were linear logistic regressions."""
    told = dict(facts)
    if "temperature" in told:
        told["calibration"] = {"temperature": told.pop("temperature")}
    if "threshold" in told:
        told["decision"] = {"threshold": told.pop("threshold")}
    return {**told, "family": "logistic", "activation": None, "selection": None, "format_version": FORMAT_VERSION}


def _read_weights(folder: Path, facts: dict[str, Any]) -> Tensors:
    """Read the tensors, after their hash has been checked."""
    from safetensors.numpy import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _damaged(folder, f"{WEIGHTS_FILE} is missing")
    if hash_file(path) != str(facts["weights_sha256"]):
        raise _damaged(folder, f"{WEIGHTS_FILE} is not the file that {FACTS_FILE} describes")
    tensors: Tensors = load_file(path)
    expected = LINEAR | HIDDEN if facts["activation"] else LINEAR
    if set(tensors) != expected or any(values.dtype != np.float64 for values in tensors.values()):
        raise _damaged(folder, f"{WEIGHTS_FILE} holds other tensors: {', '.join(sorted(tensors))}")
    return tensors


def _damaged(folder: Path, detail: str) -> UserError:
    return UserError(f"this head is damaged ({detail})", value=folder, fix="copy it again, or train it anew")
