"""Compound scaling: from multipliers to a finished list of blocks, and what a block consists of.

Standard library only, so that the arithmetic can be used and tested without TensorFlow.
"""

import dataclasses
import math
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from keras_efficientnet import spec
from keras_efficientnet.errors import InputError, require, require_choice, require_range
from keras_efficientnet.spec import RGB, BlockKind, Pixels, StageSpec, VariantSpec

# Paper, section 3.3: found by a grid search on B0 at phi = 1.
ALPHA = 1.2
BETA = 1.1
GAMMA = 1.15

CHANNEL_DIVISOR = 8
MAX_NUMBER = 2**24
"""Largest image side and channel count accepted; the largest published are some thousands."""

# What can be built: choices, or the smallest and the largest number, whole where they are int.
_VARIANT_LIMITS = {
    "width": (1e-6, 1e4),
    "depth": (1e-6, 1e4),
    "resolution": (1, MAX_NUMBER),
    "dropout_rate": (0.0, 0.999),
    "stem_filters": (1, MAX_NUMBER),
    "head_filters": (1, MAX_NUMBER),
    "activation": get_args(spec.Activation),
    "padding": get_args(spec.Padding),
}
_STAGE_LIMITS = {
    "kind": get_args(spec.BlockKind),
    "expand_ratio": (1, 1000),
    "kernel_size": (1, 1000),
    "stride": (1, 2),
    "in_filters": (1, MAX_NUMBER),
    "out_filters": (1, MAX_NUMBER),
    "repeats": (1, 1000),
    "se_ratio": (0.0, 100.0),
    "expand_from": (1, MAX_NUMBER),
}


@dataclass(frozen=True)
class BlockSpec:
    """One block, scaled and finished: the model builder adds no arithmetic to it.

    Attributes:
        name: stage number and letter, such as `"block2a"`.
        kind: `"mbconv"` or `"fused_mbconv"`.
        kernel_size: side of the depthwise (or fused) kernel, in pixels.
        stride: 1 or 2.
        in_filters: channels that enter.
        expanded_filters: channels inside; equal to `in_filters` where nothing expands.
        out_filters: channels that leave.
        se_filters: channels of the squeeze-and-excitation bottleneck; 0 for none.
        skip: whether the input is added to the output.
    """

    name: str
    kind: BlockKind
    kernel_size: int
    stride: int
    in_filters: int
    expanded_filters: int
    out_filters: int
    se_filters: int
    skip: bool


@dataclass(frozen=True)
class ConvSpec:
    """One convolution without bias, with "same" padding, and the batch normalization behind it.

    Attributes:
        kernel_size: side of the kernel in pixels.
        stride: 1 or 2.
        in_filters: channels that enter.
        out_filters: channels that leave.
        depthwise: whether each channel has its own kernel and sees no other channel.
        activated: whether an activation follows.
    """

    kernel_size: int
    stride: int
    in_filters: int
    out_filters: int
    depthwise: bool = False
    activated: bool = True

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """Height, width, input channels and filters for each, as Keras stores the kernel."""
        filters = 1 if self.depthwise else self.out_filters
        return self.kernel_size, self.kernel_size, self.in_filters, filters


class BlockConvolutions(NamedTuple):
    """A block's convolutions in order; None where a block of its kind has none.

    Squeeze-and-excitation, where a block has it, comes ahead of the projection.
    """

    expand: ConvSpec | None
    depthwise: ConvSpec | None
    project: ConvSpec


@dataclass(frozen=True)
class CompoundScale:
    """What a compound coefficient means for each dimension.

    Attributes:
        phi: the compound coefficient; 0 is the base network.
        depth: multiplier of the number of layers, alpha ** phi.
        width: multiplier of the number of channels, beta ** phi.
        resolution: multiplier of the image side, gamma ** phi.
        flops_ratio: predicted cost over the base network's,
            (alpha * beta**2 * gamma**2) ** phi, before any rounding.
    """

    phi: float
    depth: float
    width: float
    resolution: float
    flops_ratio: float

    def apply(self, base: VariantSpec = spec.VARIANTS["B0"]) -> VariantSpec:
        """Returns `base` scaled by these multipliers, its image side rounded to a pixel."""
        return dataclasses.replace(
            base,
            name=f"{base.name}-phi{self.phi:g}",
            depth=base.depth * self.depth,
            width=base.width * self.width,
            resolution=max(32, round(base.resolution * self.resolution)),
        )


