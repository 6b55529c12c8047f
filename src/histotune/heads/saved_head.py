"""A head on disk: safetensors for the numbers, JSON for what they mean, and a checksum over both.

The checksum is against accidents: a bad disk, a torn copy, an edit by hand. Who forges a head can forge its checksum,
too; where a head comes from is for you to know.
"""

# K classes, D columns of the pooling, N training tiles

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histotune.heads.head import OPTIONAL_TENSORS, Activation, Calibration, Decision, Head, HiddenLayer, Selection
from histotune.tools.atomic import atomic_path
from histotune.tools.errors import UserError
from histotune.tools.files import CHECKSUM, hash_bytes, hash_file, hash_json, read_json, write_sealed
from histotune.tools.stand_ins import fix_of, stand_in_at

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]

LOG = logging.getLogger(__name__)
FORMAT = "histotune-head"
VERSION = 4
WITHOUT_CHECKSUM = (2, 3)
"""Version 2 held a temperature and a threshold and nothing about them; 3 had no checksum and no training tiles."""
WEIGHTS_FILE = "head.safetensors"
FACTS_FILE = "head.json"
NEW_IN_4 = (CHECKSUM, "class_mapping")
LINEAR, HIDDEN = {"weight_KD", "bias_K"}, {"weight_HD", "bias_H"}
TRAIN = "train_sha256_N32"


@dataclass(frozen=True)
class SavedHead:
    """A head as its files hold it, and the checksum over them; empty for heads of earlier formats, which have none."""

    head: Head
    checksum: str


