"""The published architectures as data: stage tables and variants.

This file holds numbers and no arithmetic. `scaling.expand_blocks` turns a
`VariantSpec` into the finished list of blocks; `model.build` turns that list into a
graph.

Sources, cited by the names used below:

- paper: Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
  Networks", ICML 2019, https://arxiv.org/abs/1905.11946
- TPU: Google's code, https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet
- V2 paper: Tan & Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021,
  https://arxiv.org/abs/2104.00298
- AML: Google's V2 code, https://github.com/google/automl/tree/master/efficientnetv2
"""

from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["mbconv", "fused_mbconv"]
Activation = Literal["swish", "relu6", "relu"]
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class StageSpec:
    """One row of a paper's stage table, before scaling.

    Attributes:
        kind: `"mbconv"` (1x1 expansion, depthwise, SE, 1x1 projection) or
            `"fused_mbconv"` (one full convolution instead of the first two).
        expand_ratio: channels inside a block over the channels that enter it.
        kernel_size: side of the depthwise (or fused) kernel, in pixels.
        stride: stride of the stage's first block; the others have stride 1.
        in_filters: channels that enter the stage.
        out_filters: channels that leave it.
        repeats: number of blocks.
        se_ratio: squeeze-and-excitation channels over the block's *input* channels;
            0 for none.
        skip: whether blocks of equal input and output shape have a residual connection.
        scale_repeats: whether the depth multiplier applies to `repeats`.
    """

    kind: BlockKind
    expand_ratio: int
    kernel_size: int
    stride: int
    in_filters: int
    out_filters: int
    repeats: int
    se_ratio: float = 0.25
    skip: bool = True
    scale_repeats: bool = True


@dataclass(frozen=True)
class VariantSpec:
    """One network of the family: a stage table and the numbers that scale it.

    Attributes:
        name: short name, such as `"B0"`.
        stages: the unscaled stage table.
        width: multiplier of every channel count.
        depth: multiplier of every repeat count.
        resolution: height and width of the input in pixels, at evaluation.
        dropout_rate: dropout ahead of the classifier.
        stem_filters: unscaled channels of the first convolution.
        head_filters: unscaled channels of the last convolution.
        activation: non-linearity of the whole network.
        pixel_mean: subtracted from RGB values in 0-255.
        pixel_std: then divides them.
        train_resolution: input size in training where it differs; None if it does not.
        drop_connect_rate: stochastic-depth rate that the last block would reach.
        scale_stem: whether `width` applies to the stem.
        scale_head: whether `width` applies to the head.
        limit_round_down: apply V1's rule that rounding to a multiple of 8 never takes
            away more than 10 % of the channels.
        batch_norm_momentum: weight of the old value in the moving statistics.
        batch_norm_epsilon: added to the variance.
        padding: `"same"` pads as TensorFlow does, `"symmetric"` as PyTorch does; they
            differ where the stride is 2 and the size even.
    """

    name: str
    stages: tuple[StageSpec, ...]
    width: float
    depth: float
    resolution: int
    dropout_rate: float
    stem_filters: int = 32
    head_filters: int = 1280
    activation: Activation = "swish"
    pixel_mean: RGB = (123.675, 116.28, 103.53)
    pixel_std: RGB = (58.395, 57.12, 57.375)
    train_resolution: int | None = None
    drop_connect_rate: float = 0.2
    scale_stem: bool = True
    scale_head: bool = True
    limit_round_down: bool = True
    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    padding: Literal["same", "symmetric"] = "same"


# Paper, Table 1. The paper puts the strides one row off; these are the TPU code's.
#              kind   expand k  s  in  out  repeats
V1_STAGES = (
    StageSpec("mbconv", 1, 3, 1, 32, 16, 1),
    StageSpec("mbconv", 6, 3, 2, 16, 24, 2),
    StageSpec("mbconv", 6, 5, 2, 24, 40, 2),
    StageSpec("mbconv", 6, 3, 2, 40, 80, 3),
    StageSpec("mbconv", 6, 5, 1, 80, 112, 3),
    StageSpec("mbconv", 6, 5, 2, 112, 192, 4),
    StageSpec("mbconv", 6, 3, 1, 192, 320, 1),
)

# TPU, efficientnet_builder.py: width, depth, resolution, dropout. B8 and L2 came later
# with AdvProp (https://arxiv.org/abs/1911.09665) and Noisy Student
# (https://arxiv.org/abs/1911.04252).
_V1 = (
    VariantSpec("B0", V1_STAGES, 1.0, 1.0, 224, 0.2),
    VariantSpec("B1", V1_STAGES, 1.0, 1.1, 240, 0.2),
    VariantSpec("B2", V1_STAGES, 1.1, 1.2, 260, 0.3),
    VariantSpec("B3", V1_STAGES, 1.2, 1.4, 300, 0.3),
    VariantSpec("B4", V1_STAGES, 1.4, 1.8, 380, 0.4),
    VariantSpec("B5", V1_STAGES, 1.6, 2.2, 456, 0.4),
    VariantSpec("B6", V1_STAGES, 1.8, 2.6, 528, 0.5),
    VariantSpec("B7", V1_STAGES, 2.0, 3.1, 600, 0.5),
    VariantSpec("B8", V1_STAGES, 2.2, 3.6, 672, 0.5),
    VariantSpec("L2", V1_STAGES, 4.3, 5.3, 800, 0.5),
)

VARIANTS: dict[str, VariantSpec] = {variant.name: variant for variant in _V1}
