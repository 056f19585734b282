import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_efficientnet as ke
from keras_efficientnet import scaling, spec
from keras_efficientnet.scaling import ConvSpec
from keras_efficientnet.spec import StageSpec, VariantSpec

B0 = spec.VARIANTS["B0"]

# Paper, Table 1, with the strides of the TPU code; SE is a quarter of the block's input.
# name, kernel, stride, in, expanded, out, SE, skip
B0_BLOCKS = [
    ("block1a", 3, 1, 32, 32, 16, 8, False),
    ("block2a", 3, 2, 16, 96, 24, 4, False),
    ("block2b", 3, 1, 24, 144, 24, 6, True),
    ("block3a", 5, 2, 24, 144, 40, 6, False),
    ("block3b", 5, 1, 40, 240, 40, 10, True),
    ("block4a", 3, 2, 40, 240, 80, 10, False),
    ("block4b", 3, 1, 80, 480, 80, 20, True),
    ("block4c", 3, 1, 80, 480, 80, 20, True),
    ("block5a", 5, 1, 80, 480, 112, 20, False),
    ("block5b", 5, 1, 112, 672, 112, 28, True),
    ("block5c", 5, 1, 112, 672, 112, 28, True),
    ("block6a", 5, 2, 112, 672, 192, 28, False),
    ("block6b", 5, 1, 192, 1152, 192, 48, True),
    ("block6c", 5, 1, 192, 1152, 192, 48, True),
    ("block6d", 5, 1, 192, 1152, 192, 48, True),
    ("block7a", 3, 1, 192, 1152, 320, 48, False),
]

# TPU, efficientnet_builder.py (width, depth, resolution, dropout); the rest follows from
# its rounding rules.
# variant: width, depth, resolution, dropout, blocks, head
V1 = {
    "B0": (1.0, 1.0, 224, 0.2, 16, 1280),
    "B1": (1.0, 1.1, 240, 0.2, 23, 1280),
    "B2": (1.1, 1.2, 260, 0.3, 23, 1408),
    "B3": (1.2, 1.4, 300, 0.3, 26, 1536),
    "B4": (1.4, 1.8, 380, 0.4, 32, 1792),
    "B5": (1.6, 2.2, 456, 0.4, 39, 2048),
    "B6": (1.8, 2.6, 528, 0.5, 45, 2304),
    "B7": (2.0, 3.1, 600, 0.5, 55, 2560),
    "B8": (2.2, 3.6, 672, 0.5, 61, 2816),
    "L2": (4.3, 5.3, 800, 0.5, 88, 5504),
}


def test_b0_expands_to_the_paper_s_blocks():
    blocks = scaling.expand_blocks("B0")
    assert [
        (
            block.name,
            block.kernel_size,
            block.stride,
            block.in_filters,
            block.expanded_filters,
            block.out_filters,
            block.se_filters,
            block.skip,
        )
        for block in blocks
    ] == B0_BLOCKS
    assert {block.kind for block in blocks} == {"mbconv"}


@pytest.mark.parametrize("name", V1)
def test_variant_has_the_published_multipliers_and_size(name):
    variant = scaling.get_variant(name)
    assert (
        variant.width,
        variant.depth,
        variant.resolution,
        variant.dropout_rate,
        len(scaling.expand_blocks(variant)),
        scaling.head_filters(variant),
    ) == V1[name]


def test_b7_has_the_channels_of_the_released_network():
    blocks = scaling.expand_blocks("B7")
    last_of_stage = {block.name[5]: block.out_filters for block in blocks}
    assert scaling.stem_filters(scaling.get_variant("B7")) == 64
    assert list(last_of_stage.values()) == [32, 48, 80, 160, 224, 384, 640]


def test_blocks_chain_and_only_the_first_of_a_stage_strides():
    for name in V1:
        blocks = scaling.expand_blocks(name)
        assert blocks[0].in_filters == scaling.stem_filters(scaling.get_variant(name))
        for before, block in itertools.pairwise(blocks):
            assert block.in_filters == before.out_filters
        assert [block.name for block in blocks if block.stride == 2] == [
            "block2a",
            "block3a",
            "block4a",
            "block6a",
        ]


def test_a_block_skips_only_where_stride_is_1_and_filters_stay():
    stages = (
        StageSpec("mbconv", 6, 3, 1, 24, 24, 2),
        StageSpec("mbconv", 6, 3, 2, 24, 24, 2),
        StageSpec("mbconv", 6, 3, 1, 24, 24, 2, skip=False),
    )
    variant = VariantSpec("T", stages, 1.0, 1.0, 64, 0.0, stem_filters=24)
    assert [block.skip for block in scaling.expand_blocks(variant)] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]


