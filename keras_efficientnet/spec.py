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
Padding = Literal["same", "symmetric"]
Interpolation = Literal["bicubic", "bilinear"]
RGB = tuple[float, float, float]

# TPU, main.py: 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 times 255.
IMAGENET_MEAN: RGB = (123.675, 116.28, 103.53)
IMAGENET_STD: RGB = (58.395, 57.12, 57.375)

Pixels = tuple[RGB, RGB]
"""Mean and deviation of RGB in 0-255: pixels are normalized to (pixels - mean) / deviation."""

PIXELS: dict[str, Pixels] = {
    # TPU's and torchvision's V1, AML's V2-B0 to B3, most of timm's.
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    # From -1 to 1: AdvProp, timm's conversions of V2 and Lite.
    "inception": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    # TPU's Lite and EdgeTPU.
    "lite": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
    # AML's V2-S to XL, and all of V2 on ImageNet-21k.
    "v2": ((128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
}
"""How published networks normalize pixels, by the names that `pixels=` takes."""


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
        expand_from: unscaled channels that the first block's expansion counts from,
            where they are not those that enter it (EdgeTPU's first stage); else None.
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
    expand_from: int | None = None


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
    pixel_mean: RGB = IMAGENET_MEAN
    pixel_std: RGB = IMAGENET_STD
    train_resolution: int | None = None
    drop_connect_rate: float = 0.2
    scale_stem: bool = True
    scale_head: bool = True
    limit_round_down: bool = True
    batch_norm_momentum: float = 0.99
    batch_norm_epsilon: float = 1e-3
    padding: Padding = "same"


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

# TPU, lite/efficientnet_lite_builder.py: V1's stages without squeeze-and-excitation; the
# first and the last stage keep their depth, stem and head their width.
#              kind   expand k  s  in  out  repeats SE
LITE_STAGES = (
    StageSpec("mbconv", 1, 3, 1, 32, 16, 1, 0, scale_repeats=False),
    StageSpec("mbconv", 6, 3, 2, 16, 24, 2, 0),
    StageSpec("mbconv", 6, 5, 2, 24, 40, 2, 0),
    StageSpec("mbconv", 6, 3, 2, 40, 80, 3, 0),
    StageSpec("mbconv", 6, 5, 1, 80, 112, 3, 0),
    StageSpec("mbconv", 6, 5, 2, 112, 192, 4, 0),
    StageSpec("mbconv", 6, 3, 1, 192, 320, 1, 0, scale_repeats=False),
)

# TPU, edgetpu/efficientnet_edgetpu_builder.py. The stem gives 32 channels, but the first
# stage expands as if 24 had entered. The TPU code puts a fused block's stride into its
# projection; here it is in the fused convolution, as in V2 and in timm's EdgeTPU.
#              kind         expand k  s  in  out  repeats SE
EDGETPU_STAGES = (
    StageSpec("fused_mbconv", 4, 3, 1, 32, 24, 1, 0, skip=False, expand_from=24),
    StageSpec("fused_mbconv", 8, 3, 2, 24, 32, 2, 0),
    StageSpec("fused_mbconv", 8, 3, 2, 32, 48, 4, 0),
    StageSpec("mbconv", 8, 5, 2, 48, 96, 5, 0),
    StageSpec("mbconv", 8, 5, 1, 96, 144, 4, 0),
    StageSpec("mbconv", 8, 5, 2, 144, 192, 2, 0),
)

# AML, effnetv2_configs.py. The V2 paper's Table 4 gives V2-S's sixth stage 272 channels;
# the code, and so every published weight, has 256.
#              kind         expand k  s  in   out  repeats SE
V2_BASE_STAGES = (
    StageSpec("fused_mbconv", 1, 3, 1, 32, 16, 1, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 16, 32, 2, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 32, 48, 2, 0),
    StageSpec("mbconv", 4, 3, 2, 48, 96, 3),
    StageSpec("mbconv", 6, 3, 1, 96, 112, 5),
    StageSpec("mbconv", 6, 3, 2, 112, 192, 8),
)
V2_S_STAGES = (
    StageSpec("fused_mbconv", 1, 3, 1, 24, 24, 2, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 24, 48, 4, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 48, 64, 4, 0),
    StageSpec("mbconv", 4, 3, 2, 64, 128, 6),
    StageSpec("mbconv", 6, 3, 1, 128, 160, 9),
    StageSpec("mbconv", 6, 3, 2, 160, 256, 15),
)
V2_M_STAGES = (
    StageSpec("fused_mbconv", 1, 3, 1, 24, 24, 3, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 24, 48, 5, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 48, 80, 5, 0),
    StageSpec("mbconv", 4, 3, 2, 80, 160, 7),
    StageSpec("mbconv", 6, 3, 1, 160, 176, 14),
    StageSpec("mbconv", 6, 3, 2, 176, 304, 18),
    StageSpec("mbconv", 6, 3, 1, 304, 512, 5),
)
V2_L_STAGES = (
    StageSpec("fused_mbconv", 1, 3, 1, 32, 32, 4, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 32, 64, 7, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 64, 96, 7, 0),
    StageSpec("mbconv", 4, 3, 2, 96, 192, 10),
    StageSpec("mbconv", 6, 3, 1, 192, 224, 19),
    StageSpec("mbconv", 6, 3, 2, 224, 384, 25),
    StageSpec("mbconv", 6, 3, 1, 384, 640, 7),
)
V2_XL_STAGES = (
    StageSpec("fused_mbconv", 1, 3, 1, 32, 32, 4, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 32, 64, 8, 0),
    StageSpec("fused_mbconv", 4, 3, 2, 64, 96, 8, 0),
    StageSpec("mbconv", 4, 3, 2, 96, 192, 16),
    StageSpec("mbconv", 6, 3, 1, 192, 256, 24),
    StageSpec("mbconv", 6, 3, 2, 256, 512, 32),
    StageSpec("mbconv", 6, 3, 1, 512, 640, 8),
)

_LITE_MEAN, _LITE_STD = PIXELS["lite"]

# TPU, lite/efficientnet_lite_builder.py and edgetpu/: width, depth, resolution, dropout.
_LITE = tuple(
    VariantSpec(
        *(name, LITE_STAGES, width, depth, resolution, dropout),
        activation="relu6",
        scale_stem=False,
        scale_head=False,
        pixel_mean=_LITE_MEAN,
        pixel_std=_LITE_STD,
    )
    for name, width, depth, resolution, dropout in (
        ("Lite0", 1.0, 1.0, 224, 0.2),
        ("Lite1", 1.0, 1.1, 240, 0.2),
        ("Lite2", 1.1, 1.2, 260, 0.3),
        ("Lite3", 1.2, 1.4, 280, 0.3),
        ("Lite4", 1.4, 1.8, 300, 0.3),
    )
)
_EDGETPU = tuple(
    VariantSpec(
        *(name, EDGETPU_STAGES, width, depth, resolution, dropout),
        activation="relu",
        pixel_mean=_LITE_MEAN,
        pixel_std=_LITE_STD,
    )
    for name, width, depth, resolution, dropout in (
        ("EdgeTPU-S", 1.0, 1.0, 224, 0.2),
        ("EdgeTPU-M", 1.0, 1.1, 240, 0.2),
        ("EdgeTPU-L", 1.2, 1.4, 300, 0.3),
    )
)
# AML, effnetv2_configs.py: width, depth, resolution in training and evaluation, dropout; and
# preprocessing.py: V2-B keeps V1's pixels, the larger ones take x / 128 - 1.
_V2 = tuple(
    VariantSpec(
        *(name, stages, width, depth, resolution, dropout),
        stem_filters=stages[0].in_filters,
        train_resolution=train_resolution,
        limit_round_down=False,
        batch_norm_momentum=0.9,
        pixel_mean=PIXELS[pixels][0],
        pixel_std=PIXELS[pixels][1],
    )
    for name, stages, width, depth, train_resolution, resolution, dropout, pixels in (
        ("V2-B0", V2_BASE_STAGES, 1.0, 1.0, 192, 224, 0.2, "imagenet"),
        ("V2-B1", V2_BASE_STAGES, 1.0, 1.1, 192, 240, 0.2, "imagenet"),
        ("V2-B2", V2_BASE_STAGES, 1.1, 1.2, 208, 260, 0.3, "imagenet"),
        ("V2-B3", V2_BASE_STAGES, 1.2, 1.4, 240, 300, 0.3, "imagenet"),
        ("V2-S", V2_S_STAGES, 1.0, 1.0, 300, 384, 0.2, "v2"),
        ("V2-M", V2_M_STAGES, 1.0, 1.0, 384, 480, 0.3, "v2"),
        ("V2-L", V2_L_STAGES, 1.0, 1.0, 384, 480, 0.4, "v2"),
        ("V2-XL", V2_XL_STAGES, 1.0, 1.0, 384, 512, 0.4, "v2"),
    )
)

VARIANTS: dict[str, VariantSpec] = {
    variant.name: variant for variant in (*_V1, *_LITE, *_EDGETPU, *_V2)
}
