"""Networks whose depth, width and resolution can be scaled: this family and three others.

`network_cost` needs the standard library only; `build` makes the Keras graph of the same network.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from keras_efficientnet import cost, scaling, spec
from keras_efficientnet.cost import LayerCost, NetworkCost, part_cost
from keras_efficientnet.errors import InputError
from keras_efficientnet.scaling import ConvSpec
from keras_efficientnet.spec import StageSpec, VariantSpec

MIN_IMAGE_SIZE = 32


@dataclass(frozen=True)
class PeerSpec:
    """A network that is not a chain of MBConv blocks, and the numbers that scale it.

    Attributes:
        name: for people.
        kind: architecture, a key of `_PARTS`.
        width: multiplier of every channel count.
        depth: multiplier of every repeat count.
        resolution: height and width of the input in pixels.
    """

    name: str
    kind: Literal["mobilenet_v1", "resnet50"]
    width: float = 1.0
    depth: float = 1.0
    resolution: int = 224


ScalableNetwork = VariantSpec | PeerSpec


@dataclass(frozen=True)
class _Part:
    """The stem or a block of a peer.

    Attributes:
        convolutions: in order.
        shortcut: convolutions of the part's input, whose result is added to that of the others
            ahead of a ReLU; () adds the input itself, None nothing.
        max_pool: whether 3x3 max-pooling of stride 2 follows.
    """

    convolutions: tuple[ConvSpec, ...]
    shortcut: tuple[ConvSpec, ...] | None = None
    max_pool: bool = False


# B0's stages for images of 32 to 64 px: its total stride is 8 and not 32, which leaves 4x4 pixels
# of 32x32, and it has a quarter of B0's channels and of its repeats.
_TINY_STRIDES = (1, 2, 1, 2, 1, 1, 1)
TINY = dataclasses.replace(
    spec.VARIANTS["B0"],
    name="tiny",
    stages=tuple(
        dataclasses.replace(stage, stride=stride)
        for stage, stride in zip(spec.V1_STAGES, _TINY_STRIDES, strict=True)
    ),
    width=0.25,
    depth=0.25,
    resolution=32,
)

# Sandler et al., https://arxiv.org/abs/1801.04381, Table 2.
#              kind   expand k  s  in  out  repeats SE
_MOBILENET_V2_STAGES = (
    StageSpec("mbconv", 1, 3, 1, 32, 16, 1, 0),
    StageSpec("mbconv", 6, 3, 2, 16, 24, 2, 0),
    StageSpec("mbconv", 6, 3, 2, 24, 32, 3, 0),
    StageSpec("mbconv", 6, 3, 2, 32, 64, 4, 0),
    StageSpec("mbconv", 6, 3, 1, 64, 96, 3, 0),
    StageSpec("mbconv", 6, 3, 2, 96, 160, 3, 0),
    StageSpec("mbconv", 6, 3, 1, 160, 320, 1, 0),
)
MOBILENET_V2 = VariantSpec(
    "MobileNetV2",
    _MOBILENET_V2_STAGES,
    width=1.0,
    depth=1.0,
    resolution=224,
    dropout_rate=0.0,
    activation="relu6",
    drop_connect_rate=0.0,
)
MOBILENET_V1 = PeerSpec("MobileNetV1", "mobilenet_v1")
RESNET50 = PeerSpec("ResNet50", "resnet50")

BASES: dict[str, ScalableNetwork] = {
    network.name: network for network in (TINY, MOBILENET_V1, MOBILENET_V2, RESNET50)
}


def get_network(name: str | ScalableNetwork) -> ScalableNetwork:
    """Returns a network to scale: a name in `BASES`, a variant's name, or a spec itself.

    Raises:
        InputError: if the name is unknown.
    """
    if not isinstance(name, str):
        return name
    plain = {known.lower(): network for known, network in BASES.items()}
    if name.lower() in plain:
        return plain[name.lower()]
    try:
        return scaling.get_variant(name)
    except InputError as error:
        raise InputError(f"{str(error).rstrip('.')}, {', '.join(BASES)}.") from None


def scale_network(
    network: ScalableNetwork,
    depth: float = 1.0,
    width: float = 1.0,
    resolution: float = 1.0,
) -> ScalableNetwork:
    """Multiplies the three dimensions of a network; the image side is rounded to a pixel."""
    return dataclasses.replace(
        network,
        depth=network.depth * depth,
        width=network.width * width,
        resolution=max(MIN_IMAGE_SIZE, round(network.resolution * resolution)),
    )


def network_cost(
    network: ScalableNetwork, classes: int = 1000, image_size: int | None = None
) -> NetworkCost:
    """Computes what a network costs, as `ke.cost.network_cost` does.

    Args:
        network: of this family or a peer.
        classes: outputs of the classifier.
        image_size: side of the input in pixels; the network's own resolution if None.
    """
    size = network.resolution if image_size is None else image_size
    if isinstance(network, VariantSpec):
        return cost.network_cost(network, size, classes)
    costs: list[LayerCost] = []
    shape = size, size, 3
    for number, part in enumerate(_PARTS[network.kind](network)):
        paths = (part.shortcut or (), part.convolutions)
        costs += [part_cost(f"part{number}", shape, path) for path in paths]
        shape = costs[-1].output_shape
        if part.max_pool:
            shape = -(-shape[0] // 2), -(-shape[1] // 2), shape[2]
    kernel = shape[2] * classes
    costs.append(LayerCost("classifier", kernel + classes, 0, kernel, classes, (1, 1, classes)))
    return NetworkCost(network.name, size, tuple(costs))


def block_count(network: ScalableNetwork) -> int:
    """Counts MBConv blocks, bottlenecks or depthwise-separable convolutions."""
    if isinstance(network, VariantSpec):
        return len(scaling.expand_blocks(network))
    return len(_PARTS[network.kind](network)) - 1  # the first is the stem


def built_structure(network: ScalableNetwork) -> dict[str, Any]:
    """Describes a network by the layers it has, so that multipliers that round alike are equal."""
    description = dataclasses.asdict(network)
    del description["name"]
    if isinstance(network, VariantSpec):
        for name in ("stages", "width", "depth"):
            del description[name]
        description["blocks"] = [
            dataclasses.asdict(block) for block in scaling.expand_blocks(network)
        ]
        description["stem"] = scaling.stem_filters(network)
        description["head"] = scaling.head_filters(network)
    return description


def build(
    network: ScalableNetwork,
    classes: int,
    image_size: int | None,
    *,
    dropout_rate: float | None = None,
    drop_connect_rate: float | None = None,
) -> Any:
    """Builds a classifier of raw RGB pixels in 0-255, with random weights.

    Args:
        network: of this family or a peer.
        classes: outputs.
        image_size: side of the input in pixels; None for any.
        dropout_rate: ahead of the classifier; the network's own if None.
        drop_connect_rate: of stochastic depth, where the network has it; likewise.

    Returns:
        A `keras.Model`.
    """
    import keras

    from keras_efficientnet import layers, variants

    shape = (image_size, image_size, 3)
    if isinstance(network, VariantSpec):
        return variants.EfficientNet(
            network,
            input_shape=shape,
            classes=classes,
            dropout_rate=dropout_rate,
            drop_connect_rate=drop_connect_rate,
        )
    images = keras.Input(shape)
    x = layers.Normalize(spec.IMAGENET_MEAN, spec.IMAGENET_STD, name="normalize")(images)
    for part in _PARTS[network.kind](network):
        x = _build_part(x, part)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name="top_dropout")(x)
    x = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="predictions")(x)
    return keras.Model(images, x, name=network.kind)


def _build_part(x: Any, part: _Part) -> Any:
    from keras import layers

    added = x
    for conv in part.shortcut or ():
        added = _convolve(added, conv)
    for conv in part.convolutions:
        x = _convolve(x, conv)
    if part.shortcut is not None:
        x = layers.ReLU()(layers.Add()([x, added]))
    return layers.MaxPooling2D(3, 2, "same")(x) if part.max_pool else x


def _convolve(x: Any, conv: ConvSpec) -> Any:
    import keras

    from keras_efficientnet import layers

    options = {"strides": conv.stride, "padding": "same", "use_bias": False}
    if conv.depthwise:
        convolution = keras.layers.DepthwiseConv2D(
            conv.kernel_size, **options, depthwise_initializer="he_normal"
        )
    else:
        convolution = keras.layers.Conv2D(
            conv.out_filters, conv.kernel_size, **options, kernel_initializer="he_normal"
        )
    x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3)(convolution(x))
    return keras.layers.ReLU()(x) if conv.activated else x


def _mobilenet_v1(network: PeerSpec) -> list[_Part]:
    """Howard et al., https://arxiv.org/abs/1704.04861, Table 1."""
    filters = _filters(network, 32)
    parts = [_Part((ConvSpec(3, 2, 3, filters),))]
    for stage_filters, repeats, first_stride in (
        (64, 1, 1),
        (128, 2, 2),
        (256, 2, 2),
        (512, 6, 2),
        (1024, 2, 2),
    ):
        outer = _filters(network, stage_filters)
        for index in range(scaling.round_repeats(repeats, network.depth)):
            stride = 1 if index else first_stride
            depthwise = ConvSpec(3, stride, filters, filters, depthwise=True)
            parts.append(_Part((depthwise, ConvSpec(1, 1, filters, outer))))
            filters = outer
    return parts