def test_stages_can_keep_their_repeats_and_have_no_squeeze_excite():
    stages = (
        StageSpec("mbconv", 6, 3, 1, 24, 24, 2, scale_repeats=False),
        StageSpec("mbconv", 6, 3, 1, 24, 24, 2, se_ratio=0.0),
        StageSpec("mbconv", 6, 3, 1, 24, 2, 1, se_ratio=0.01),
    )
    blocks = scaling.expand_blocks(VariantSpec("T", stages, 1.0, 2.0, 64, 0.0, stem_filters=24))
    assert [(block.name, block.se_filters) for block in blocks] == [
        ("block1a", 6),
        ("block1b", 6),
        ("block2a", 0),
        ("block2b", 0),
        ("block2c", 0),
        ("block2d", 0),
        ("block3a", 1),
        ("block3b", 1),
    ]


def test_a_block_s_convolutions():
    _, plain, *_ = scaling.expand_blocks("B0")  # block2a
    assert scaling.block_convolutions(plain) == (
        ConvSpec(1, 1, 16, 96),
        ConvSpec(3, 2, 96, 96, depthwise=True),
        ConvSpec(1, 1, 96, 24, activated=False),
    )
    first = scaling.block_convolutions(scaling.expand_blocks("B0")[0])
    assert first.expand is None  # nothing grows from 32 channels to 32
    depthwise = ConvSpec(3, 1, 32, 32, depthwise=True)
    assert first.depthwise == depthwise
    assert depthwise.kernel_shape == (3, 3, 32, 1)


def test_a_fused_block_s_convolutions():
    single, _, fused, *_ = scaling.expand_blocks("V2-S")  # block1a, block2a
    assert scaling.block_convolutions(single) == (None, None, ConvSpec(3, 1, 24, 24))
    assert scaling.block_convolutions(fused) == (
        ConvSpec(3, 2, 24, 96),
        None,
        ConvSpec(1, 1, 96, 48, activated=False),
    )
    assert ConvSpec(3, 2, 24, 96).kernel_shape == (3, 3, 24, 96)


def test_the_convolutions_of_stem_and_head():
    b2 = spec.VARIANTS["B2"]
    assert scaling.stem_convolution(b2) == ConvSpec(3, 2, 3, 32)
    assert scaling.stem_convolution(b2, channels=1).in_filters == 1
    assert scaling.head_convolution(b2, 352) == ConvSpec(1, 1, 352, 1408)


def test_stem_and_head_can_keep_their_filters():
    variant = dataclasses.replace(B0, width=2.0)
    assert (scaling.stem_filters(variant), scaling.head_filters(variant)) == (64, 2560)
    fixed = dataclasses.replace(variant, scale_stem=False, scale_head=False)
    assert (scaling.stem_filters(fixed), scaling.head_filters(fixed)) == (32, 1280)


def test_letters_go_on_after_z():
    variant = VariantSpec("T", (StageSpec("mbconv", 1, 3, 1, 8, 8, 703),), 1.0, 1.0, 64, 0.0)
    names = [block.name for block in scaling.expand_blocks(variant)]
    assert [names[i] for i in (0, 25, 26, 51, 52, 701, 702)] == [
        "block1a",
        "block1z",
        "block1aa",
        "block1az",
        "block1ba",
        "block1zz",
        "block1aaa",
    ]
    assert len(set(names)) == 703


@pytest.mark.parametrize(
    ("filters", "width", "expected"),
    [
        # Width 1.2 is where the 10 % rule acts: 19.2 would go down to 16.
        (16, 1.2, 24),
        (24, 1.2, 32),
        (32, 1.2, 40),
        (40, 1.2, 48),
        (112, 1.2, 136),
        (192, 1.2, 232),
        (1280, 1.2, 1536),
        (24, 1.1, 24),
        (112, 1.1, 120),
        (1280, 1.1, 1408),
        (16, 0.1, 8),
        (20, 1.0, 24),
    ],
)
def test_round_filters_by_hand(filters, width, expected):
    assert scaling.round_filters(filters, width) == expected


def test_round_filters_without_the_limit_goes_down():
    assert scaling.round_filters(16, 1.2, limit_round_down=False) == 16
    assert scaling.round_filters(100, 1.0, divisor=16, limit_round_down=False) == 96


