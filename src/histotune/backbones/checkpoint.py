"""Tensors from checkpoint files, under the names that a network has for them."""

from __future__ import annotations

import logging
import pickle  # for its error class only: torch raises it where a file holds more than tensors
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

Tensors = dict[str, torch.Tensor]

LOG = logging.getLogger(__name__)
HOLDERS = ("state_dict", "model_state_dict", "teacher", "model", "backbone", "encoder", "module", "network", "net")
"""Names under which training scripts keep the weights beside other things, the likeliest first."""
DEPTH = 3  # levels of such names, one in the other, and parts of a prefix
OTHER = re.compile(r"GLOBAL ([\w.]+)")
CALLS = ("posix", "nt", "os", "subprocess", "builtins", "sys", "shutil", "socket", "importlib", "runpy", "pty")
"""Modules whose functions a checkpoint has no reason to name."""
KEEP_TENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "x = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    f"x = next((x[k] for k in {HOLDERS!r} if isinstance(x.get(k), dict)), x); "
    "save_file({k: v.clone().contiguous() for k, v in x.items() if torch.is_tensor(v)}, sys.argv[2])"
)
FORMATS = "safetensors, or a plain state dict"


def read_tensors(paths: tuple[Path, ...]) -> Tensors:
    """Read a checkpoint of safetensors files, or of torch files with ``weights_only=True``.

    Args:
        paths: The files; the tensors of all of them belong together.

    Returns:
        The tensors by name. Of a torch file that keeps them beside other things, those of the likeliest place.

    Raises:
        UserError: A file is damaged, holds no tensors, or holds something that only the reading of code could give.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: Tensors = {}
    for path in paths:
        try:
            if path.suffix == ".safetensors":
                tensors.update(load_file(path))
            else:
                tensors.update(_tensors_in(torch.load(path, map_location="cpu", weights_only=True), DEPTH))
        except (SafetensorError, RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
            raise unreadable_weights(path, error) from error
    if not tensors:
        raise UserError("this checkpoint holds no tensors", value=paths[0], allowed=FORMATS, fix="choose another file")
    return tensors


def unreadable_weights(path: Path, error: BaseException) -> UserError:
    """Return the message for weights that can't be read: what else they hold, where that is why."""
    other = OTHER.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if other is None:
        fix = "copy or download it again; convert other formats to safetensors"
        return UserError("the weights can't be read", value=path, allowed=FORMATS, fix=fix)
    if other[1].partition(".")[0] in CALLS:
        what = f"the weights can't be read: this file would call {other[1]}, which a checkpoint has no reason to"
        return UserError(what, value=path, allowed=FORMATS, fix="do not use this file; get the weights from elsewhere")
    places = (str(path), str(path.with_suffix(".safetensors")))
    return UserError(
        f"the weights can't be read: this checkpoint holds {other[1]} beside its tensors, and torch's "
        "weights_only=True, with which it is read, takes tensors alone, because anything else can run code",
        value=path,
        allowed=FORMATS,
        fix=f"where you trust whoever made it, keep its tensors alone and name the new file in place of this one: "
        f'python -c "{KEEP_TENSORS}" {" ".join(map(shlex.quote, places))}',
    )


def _tensors_in(loaded: Any, depth: int) -> Tensors:  # noqa: ANN401  (whatever was saved)
    """Return the tensors of what was saved: in one of the usual places, or on the highest level."""
    if not isinstance(loaded, Mapping):
        return {}
    for name in HOLDERS if depth else ():
        found = _tensors_in(loaded.get(name), depth - 1)
        if found:
            return found
    return {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}


def without_prefix(tensors: Tensors, wanted: Mapping[str, torch.Tensor], path: Path) -> Tensors:
    """Return a checkpoint under the names of a network, without what stands before all of them.

    Training scripts save a network as a part of another: ``module.``, ``teacher.backbone.``. The prefix is the one
    under which most of the network's tensors lie; what lies elsewhere belongs to other networks and is left out.

    Args:
        tensors: The checkpoint.
        wanted: The network's own tensors by name.
        path: The file, for messages.

    Returns:
        The tensors; as they are where the names fit already, or under no prefix.

    Raises:
        UserError: Several networks in the file fit alike.
    """
    n_own = sum(name in wanted for name in tensors)
    n_by_prefix: dict[str, int] = {}
    for name in tensors:
        parts = name.split(".")
        for n_parts in range(1, min(DEPTH, len(parts) - 1) + 1):
            if ".".join(parts[n_parts:]) in wanted:
                prefix = ".".join(parts[:n_parts]) + "."
                n_by_prefix[prefix] = n_by_prefix.get(prefix, 0) + 1
    most = max(n_by_prefix.values(), default=0)
    if most <= n_own:
        return tensors
    best = [prefix for prefix, n in n_by_prefix.items() if n == most]
    taught = [prefix for prefix in best if "teacher" in prefix]  # of a student and its teacher the latter is meant
    chosen = best if len(best) == 1 else taught
    if len(chosen) != 1:
        raise UserError(
            f"{len(best)} networks in this checkpoint fit the architecture",
            value=path,
            allowed=", ".join(best),
            fix="save the tensors of one of them as a file of its own",
        )
    prefix, rest = chosen[0], [name for name in tensors if not name.startswith(chosen[0])]
    LOG.debug("the tensors' names in %s begin with %s, which is left out", path.name, prefix)
    if rest:
        LOG.info(
            "%s holds %d tensors that this network has no place for, such as %s; they are left out",
            path.name,
            len(rest),
            rest[0],
        )
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