def _resnet50(network: PeerSpec) -> list[_Part]:
    """He et al., https://arxiv.org/abs/1512.03385, Table 1.

    A stage strides in its first 3x3 convolution, as in TensorFlow's official ResNet and in
    torchvision, which have 4.1 billion multiply-adds; keras.applications strides in the 1x1
    ahead of it (3.9 billion).
    """
    filters = _filters(network, 64)
    parts = [_Part((ConvSpec(7, 2, 3, filters),), max_pool=True)]
    for stage_filters, repeats, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        inner, outer = _filters(network, stage_filters), _filters(network, 4 * stage_filters)
        for index in range(scaling.round_repeats(repeats, network.depth)):
            stride = 1 if index else first_stride
            bottleneck = (
                ConvSpec(1, 1, filters, inner),
                ConvSpec(3, stride, inner, inner),
                ConvSpec(1, 1, inner, outer, activated=False),
            )
            projection = ConvSpec(1, stride, filters, outer, activated=False)
            parts.append(_Part(bottleneck, shortcut=() if index else (projection,)))
            filters = outer
    return parts


_PARTS: dict[str, Callable[[PeerSpec], list[_Part]]] = {
    "mobilenet_v1": _mobilenet_v1,
    "resnet50": _resnet50,
}


def _filters(network: PeerSpec, filters: int) -> int:
    return scaling.round_filters(filters, network.width)


def at_budget(
    grow: Callable[[float], ScalableNetwork],
    measure: Callable[[ScalableNetwork], float],
    budget: float,
    start: float,
) -> tuple[float, ScalableNetwork]:
    """Finds the growth at which a network meets a cost.

    Rounding makes the cost a step function, so the result is the step nearest to the budget in
    proportion, below or above it.

    Args:
        grow: returns the network of a growth; its cost must not fall as the growth rises.
        measure: returns the cost of a network.
        budget: wanted cost.
        start: growth of a network that costs less.

    Returns:
        The growth, and the network.

    Raises:
        InputError: if no growth reaches the budget.
    """
    low, high = start, start + 1.0
    while measure(grow(high)) < budget:
        low, high = high, high + 2 * (high - start)
        if high > 1e4:
            raise InputError(f"No network of this kind reaches a cost of {budget:g}.")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(grow(middle)) < budget else (low, middle)
    growths = ((growth, grow(growth)) for growth in (low, high))
    return min(growths, key=lambda pair: abs(math.log(measure(pair[1]) / budget)))
