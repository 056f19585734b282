"""Networks whose depth, width and resolution can be scaled: this family and three others.

`network_cost` needs the standard library only; `build` makes the Keras graph of the same network.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from keras_efficientnet import cost as closed_form
from keras_efficientnet import scaling, spec
from keras_efficientnet.errors import InputError
from keras_efficientnet.spec import StageSpec, VariantSpec

MIN_IMAGE_SIZE = 32


@dataclass(frozen=True)
class PeerSpec:
    """A network that is no chain of MBConv blocks, and the numbers that scale it.

    Attributes:
        name: for people.
        kind: which layers, see `_LAYERS`.
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
class Cost:
    """What a network costs at one image size, see `ke.cost`.

    Attributes:
        trainable: trainable parameters.
        multiply_adds: for one image.
        blocks: repeated parts: MBConv blocks, bottlenecks or depthwise-separable pairs.
    """

    trainable: int
    multiply_adds: int
    blocks: int


# B0's stages for images of 32 to 64 px: it strides by 8 and not by 32, so that four pixels by
# four are left at 32 px, and it has a quarter of B0's channels and a quarter of its repeats.
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
) -> Cost:
    """Computes what a network costs, at its own resolution if no other is given."""
    size = network.resolution if image_size is None else image_size
    if isinstance(network, VariantSpec):
        total = closed_form.network_cost(network, size, classes)
        return Cost(total.trainable, total.multiply_adds, len(scaling.expand_blocks(network)))
    counter = _Counter()
    features = _LAYERS[network.kind](counter, (size, size, 3), network)
    trainable = counter.trainable + (features[-1] + 1) * classes
    return Cost(trainable, counter.multiply_adds + features[-1] * classes, counter.blocks)


def built_structure(network: ScalableNetwork) -> dict[str, Any]:
    """Describes a network by what is built of it: multipliers that round to the same are one."""
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
    """Builds a classifier of raw RGB pixels, with fresh weights.

    Args:
        network: which.
        classes: outputs.
        image_size: side of the input in pixels; None for any.
        dropout_rate: ahead of the classifier; the network's own if None.
        drop_connect_rate: stochastic depth, where the network has it; likewise.

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
    x = _LAYERS[network.kind](_Graph(), x, network)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name="top_dropout")(x)
    x = keras.layers.Dense(classes, activation="softmax", dtype="float32", name="predictions")(x)
    return keras.Model(images, x, name=network.kind)


class _Counter:
    """Reads a network as shapes `(height, width, channels)` and adds up what it costs."""

    def __init__(self):
        self.trainable = self.multiply_adds = self.blocks = 0

    def conv(self, x, filters: int, kernel: int, stride: int = 1, activate: bool = True):
        return self._convolution(x, filters, kernel, stride, x[2] * filters)

    def depthwise(self, x, kernel: int, stride: int):
        return self._convolution(x, x[2], kernel, stride, x[2])

    def _convolution(self, x, filters, kernel, stride, pairs):
        height, width = -(-x[0] // stride), -(-x[1] // stride)
        self.trainable += kernel**2 * pairs + 2 * filters  # batch normalization's two
        self.multiply_adds += kernel**2 * pairs * height * width
        return height, width, filters

    def max_pool(self, x):
        return -(-x[0] // 2), -(-x[1] // 2), x[2]

    def add(self, x, y):
        return x

    def end_block(self):
        self.blocks += 1


class _Graph:
    """Reads the same network as Keras layers."""

    def conv(self, x, filters: int, kernel: int, stride: int = 1, activate: bool = True):
        import keras

        convolution = keras.layers.Conv2D(
            filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal"
        )
        return self._finished(convolution(x), activate)

    def depthwise(self, x, kernel: int, stride: int):
        import keras

        convolution = keras.layers.DepthwiseConv2D(
            kernel, stride, "same", use_bias=False, depthwise_initializer="he_normal"
        )
        return self._finished(convolution(x), True)

    def _finished(self, x, activate):
        import keras

        from keras_efficientnet import layers

        x = layers.BatchNormalization(momentum=0.99, epsilon=1e-3)(x)
        return keras.layers.ReLU()(x) if activate else x

    def max_pool(self, x):
        import keras

        return keras.layers.MaxPooling2D(3, 2, "same")(x)

    def add(self, x, y):
        import keras

        return keras.layers.ReLU()(keras.layers.Add()([x, y]))

    def end_block(self):
        pass


def _mobilenet_v1(read: Any, x: Any, network: PeerSpec) -> Any:
    """Howard et al., https://arxiv.org/abs/1704.04861, Table 1."""
    x = read.conv(x, _filters(network, 32), 3, 2)
    for filters, repeats, first_stride in (
        (64, 1, 1),
        (128, 2, 2),
        (256, 2, 2),
        (512, 6, 2),
        (1024, 2, 2),
    ):
        for index in range(scaling.round_repeats(repeats, network.depth)):
            x = read.depthwise(x, 3, 1 if index else first_stride)
            x = read.conv(x, _filters(network, filters), 1)
            read.end_block()
    return x


def _resnet50(read: Any, x: Any, network: PeerSpec) -> Any:
    """He et al., https://arxiv.org/abs/1512.03385, Table 1.

    A stage strides in its first 3x3 convolution, as in TensorFlow's official ResNet and in
    torchvision, which is what 4.1 billion multiply-adds are of; keras.applications strides in
    the 1x1 ahead of it (3.9).
    """
    x = read.conv(x, _filters(network, 64), 7, 2)
    x = read.max_pool(x)
    for filters, repeats, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        inner, outer = _filters(network, filters), _filters(network, 4 * filters)
        for index in range(scaling.round_repeats(repeats, network.depth)):
            stride = 1 if index else first_stride
            shortcut = x if index else read.conv(x, outer, 1, stride, activate=False)
            x = read.conv(x, inner, 1)
            x = read.conv(x, inner, 3, stride)
            x = read.add(read.conv(x, outer, 1, activate=False), shortcut)
            read.end_block()
    return x


_LAYERS: dict[str, Callable[[Any, Any, PeerSpec], Any]] = {
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
    """Finds the growth at which a network costs what it may.

    Rounding makes the cost a staircase, so the result is the step nearest to the budget in
    proportion, on whichever side.

    Args:
        grow: network by growth; its cost never falls as the growth rises.
        measure: cost of a network.
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