filter_counts = st.integers(1, 4096)
widths = st.floats(0.05, 8.0)
divisors = st.sampled_from([1, 2, 8, 16])


@given(filter_counts, widths, divisors)
def test_rounded_filters_are_a_multiple_and_lose_10_percent_at_most(filters, width, divisor):
    rounded = scaling.round_filters(filters, width, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * filters * width


@given(filter_counts, widths, divisors)
def test_rounded_filters_are_the_nearest_multiple_or_the_one_above_it(filters, width, divisor):
    scaled = filters * width
    nearest = scaling.round_filters(filters, width, divisor, limit_round_down=False)
    assert nearest == divisor or abs(nearest - scaled) <= divisor / 2
    limited = scaling.round_filters(filters, width, divisor)
    assert limited == (nearest if nearest >= 0.9 * scaled else nearest + divisor)


@given(filter_counts, widths, widths)
def test_a_wider_network_never_has_fewer_filters(filters, width, other):
    low, high = sorted((width, other))
    assert scaling.round_filters(filters, low) <= scaling.round_filters(filters, high)


@given(st.integers(1, 64), st.floats(0.01, 16.0))
def test_rounded_repeats_are_the_next_whole_number(repeats, depth):
    rounded = scaling.round_repeats(repeats, depth)
    assert isinstance(rounded, int)
    assert rounded - 1 < repeats * depth <= rounded


def test_round_repeats_by_hand():
    assert [scaling.round_repeats(n, 3.1) for n in (1, 2, 3, 4)] == [4, 7, 10, 13]


def test_compound_scale_of_1_is_the_paper_s_grid_search():
    scale = ke.scaling.compound_scale(1)
    assert (scale.depth, scale.width, scale.resolution) == (1.2, 1.1, 1.15)
    # The paper asks for about 2; its own constants give this.
    assert scale.flops_ratio == pytest.approx(1.2 * 1.21 * 1.3225)
    assert scale.flops_ratio == pytest.approx(1.920, abs=5e-4)


def test_compound_scale_of_0_is_the_base_network():
    variant = scaling.compound_scale(0).apply()
    assert scaling.expand_blocks(variant) == scaling.expand_blocks("B0")
    assert variant.resolution == 224


def test_literal_phi_gives_these_resolutions():
    # 224 * 1.15 ** phi, rounded.
    assert [scaling.compound_scale(phi).apply().resolution for phi in range(1, 8)] == [
        258,
        296,
        341,
        392,
        451,
        518,
        596,
    ]


@given(st.floats(-8, 8))
def test_fractional_and_negative_phi_follow_the_powers(phi):
    scale = scaling.compound_scale(phi)
    assert math.log(scale.depth, 1.2) == pytest.approx(phi, abs=1e-9)
    assert math.log(scale.width, 1.1) == pytest.approx(phi, abs=1e-9)
    assert math.log(scale.resolution, 1.15) == pytest.approx(phi, abs=1e-9)
    assert scale.flops_ratio == pytest.approx(scale.depth * scale.width**2 * scale.resolution**2)


def test_negative_phi_shrinks_the_network():
    variant = scaling.compound_scale(-2).apply()
    # 224 / 1.15 ** 2 = 169.4; repeats 4 / 1.2 ** 2 = 2.8; channels 320 / 1.1 ** 2 = 264.5.
    assert variant.resolution == 169
    blocks = scaling.expand_blocks(variant)
    assert sum(block.name.startswith("block6") for block in blocks) == 3
    assert blocks[-1].out_filters == 264


def test_image_side_never_falls_below_32():
    assert scaling.compound_scale(-30).apply().resolution == 32


def test_own_growth_factors_scale_another_base():
    scale = scaling.compound_scale(2, alpha=1.5, beta=1.0, gamma=0.5)
    variant = scale.apply(spec.VARIANTS["B1"])
    assert variant.depth == pytest.approx(1.1 * 2.25)
    assert (variant.width, variant.resolution) == (1.0, 60)
    assert variant.name == "B1-phi2"


@pytest.mark.parametrize(
    ("name", "depth", "width", "resolution"),
    [("B4", 3.22, 3.53, 3.78), ("B5", 4.32, 4.93, 5.09), ("B7", 6.21, 7.27, 7.05)],
)
def test_released_variants_are_no_power_of_one_phi(name, depth, width, resolution):
    # The phi that each dimension of the released coefficients would need.
    variant = spec.VARIANTS[name]
    assert math.log(variant.depth, 1.2) == pytest.approx(depth, abs=0.005)
    assert math.log(variant.width, 1.1) == pytest.approx(width, abs=0.005)
    assert math.log(variant.resolution / 224, 1.15) == pytest.approx(resolution, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phi": math.inf}, "phi=inf must be a finite number"),
        ({"phi": math.nan}, "phi=nan must be a finite number"),
        ({"phi": 1, "alpha": 0}, "alpha=0 must be a finite number above 0"),
        ({"phi": 1, "beta": -1.1}, "beta=-1.1 must be"),
        ({"phi": 1, "gamma": math.nan}, "gamma=nan must be"),
        ({"phi": 1e5}, r"phi=100000.0 is too far from 0"),
        # Multipliers of 0 would leave no blocks.
        ({"phi": -1e5}, r"phi=-100000.0 is too far from 0"),
    ],
)
def test_compound_scale_refuses(arguments, message):
    with pytest.raises(ke.InputError, match=message):
        scaling.compound_scale(**arguments)