Variant = str | VariantSpec | CompoundScale


def compound_scale(
    phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> CompoundScale:
    """Scales depth, width and resolution together (paper, equation 3).

    The released B1-B7 are hand-picked and do not follow this rule exactly; their
    multipliers stand in `spec.VARIANTS`.

    Args:
        phi: compound coefficient; fractions and negative values are fine.
        alpha: growth of depth for one unit of `phi`.
        beta: growth of width.
        gamma: growth of resolution.

    Returns:
        The multipliers and the predicted ratio of multiply-adds.

    Raises:
        InputError: if an argument is not finite, or a growth factor is not positive.
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        require(math.isfinite(value) and value > 0, name, value, "a finite number above 0")
    require(math.isfinite(phi), "phi", phi, "a finite number")
    try:
        scale = CompoundScale(
            phi=phi,
            depth=alpha**phi,
            width=beta**phi,
            resolution=gamma**phi,
            flops_ratio=(alpha * beta**2 * gamma**2) ** phi,
        )
    except OverflowError:
        scale = None
    if scale is None or 0 in (scale.depth, scale.width, scale.resolution):
        raise InputError(f"phi={phi!r} is too far from 0 to scale by.")
    return scale


def get_variant(variant: Variant) -> VariantSpec:
    """Returns the spec for a name such as `"B0"`, a compound scale or a spec itself.

    Names are compared without case, punctuation and the prefix EfficientNet, so that
    `"v2-s"`, `"V2S"` and `"EfficientNetV2S"` are one.

    Raises:
        InputError: if the name is unknown, or a spec has a value that cannot be built.
    """
    if isinstance(variant, CompoundScale):
        variant = variant.apply()
    if isinstance(variant, VariantSpec):
        _check(variant)
        return variant
    if isinstance(variant, str):
        wanted = _plain(variant)
        for name, known in spec.VARIANTS.items():
            if wanted == _plain(name):
                return known
    raise InputError(f"Unknown variant {variant!r}; choose one of {', '.join(spec.VARIANTS)}.")


def _check(variant: VariantSpec) -> None:
    """Refuses a spec that cannot be built."""
    where = f"Variant {variant.name!r}"
    if not variant.stages:
        raise InputError(f"{where} must have at least one stage.")
    _check_record(where, variant, _VARIANT_LIMITS)
    for number, stage in enumerate(variant.stages, start=1):
        _check_record(f"{where}, stage {number}", stage, _STAGE_LIMITS)


def _check_record(where: str, record: VariantSpec | StageSpec, limits: dict[str, tuple]) -> None:
    for name, accepted in limits.items():
        value = getattr(record, name)
        if isinstance(accepted[0], str):
            require_choice(f"{where}: {name}", value, accepted)
        elif (name, value) != ("expand_from", None):
            require_range(f"{where}: {name}", value, *accepted, whole=isinstance(accepted[0], int))


def pixel_values(pixels: str | Pixels) -> Pixels:
    """Returns mean and deviation for what `pixels=` takes: a name of `spec.PIXELS`, or the two.

    Raises:
        InputError: if it is neither.
    """
    accepted = f"one of {', '.join(map(repr, spec.PIXELS))}, or mean and deviation of RGB in 0-255"
    known = spec.PIXELS.get(pixels) if isinstance(pixels, str) else pixels
    try:
        mean, std = (rgb(values) for values in known or ())
        valid = all(value > 0 for value in std)
    except (TypeError, ValueError):
        mean = std = rgb((0, 0, 0))
        valid = False
    require(valid, "pixels", pixels, accepted)
    return mean, std


def rgb(values: Iterable[float]) -> RGB:
    """Returns three numbers as a tuple of floats."""
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def round_filters(
    filters: float,
    width: float,
    divisor: int = CHANNEL_DIVISOR,
    limit_round_down: bool = True,
) -> int:
    """Scales a channel count and rounds it to the nearest multiple of `divisor`.

    Args:
        filters: unscaled channels.
        width: multiplier.
        divisor: the result is a positive multiple of this.
        limit_round_down: go up one multiple where rounding down would take away more
            than 10 % (TPU code; the V2 code leaves this out).
    """
    scaled = filters * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    if limit_round_down and rounded < 0.9 * scaled:
        rounded += divisor
    return rounded


def round_repeats(repeats: int, depth: float) -> int:
    """Scales a repeat count, rounding up."""
    return math.ceil(depth * repeats)


def expand_blocks(variant: Variant) -> tuple[BlockSpec, ...]:
    """Applies a variant's multipliers to its stage table.

    Returns:
        Every block in order, finished: nothing later needs to know which block is the
        first of its stage.
    """
    variant = get_variant(variant)
    blocks = []
    out_filters = stem_filters(variant)
    for number, stage in enumerate(variant.stages, start=1):
        repeats = (
            round_repeats(stage.repeats, variant.depth) if stage.scale_repeats else stage.repeats
        )
        stage_in = out_filters
        out_filters = scaled_filters(variant, stage.out_filters)
        for index in range(repeats):
            in_filters = stage_in if index == 0 else out_filters
            stride = stage.stride if index == 0 else 1
            expand_from = in_filters
            if index == 0 and stage.expand_from is not None:
                expand_from = scaled_filters(variant, stage.expand_from)
            blocks.append(
                BlockSpec(
                    name=f"block{number}{letters(index)}",
                    kind=stage.kind,
                    kernel_size=stage.kernel_size,
                    stride=stride,
                    in_filters=in_filters,
                    expanded_filters=expand_from * stage.expand_ratio,
                    out_filters=out_filters,
                    se_filters=max(1, int(in_filters * stage.se_ratio)) if stage.se_ratio else 0,
                    skip=stage.skip and stride == 1 and in_filters == out_filters,
                )
            )
    return tuple(blocks)


def stem_convolution(variant: VariantSpec, channels: int = 3) -> ConvSpec:
    """The first convolution, of an image with that many channels."""
    return ConvSpec(3, 2, channels, stem_filters(variant))


def block_convolutions(block: BlockSpec) -> BlockConvolutions:
    """What a block consists of, besides squeeze-and-excitation and the skip connection.

    An MBConv block expands the channels (1x1), convolves each with the block's kernel and
    stride (depthwise), and projects them without activation (1x1). A fused block has one full
    convolution in place of the first two. Where the channels do not grow, nothing expands,
    and a fused block is one full convolution, named a projection but activated (V2 code).
    """
    inside, outside = block.expanded_filters, block.out_filters
    full = block.kernel_size, block.stride
    fused, expands = block.kind == "fused_mbconv", inside != block.in_filters
    single = fused and not expands
    return BlockConvolutions(
        ConvSpec(*(full if fused else (1, 1)), block.in_filters, inside) if expands else None,
        None if fused else ConvSpec(*full, inside, inside, depthwise=True),
        ConvSpec(*(full if single else (1, 1)), inside, outside, activated=single),
    )


def head_convolution(variant: VariantSpec, in_filters: int) -> ConvSpec:
    """The last convolution, of what the last block gives."""
    return ConvSpec(1, 1, in_filters, head_filters(variant))


def stem_filters(variant: VariantSpec) -> int:
    """Channels of the first convolution."""
    if not variant.scale_stem:
        return variant.stem_filters
    return scaled_filters(variant, variant.stem_filters)


def head_filters(variant: VariantSpec) -> int:
    """Channels of the last convolution, and features ahead of the classifier."""
    if not variant.scale_head:
        return variant.head_filters
    return scaled_filters(variant, variant.head_filters)


def scaled_filters(variant: VariantSpec, filters: int) -> int:
    """Scales a channel count by a variant's width and rounding rule."""
    return round_filters(filters, variant.width, limit_round_down=variant.limit_round_down)


def drop_rates(blocks: Sequence[BlockSpec] | int, drop_connect_rate: float) -> tuple[float, ...]:
    """Stochastic-depth rate of each block: `drop_connect_rate * i / N`, i from 0.

    N counts the *scaled* blocks, as in the TPU code, so the last rate stays below
    `drop_connect_rate` at any depth. A rate acts only where a block has a skip.
    """
    count = blocks if isinstance(blocks, int) else len(blocks)
    return tuple(drop_connect_rate * index / count for index in range(count))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("efficientnet")


def letters(index: int) -> str:
    """a, b, ... z, aa, ab, ...: deep variants have more than 26 blocks in a stage."""
    name = ""
    index += 1
    while index:
        index, remainder = divmod(index - 1, 26)
        name = string.ascii_lowercase[remainder] + name
    return name
