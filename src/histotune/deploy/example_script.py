"""The example in a plain folder: a script that shows every step from an image to a probability, without histotune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histotune.images.config import ViewConfig

SCRIPT = '''"""Class probabilities of images: python example.py IMAGE [IMAGE ...]

Needs {packages}; it does not need histotune.
"""

import json
import sys
from pathlib import Path

import numpy as np
{imports}

here = Path(__file__).parent
facts = json.loads((here / "head.json").read_text(encoding="utf-8"))
head = load_file(here / "head.safetensors")
{load}
mean, std = (torch.tensor(facts[name]).view(3, 1, 1) for name in ("mean", "std"))


def network_input(path):
    image = Image.open(path).convert("RGB")
    width, height = image.size
{resize}
    size = facts["size_px"]
    left, top = (round((side - size) / 2) if side >= size else -((size - side) // 2) for side in (width, height))
    seen = Image.new("RGB", (size, size), tuple(facts["pad_rgb"]))
    seen.paste(image.resize((width, height), facts["pillow_filter"]), (-left, -top))
    return (torch.from_numpy(np.array(seen)).permute(2, 0, 1) / 255 - mean) / std


for path in sys.argv[1:]:
    with torch.inference_mode():
        x = network_input(path)[None]
{columns}
        probabilities = ({logits}).softmax(dim=1)[0].tolist()
    print(path, *(f"{{name}}={{value:.7f}}" for name, value in zip(facts["class_names"], probabilities)), sep="\\t")
'''

TIMM_ARGUMENTS = """arguments = facts["timm_arguments"]
for name in [name for name in arguments if name.endswith("_layer")]:
    arguments[name] = getattr(timm.layers, arguments[name], None) or getattr(torch.nn, arguments[name])"""
TIMM_HERE = """backbone_facts = json.loads((here / "backbone" / "config.json").read_text(encoding="utf-8"))
backbone = timm.create_model(backbone_facts["architecture"], num_classes=0, **{arguments}).eval()
backbone.load_state_dict(load_file(here / "backbone" / "model.safetensors"))"""
RESIZES = {
    "short-side-crop": """    short, side = min(width, height), facts["resize_px"]
    width, height = side * width // short, side * height // short""",
    "square": """    width = height = facts["resize_px"]""",
    "letterbox": """    factor = facts["size_px"] / max(width, height)
    width, height = max(int(factor * width + 0.5), 1), max(int(factor * height + 0.5), 1)""",
    "stored": """    # the stored pixels, as they are""",
    "target": """    factor = facts["mpp"] / facts["target_mpp"]
    width, height = max(int(factor * width + 0.5), 1), max(int(factor * height + 0.5), 1)""",
    "square-target": """    factor = facts["mpp"] / facts["target_mpp"]
    width = height = max(int(factor * (width * height) ** 0.5 + 0.5), 1)""",
}


@dataclass(frozen=True)
class ExampleFacts:
    """What the script depends on.

    Attributes:
        library: ``timm`` or ``transformers``.
        is_here: Whether the backbone's weights lie in the folder.
        has_arguments: Whether timm needs arguments of its own.
        columns: Lines that compute the columns from the input ``x``.
        activation: Of the hidden layer; None for linear heads.
    """

    library: str
    is_here: bool
    has_arguments: bool
    columns: tuple[str, ...]
    activation: str | None


def example_script(facts: ExampleFacts, view: ViewConfig) -> str:
    """Return the script for one head.

    Example:
        >>> from histotune.images.config import ViewConfig
        >>> facts = ExampleFacts("timm", True, False, ("columns = backbone(x)",), None)
        >>> "histotune" in example_script(facts, ViewConfig()).split("import json")[1]
        False
    """
    imports = ["import timm"] if facts.library == "timm" else []
    imports += ["import torch", "from PIL import Image", "from safetensors.torch import load_file"]
    imports += ["from transformers import AutoModel"] if facts.library == "transformers" else []
    return SCRIPT.format(
        packages=f"torch, {facts.library}, safetensors, numpy and pillow",
        imports="\n".join(imports),
        load=_load(facts),
        resize=RESIZES[_resize(view)],
        columns="\n".join(f"        {line}" for line in facts.columns),
        logits=_logits(facts.activation),
    )


def _load(facts: ExampleFacts) -> str:
    """Return the lines that open the backbone: from the folder, or from where its owner publishes it."""
    if facts.library == "transformers":
        if facts.is_here:
            return 'backbone = AutoModel.from_pretrained(here / "backbone").eval()'
        return 'name, _, revision = facts["backbone"].partition("@")\n' + (
            'backbone = AutoModel.from_pretrained(name, revision=revision or "main").eval()'
        )
    lines = [TIMM_ARGUMENTS] if facts.has_arguments else []
    arguments = "arguments" if facts.has_arguments else "{}"
    if facts.is_here:
        lines.append(TIMM_HERE.format(arguments=arguments))
    else:
        lines.append(
            f'backbone = timm.create_model(facts["backbone"], pretrained=True, num_classes=0, **{arguments}).eval()'
        )
    return "\n".join(lines).replace(", **{}", "")


def _resize(view: ViewConfig) -> str:
    if view.target_mpp is not None:
        return "square-target" if view.name == "square" else "target"
    return view.name if view.name == "letterbox" or view.scaled_px else "stored"


def _logits(activation: str | None) -> str:
    if activation is None:
        return 'columns @ head["weight"].T + head["bias"]'
    hidden = f'torch.nn.functional.{activation}(columns @ head["hidden_weight"].T + head["hidden_bias"])'
    return f'{hidden} @ head["weight"].T + head["bias"]'
