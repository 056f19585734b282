"""What a network costs, in closed form: parameters, multiply-adds, activations.

Standard library only: `network_cost("L2")` answers at once, without allocating the network.

A multiply-add is one multiplication and one addition in a convolution, a dense layer or
squeeze-and-excitation's two 1x1 convolutions. The papers call it a FLOP; TensorFlow's
profiler counts two for each. Batch normalization folds into the convolution ahead of it
at inference and counts nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from keras_efficientnet import scaling
from keras_efficientnet.errors import require_range
from keras_efficientnet.scaling import ConvSpec, Variant


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
        InputError: if the variant is unknown, or a number is not whole, below 1 or enormous.
    """
    variant = scaling.get_variant(variant)
    size = variant.resolution if image_size is None else image_size
    for name, value in (("image_size", size), ("classes", classes), ("channels", channels)):
        require_range(name, value, 1, scaling.MAX_NUMBER, whole=True)

    parts = [
        part_cost("stem", (size, size, channels), [scaling.stem_convolution(variant, channels)])
    ]
    for block in scaling.expand_blocks(variant):
        convolutions = filter(None, scaling.block_convolutions(block))
        excite = block.expanded_filters, block.se_filters
        parts.append(part_cost(block.name, parts[-1].output_shape, convolutions, excite))
    head = scaling.head_convolution(variant, parts[-1].output_shape[-1])
    parts.append(part_cost("head", parts[-1].output_shape, [head]))
    if include_top:
        parts.append(_classifier(head.out_filters, classes))
    return NetworkCost(variant.name, size, tuple(parts))


def part_cost(
    name: str,
    input_shape: tuple[int, int, int],
    convolutions: Iterable[ConvSpec],
    squeeze_excite: tuple[int, int] = (0, 0),
) -> LayerCost:
    """Computes what convolutions in a row cost, each with its batch normalization.

    Args:
        name: of the part.
        input_shape: height, width and channels that enter.
        convolutions: in order; "same" padding makes each side `ceil(side / stride)`.
        squeeze_excite: channels that it weighs and of its bottleneck; 0 for none.
    """
    height, width, filters = input_shape
    trainable = non_trainable = multiply_adds = activations = 0
    for conv in convolutions:
        height, width, filters = (
            -(-height // conv.stride),
            -(-width // conv.stride),
            conv.out_filters,
        )
        kernel = math.prod(conv.kernel_shape)
        trainable += kernel + 2 * filters  # scale and offset
        non_trainable += 2 * filters  # moving mean and variance
        multiply_adds += kernel * height * width
        activations += height * width * filters
    weighed, bottleneck = squeeze_excite
    if bottleneck:  # two 1x1 convolutions with bias, of one pixel
        kernels = 2 * weighed * bottleneck
        trainable += kernels + weighed + bottleneck
        multiply_adds += kernels
        activations += weighed + bottleneck
    return LayerCost(
        name, trainable, non_trainable, multiply_adds, activations, (height, width, filters)
    )


def _classifier(features: int, classes: int) -> LayerCost:
    kernel = features * classes
    return LayerCost("classifier", kernel + classes, 0, kernel, classes, (1, 1, classes))
