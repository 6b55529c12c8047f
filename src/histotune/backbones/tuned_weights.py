"""Changed tensors of a network as an adapter: saved with the hash of their base, and put back only where all fit.

Full fine-tuning, or that of the last blocks or the norms, gives no low-rank update but new values of some tensors. They
are kept alone, under the names of the network that they were trained in.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from histotune.backbones.adapters import (
    SIDECAR,
    SIDECAR_FORMAT,
    TUNED,
    AdapterFiles,
    base_facts,
    check_base,
    check_base_weights,
    name_patterns,
    naming_library,
    read_adapter_config,
    refuse_changed,
    refuse_foreign_files,
)
from histotune.backbones.merge import FUSED, GATE, UP, canonical, naming_hint
from histotune.tools.atomic import atomic_folder
from histotune.tools.errors import UserError
from histotune.tools.files import hash_file, write_sealed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from histotune.backbones.spec import BackboneSpec
    from histotune.images.hashes import HashIndex


Tensors = dict[str, torch.Tensor]
Half = Literal["", "gate", "up"]
COUNTER = "num_batches_tracked"  # of batch norms while they train; an integer that no embedding depends on


def save_tuned(
    tensors: Mapping[str, torch.Tensor], folder: Path, spec: BackboneSpec, method: str, index: HashIndex | None = None
) -> None:
    """Save the tensors that fine-tuning has changed as an adapter of the backbone; the folder appears when finished.

    Args:
        tensors: The changed tensors by their names in ``build_network(spec).module.state_dict()``. The counters of
            batch norms are left out.
        folder: Where they go; an older one is replaced.
        spec: The backbone that they were trained from, without an adapter.
        method: What was trained, in a word: ``full``, ``last-blocks``, ``norms``.
        index: Remembered hashes of files.

    Raises:
        UserError: The backbone has an adapter itself, there are no tensors, one of them is no floating type or not
            finite, or the folder holds other files.
    """
    from safetensors.torch import save_file

    base = base_facts(spec, index)
    kept = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] != COUNTER}
    if not kept:
        raise UserError("fine-tuning has changed no tensor, so there is no adapter", value=method, fix="train longer")
    _refuse_values(kept, "train again with a lower learning rate", str(folder))
    refuse_foreign_files(folder)
    with atomic_folder(folder) as temporary:
        save_file(_apart_in_memory(kept), temporary / TUNED)
        facts = {
            "format": SIDECAR_FORMAT,
            "kind": "tensors",
            "method": method,
            "naming": {**naming_library(spec), "tensors": name_patterns(kept)},
            "base": base,
            "sha256": hash_file(temporary / TUNED),
        }
        write_sealed(temporary / SIDECAR, facts)


def _apart_in_memory(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Return tensors on the CPU of which none shows the memory of another; those that do are copied, the rest are not.

    Full fine-tuning changes gigabytes: a copy of all of them would be a second network.
    """
    seen: set[int] = set()
    found: Tensors = {}
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        storage = one.untyped_storage()
        found[name] = one.clone() if storage.nbytes() != one.nbytes or storage.data_ptr() in seen else one
        seen.add(storage.data_ptr())
    return found


def load_tuned(
    module: torch.nn.Module, spec: BackboneSpec, files: AdapterFiles, index: HashIndex | None = None
) -> torch.nn.Module:
    """Put an adapter's tensors into a network of fp32 weights; it is refused where one of them has no place.

    Args:
        module: The network; it is changed in place.
        spec: The backbone with the adapter.
        files: The adapter's.
        index: Remembered hashes of files: those of the base, which may be gigabytes, are not read again then.
    """
    check_base(spec, files)
    settings = read_adapter_config(files)
    refuse_changed(files, settings, hash_file(files.weights))
    check_base_weights(spec, files, index)
    tensors = _read(files)
    held = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    placed = place_tensors(tensors, held, translate=spec.kind == "transformers")
    if placed.problems:
        raise UserError(
            f"the tensors of this adapter do not fit the backbone: {'; '.join(placed.problems)}",
            value=files.weights.parent,
            allowed="an adapter whose every tensor has its place and shape in the backbone",
            fix=naming_hint(files),
        )
    with torch.no_grad():
        for name, tensor in placed.tensors.items():
            held[name].copy_(tensor)  # a state dict shares the memory of its network
    return module