def test_variants_are_found_by_name_spec_and_scale():
    assert scaling.get_variant("b3") is spec.VARIANTS["B3"]
    assert scaling.get_variant("EfficientNetL2") is spec.VARIANTS["L2"]
    assert scaling.get_variant(B0) is B0
    assert scaling.get_variant(scaling.compound_scale(0.5)).name == "B0-phi0.5"


@pytest.mark.parametrize("unknown", ["B9", "", None, 3])
def test_an_unknown_variant_is_refused_with_the_known_ones(unknown):
    with pytest.raises(ke.InputError, match=r"Unknown variant .*choose one of B0, B1, .*L2"):
        scaling.get_variant(unknown)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": ()}, "Variant 'B0' must have at least one stage"),
        ({"width": math.nan}, "Variant 'B0': width=nan must be from 1e-06 to 10,000"),
        ({"depth": "2"}, "Variant 'B0': depth='2' must be from"),
        ({"resolution": 224.5}, r"resolution=224\.5 must be a whole number from 1 to 16,777,216"),
        ({"dropout_rate": 1.0}, r"dropout_rate=1\.0 must be from 0 to 0\.999"),
        ({"activation": "gelu"}, "activation='gelu' must be one of swish, relu6, relu"),
        ({"padding": None}, "padding=None must be one of same, symmetric"),
        ({"stage": {"kind": "dense"}}, "'B0', stage 3: kind='dense' must be one of mbconv, fused_"),
        ({"stage": {"stride": 3}}, "'B0', stage 3: stride=3 must be a whole number from 1 to 2"),
        ({"stage": {"repeats": 0}}, "'B0', stage 3: repeats=0 must be a whole number from 1"),
        ({"stage": {"se_ratio": -1}}, "'B0', stage 3: se_ratio=-1 must be from 0 to 100"),
        ({"stage": {"expand_from": 0}}, "'B0', stage 3: expand_from=0 must be a whole number"),
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(changes, message):
    if stage := changes.get("stage"):
        stages = list(B0.stages)
        stages[2] = dataclasses.replace(stages[2], **stage)
        changes = {"stages": tuple(stages)}
    with pytest.raises(ke.InputError, match=message):
        scaling.get_variant(dataclasses.replace(B0, **changes))


def test_drop_rates_grow_by_the_scaled_block_count():
    # TPU, efficientnet_model.py: 0.2 * i / N.
    assert scaling.drop_rates(16, 0.2) == pytest.approx(
        [
            0,
            0.0125,
            0.025,
            0.0375,
            0.05,
            0.0625,
            0.075,
            0.0875,
            0.1,
            0.1125,
            0.125,
            0.1375,
            0.15,
            0.1625,
            0.175,
            0.1875,
        ],
        abs=1e-12,
    )
    rates = scaling.drop_rates(scaling.expand_blocks("B7"), 0.2)
    assert len(rates) == 55
    # Divided by the 16 unscaled blocks it would be 0.675.
    assert rates[-1] == pytest.approx(0.2 * 54 / 55, abs=1e-12)
    assert round(rates[-1], 3) == 0.196


def test_specs_cannot_be_changed_in_place():
    for record in (B0, B0.stages[0], scaling.expand_blocks("B0")[0], scaling.compound_scale(1)):
        field = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, None)
