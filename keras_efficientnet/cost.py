"""What a network costs, in closed form: parameters, multiply-adds, activations.

Standard library only: `network_cost("L2")` answers at once, without allocating the network.

A multiply-add is one multiplication and one addition in a convolution, a dense layer or
squeeze-and-excitation's two 1x1 convolutions. The papers call it a FLOP; TensorFlow's
profiler counts two for each. Batch normalization folds into the convolution ahead of it
at inference and counts nothing.
"""

from dataclasses import dataclass

from keras_efficientnet import scaling
from keras_efficientnet.errors import InputError
from keras_efficientnet.scaling import BlockSpec, Variant


@dataclass(frozen=True)
class LayerCost:
    """Cost of one part of a network: the stem, a block, the head or the classifier.

    Attributes:
        name: such as `"stem"` or `"block2a"`.
        trainable: trainable parameters.
        non_trainable: batch normalization's moving statistics.
        multiply_adds: for one image.
        activations: values that its convolutions and dense layers put out, for one image.
        output_shape: height, width and channels that leave it.
    """

    name: str
    trainable: int
    non_trainable: int
    multiply_adds: int
    activations: int
    output_shape: tuple[int, int, int]

    @property
    def parameters(self) -> int:
        """Trainable parameters and moving statistics."""
        return self.trainable + self.non_trainable


@dataclass(frozen=True)
class NetworkCost:
    """Cost of a whole network, and of each of its parts in order."""

    variant: str
    image_size: int
    parts: tuple[LayerCost, ...]

    @property
    def trainable(self) -> int:
        """Trainable parameters."""
        return sum(part.trainable for part in self.parts)

    @property
    def non_trainable(self) -> int:
        """Batch normalization's moving statistics."""
        return sum(part.non_trainable for part in self.parts)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.trainable + self.non_trainable

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image (the papers' FLOPs)."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def activations(self) -> int:
        """Values put out by all convolutions and dense layers for one image."""
        return sum(part.activations for part in self.parts)


def network_cost(
    variant: Variant,
    image_size: int | None = None,
    classes: int = 1000,
    channels: int = 3,
    include_top: bool = True,
) -> NetworkCost:
    """Computes what a network costs.

    Args:
        variant: a name, a `VariantSpec` or a `CompoundScale`.
        image_size: side of the square input in pixels; the variant's own if None.
        classes: outputs of the classifier.
        channels: channels of the input.
        include_top: count the classifier.

    Raises:
        InputError: if the variant is unknown or a number is not positive.
    """
    variant = scaling.get_variant(variant)
    size = variant.resolution if image_size is None else image_size
    for name, value in (("image_size", size), ("classes", classes), ("channels", channels)):
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
        if not value <= scaling.MAX_NUMBER:
            raise InputError(f"{name}={value} must be at most {scaling.MAX_NUMBER:,}.")

    parts = [_stem(size, channels, scaling.stem_filters(variant))]
    for block in scaling.expand_blocks(variant):
        parts.append(_block(block, parts[-1].output_shape))
    parts.append(_head(parts[-1].output_shape, scaling.head_filters(variant)))
    if include_top:
        features = scaling.head_filters(variant)
        parts.append(
            LayerCost(
                name="classifier",
                trainable=(features + 1) * classes,
                non_trainable=0,
                multiply_adds=features * classes,
                activations=classes,
                output_shape=(1, 1, classes),
            )
        )
    return NetworkCost(variant.name, size, tuple(parts))


class _Counter:
    """Adds up the convolutions of one part while it follows the image's size."""

    def __init__(self, name: str, input_shape: tuple[int, int, int]):
        self.name = name
        self.shape = input_shape
        self.trainable = self.non_trainable = self.multiply_adds = self.activations = 0

    def conv(self, kernel_size: int, stride: int, filters: int, depthwise: bool = False) -> None:
        """A convolution without bias, padded to `ceil(size / stride)`, and its batch norm."""
        height, width, channels = self.shape
        height, width = -(-height // stride), -(-width // stride)
        kernel = kernel_size**2 * filters * (1 if depthwise else channels)
        self.trainable += kernel + 2 * filters
        self.non_trainable += 2 * filters
        self.multiply_adds += kernel * height * width
        self.activations += height * width * filters
        self.shape = (height, width, filters)

    def squeeze_excite(self, filters: int) -> None:
        channels = self.shape[2]
        self.trainable += 2 * channels * filters + filters + channels
        self.multiply_adds += 2 * channels * filters
        self.activations += filters + channels

    def total(self) -> LayerCost:
        return LayerCost(
            self.name,
            self.trainable,
            self.non_trainable,
            self.multiply_adds,
            self.activations,
            self.shape,
        )


def _stem(size: int, channels: int, filters: int) -> LayerCost:
    counter = _Counter("stem", (size, size, channels))
    counter.conv(3, 2, filters)
    return counter.total()


def _block(block: BlockSpec, input_shape: tuple[int, int, int]) -> LayerCost:
    counter = _Counter(block.name, input_shape)
    expands = block.expanded_filters != block.in_filters
    if block.kind == "mbconv":
        if expands:
            counter.conv(1, 1, block.expanded_filters)
        counter.conv(block.kernel_size, block.stride, block.expanded_filters, depthwise=True)
    elif expands:
        counter.conv(block.kernel_size, block.stride, block.expanded_filters)
    if block.se_filters:
        counter.squeeze_excite(block.se_filters)
    if block.kind == "mbconv" or expands:
        counter.conv(1, 1, block.out_filters)
    else:
        counter.conv(block.kernel_size, block.stride, block.out_filters)
    return counter.total()


def _head(input_shape: tuple[int, int, int], filters: int) -> LayerCost:
    counter = _Counter("head", input_shape)
    counter.conv(1, 1, filters)
    return counter.total()