class HeadFacts(BaseModel):
    """What ``head.json`` says, typed and within its ranges."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["histotune-head"]
    format_version: Literal[3, 4]
    head_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    activation: Activation | None
    pooling: tuple[str, ...]
    columns: tuple[Annotated[int, Field(ge=0)], ...]
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    train_groups: tuple[str, ...]
    backbone: str
    space_key: str
    meaning_key: str
    penalty: Annotated[float, Field(ge=0)]
    n_tiles: Annotated[int, Field(ge=0)]
    n_groups: Annotated[int, Field(ge=0)]
    family: str
    calibration: Calibration
    decision: Decision
    selection: Selection | None
    class_mapping: dict[str, str] = Field(default_factory=dict)


OF_THE_FILE = ("format", "format_version", "head_id", "weights_sha256", "activation")
"""Facts that are no fields of a head; ``meaning_key`` is its compatibility_key."""


def save_head(head: Head, folder: Path) -> SavedHead:
    """Write a head; other files of the folder stay as they are.

    The facts are written last and name the hash of the weights, so a half-written head is never read as whole.

    Args:
        head: The head.
        folder: Where ``head.safetensors`` and ``head.json`` belong; made when missing.

    Returns:
        The head with its checksum.

    Raises:
        UserError: The folder can't be written or the disk is full.
    """
    from safetensors.numpy import save

    head = replace(head, saved_id="")  # in format 4 an id says what is in the files
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save({name: np.ascontiguousarray(values) for name, values in head.tensors.items()}))
    plain = asdict(head) | {"meaning_key": head.compatibility_key}
    facts = {name: plain[name] for name in HeadFacts.model_fields if name not in OF_THE_FILE} | {
        "format": FORMAT,
        "format_version": VERSION,
        "activation": None if head.hidden is None else head.hidden.activation,
        "head_id": head.head_id,
        "weights_sha256": hash_file(folder / WEIGHTS_FILE),
    }
    write_sealed(folder / FACTS_FILE, facts)
    return SavedHead(head, hash_json(facts))


def load_head(folder: Path) -> Head:
    """Read a head that :func:`save_head` wrote, or one of format version 2 or 3.

    Args:
        folder: The head's folder.

    Returns:
        The same head, with the same ``head_id``.

    Raises:
        UserError: The folder holds no head, one of another format version, or a damaged one.
    """
    return read_head(folder).head


def read_head(folder: Path) -> SavedHead:
    """Read a head and its checksum; what :func:`load_head` says holds for it."""
    raw = _read_facts(folder)
    checksum = str(raw.pop(CHECKSUM, ""))
    facts = _typed(raw, folder)
    head = _head(facts, _read_weights(folder, facts), folder)
    _check_shapes(head, folder)
    if facts.head_id != (head.head_id if checksum else _id_before_4(head)):
        raise _damaged(folder, "its identity does not match its content")
    if checksum:
        return SavedHead(head, checksum)
    LOG.warning(
        "the head in %s was saved by an earlier version, without a checksum: whether its class names, groups or "
        "threshold changed since then can't be told",
        folder,
    )
    return SavedHead(replace(head, saved_id=facts.head_id), "")


def _read_facts(folder: Path) -> dict[str, Any]:
    """Read head.json and check that nothing of it has changed, as far as its format can tell."""
    path = folder / FACTS_FILE
    if not path.is_file():
        raise UserError(
            "this folder holds no head",
            value=folder,
            allowed=f"a folder with {FACTS_FILE} and {WEIGHTS_FILE}",
            fix="pass the folder that `histotune sweep` or `histotune run` wrote",
        )
    try:
        read = read_json(path)
    except ValueError as error:
        raise _damaged(folder, f"{FACTS_FILE} is not JSON: {error}") from error
    facts: dict[str, Any] = read if isinstance(read, dict) else {}
    if facts.get("format") != FORMAT:
        raise UserError(f"{FACTS_FILE} does not describe a histotune head", value=folder)
    version = facts.get("format_version")
    if version == VERSION:
        rest = {name: value for name, value in facts.items() if name != CHECKSUM}
        if facts.get(CHECKSUM) != hash_json(rest):
            raise _damaged(folder, f"{FACTS_FILE} has changed since it was written")
        return facts
    if version not in WITHOUT_CHECKSUM:
        raise UserError(
            "this head was saved in another format version",
            value=version,
            allowed=", ".join(map(str, (*WITHOUT_CHECKSUM, VERSION))),
            fix="install the histotune version that saved it, or train it anew",
        )
    newer = [name for name in NEW_IN_4 if name in facts]
    if newer:
        raise _damaged(folder, f"{FACTS_FILE} says format {version}, and {newer[0]} is only in format {VERSION}")
    return _from_version_2(facts) if version == WITHOUT_CHECKSUM[0] else facts


def _from_version_2(facts: dict[str, Any]) -> dict[str, Any]:
    """Return version 2's facts in the form of version 3; its heads were linear logistic regressions."""
    told = dict(facts)
    if "temperature" in told:
        told["calibration"] = {"temperature": told.pop("temperature")}
    if "threshold" in told:
        told["decision"] = {"threshold": told.pop("threshold")}
    return {**told, "family": "logistic", "activation": None, "selection": None, "format_version": 3}


def _typed(raw: dict[str, Any], folder: Path) -> HeadFacts:
    """Return the facts by their types and within their ranges."""
    missing = [name for name, field in HeadFacts.model_fields.items() if field.is_required() and name not in raw]
    if missing:
        raise _damaged(folder, f"{FACTS_FILE} lacks {', '.join(missing)}")
    try:
        facts = HeadFacts.model_validate_json(json.dumps(raw))
    except (ValidationError, ValueError) as error:
        raise _damaged(folder, f"{FACTS_FILE}: {_first(error)}") from error
    for name, values in (("columns", facts.columns), ("class_names", facts.class_names), ("pooling", facts.pooling)):
        if len(set(values)) < len(values):
            raise _damaged(folder, f"{name} names one twice")
    calibration, threshold = facts.calibration, facts.decision.threshold
    numbers = (calibration.temperature, threshold, *calibration.scale_K, *calibration.shift_K)
    if not all(map(math.isfinite, numbers)) or calibration.temperature <= 0 or not 0 <= threshold <= 1:
        raise _damaged(folder, "its temperature or threshold is out of range")
    return facts