def _read(files: AdapterFiles) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(files.weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError("the adapter's weights can't be read", value=files.weights, fix="copy it again") from error
    _refuse_values(tensors, "train or copy it again", str(files.weights.parent))
    return {name: tensor.float() for name, tensor in tensors.items()}


def _refuse_values(tensors: Mapping[str, torch.Tensor], fix: str, place: str) -> None:
    """Refuse tensors of whole numbers, and values that float32 does not hold."""
    whole = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole:
        raise UserError(
            f"the tensor {whole[0]} has type {str(tensors[whole[0]].dtype).removeprefix('torch.')}",
            value=place,
            allowed="floating types",
            fix="leave it out; fine-tuning changes no whole numbers",
        )
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor.detach().float()).all())]
    if broken:
        what = f"the adapter holds values that are not finite, in {len(broken)} tensors, e.g. {broken[0]}"
        raise UserError(what, value=place, fix=fix)


# ---- Where each tensor belongs ----


@dataclass(frozen=True)
class PlacedTensors:
    """Tensors under the names of a network.

    Attributes:
        tensors: New values by the network's own names.
        problems: What has no place, in words; with any of these the network is left as it is.
    """

    tensors: Tensors
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """New values for a tensor of a network, or for half of its rows.

    Attributes:
        target: The network's name of the tensor.
        values: The new values.
        half: Which half of a fused SwiGLU input; empty for a whole tensor.
    """

    target: str
    values: torch.Tensor
    half: Half = ""


def place_tensors(
    tensors: Mapping[str, torch.Tensor], held: Mapping[str, torch.Tensor], *, translate: bool
) -> PlacedTensors:
    """Put each tensor where a network has it, under the names of any version of transformers where asked to."""
    by_canonical = _by_canonical(held) if translate else {}
    unknown: list[str] = []
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for name, tensor in tensors.items():
        found = (Piece(name, tensor),) if name in held else _translated(name, tensor, by_canonical)
        if not found:
            unknown.append(name)
        for piece in found:
            pieces[piece.target].append(piece)
    odd = [target for target, given in pieces.items() if not all(_fits(one, held[target]) for one in given)]
    twice = [target for target, given in pieces.items() if not _apart(given)]
    problems = {"have no place there": unknown, "have another shape": odd, "are given twice": twice}
    words = tuple(f"{len(names):,} {what}, e.g. {names[0]}" for what, names in problems.items() if names)
    placed = {} if words else {target: _assembled(given, held[target]) for target, given in pieces.items()}
    return PlacedTensors(placed, words)


def _by_canonical(names: Iterable[str]) -> dict[str, str]:
    """Return a network's names by those that all versions share; names that two tensors would share are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[_canonical(name)].append(name)
    return {shared: own[0] for shared, own in found.items() if len(own) == 1}


def _canonical(name: str) -> str:
    layer, _, leaf = name.rpartition(".")
    return f"{canonical(layer)}.{leaf}"


def _translated(name: str, tensor: torch.Tensor, by_canonical: Mapping[str, str]) -> tuple[Piece, ...]:
    """Return where a tensor goes whose name the network does not have: renamed, split or joined; nowhere if empty."""
    shared = _canonical(name)
    if shared in by_canonical:
        return (Piece(by_canonical[shared], tensor),)
    layer, _, leaf = shared.rpartition(".")
    stem = layer.rpartition(".mlp.")[0]
    gate, up, fused = (by_canonical.get(f"{stem}{part}.{leaf}") for part in (GATE, UP, FUSED))
    if layer.endswith(FUSED) and gate is not None and up is not None and _is_even(tensor):
        first, second = tensor.chunk(2)
        return Piece(gate, first), Piece(up, second)
    if layer.endswith((GATE, UP)) and fused is not None:
        return (Piece(fused, tensor, "gate" if layer.endswith(GATE) else "up"),)
    return ()


def _is_even(tensor: torch.Tensor) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] > 0 and tensor.shape[0] % 2 == 0


def _fits(piece: Piece, own: torch.Tensor) -> bool:
    wanted = own if not piece.half else own.chunk(2)[0] if _is_even(own) else own[:0]
    return piece.values.shape == wanted.shape


def _apart(given: list[Piece]) -> bool:
    """Return whether pieces of one tensor do not overlap."""
    halves = {piece.half for piece in given}
    return len(given) == 1 or ("" not in halves and len(halves) == len(given))


def _assembled(given: list[Piece], own: torch.Tensor) -> torch.Tensor:
    """Return the new values of a tensor; a half that was not changed keeps the network's own."""
    if not given[0].half:
        return given[0].values
    whole = own.clone()
    for piece in given:
        whole.chunk(2)[0 if piece.half == "gate" else 1].copy_(piece.values)
    return whole