def _head(facts: HeadFacts, tensors: Tensors, folder: Path) -> Head:
    """Put a head together."""
    own = {field.name for field in fields(Head)}
    plain = {name: getattr(facts, name) for name in HeadFacts.model_fields if name in own}
    optional: dict[str, Any] = {name: tensors[name] for name in (TRAIN, *OPTIONAL_TENSORS) if name in tensors}
    try:
        hidden = None
        if facts.activation:
            hidden = HiddenLayer(tensors["weight_HD"], tensors["bias_H"], facts.activation)
        return Head(
            tensors["weight_KD"],
            tensors["bias_K"],
            hidden=hidden,
            compatibility_key=facts.meaning_key,
            **plain,
            **optional,
        )
    except (KeyError, TypeError) as error:
        raise _damaged(folder, f"{FACTS_FILE} is incomplete: {error}") from error


def _check_shapes(head: Head, folder: Path) -> None:
    """Refuse tensors that don't fit each other or the facts."""
    n_classes, n_inputs = len(head.class_names), len(head.columns)
    for name in OPTIONAL_TENSORS:
        values = getattr(head, name)
        if values is not None and values.shape != (n_inputs,):
            raise _damaged(folder, f"{name} {values.shape} does not fit {n_inputs} columns")
    if head.train_sha256_N32.ndim != 2 or head.train_sha256_N32.shape[1] != 32:
        raise _damaged(folder, f"the hashes of its training tiles have the shape {head.train_sha256_N32.shape}")
    if head.hidden is not None:
        n_hidden = len(head.hidden.bias_H)
        if head.hidden.weight_HD.shape != (n_hidden, n_inputs):
            raise _damaged(folder, f"hidden weights {head.hidden.weight_HD.shape} do not fit {n_inputs} columns")
        n_inputs = n_hidden
    if head.weight_KD.shape != (n_classes, n_inputs) or head.bias_K.shape != (n_classes,):
        raise _damaged(folder, f"weights {head.weight_KD.shape} do not fit {n_classes} classes and {n_inputs} inputs")
    n_scales, n_shifts = len(head.calibration.scale_K), len(head.calibration.shift_K)
    if n_scales not in {0, n_classes} or n_shifts != n_scales:
        raise _damaged(folder, f"its calibration does not fit {n_classes} classes")


def _read_weights(folder: Path, facts: HeadFacts) -> Tensors:
    """Read the tensors, after their hash has been checked."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise _damaged(folder, f"{WEIGHTS_FILE} is missing")
    if hash_file(path) != facts.weights_sha256:
        instead = stand_in_at(path)
        raise _damaged(
            folder, f"{WEIGHTS_FILE} is {instead.words if instead else f'not the file that {FACTS_FILE} describes'}"
        )
    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(folder, f"{WEIGHTS_FILE}: {error}") from error
    expected = LINEAR | HIDDEN if facts.activation else LINEAR
    allowed = expected
    if facts.format_version == VERSION:
        expected, allowed = expected | {TRAIN}, expected | {TRAIN, *OPTIONAL_TENSORS}
    types_fit = all(values.dtype == (np.uint8 if name == TRAIN else np.float64) for name, values in tensors.items())
    if not expected <= set(tensors) <= allowed or not types_fit:
        raise _damaged(folder, f"{WEIGHTS_FILE} holds other tensors: {', '.join(sorted(tensors))}")
    return tensors


def _id_before_4(head: Head) -> str:
    """Return the id that formats 2 and 3 gave a head: over its weights, space, pooling and calibration alone."""
    parts: list[bytes | str] = [
        head.weight_KD.tobytes(),
        head.bias_K.tobytes(),
        "\n".join(head.pooling),
        head.space_key,
        repr((head.temperature, head.threshold)),
    ]
    if head.hidden is not None:
        parts += [head.hidden.weight_HD.tobytes(), head.hidden.bias_H.tobytes(), head.hidden.activation]
    if head.calibration.scale_K:
        parts.append(repr((head.calibration.scale_K, head.calibration.shift_K)))
    return hash_bytes(*parts)[:16]


def _first(error: ValidationError | ValueError) -> str:
    """Return the first thing that is wrong, in words."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors()[0]
    place = ".".join(str(part) for part in detail["loc"])
    return f"{place}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _damaged(folder: Path, detail: str) -> UserError:
    return UserError(
        f"this head is damaged ({detail})", value=folder, fix=fix_of([detail], "copy it again, or train it anew")
    )
