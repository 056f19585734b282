import pytest

import keras_efficientnet as ke
from keras_efficientnet import study
from keras_efficientnet.study.scalable_networks import TINY


@pytest.mark.parametrize(
    ("base", "classes", "within"),
    [("B0", 1000, 0.03), ("MobileNetV2", 1000, 0.03), ("ResNet50", 1000, 0.03), ("tiny", 10, 0.1)],
)
def test_every_dimension_is_scaled_to_the_same_cost(base, classes, within):
    found = study.scaled_networks(base, 4.0, classes=classes)
    rows = {row["dimension"]: row for row in study.comparison_rows(found, classes)}
    assert list(rows) == ["base", "depth", "width", "resolution", "compound"]
    assert rows["base"]["ratio"] == 1
    for name in ("depth", "width", "resolution", "compound"):
        assert rows[name]["ratio"] == pytest.approx(4, rel=within)
        changed = {d for d in ("depth", "width", "resolution") if rows[name][d] != 1}
        assert changed == ({name} if name != "compound" else {"depth", "width", "resolution"})
    assert rows["depth"]["blocks"] > rows["compound"]["blocks"] > rows["base"]["blocks"]


def test_growths_decide_how_the_compound_network_grows():
    wide = study.scaled_networks("B0", 3.0, alpha=1.0, beta=1.4, gamma=1.0)["compound"]
    assert isinstance(wide, ke.VariantSpec)
    assert wide.depth == 1
    assert wide.width > 1.6
    assert abs(wide.resolution - 224) < 10  # set to the pixel that meets the cost best


def test_table_7_is_compared_with_what_its_multipliers_cost():
    rows = {r["dimension"]: r for r in study.comparison_rows(study.paper_networks("B0"))}
    assert rows["compound"]["image_size"] == 291
    computed = [round(row["multiply_adds"] / 1e9, 2) for row in rows.values()]
    assert computed == [0.39, 1.58, 1.45, 1.54, 1.80]
    assert [row["trainable"] for row in rows.values()] == [
        5_288_548,
        20_091_856,
        18_122_720,
        5_288_548,
        12_233_232,
    ]
    assert [row["paper_top1"] for row in rows.values()] == [77.3, 79.0, 78.9, 79.1, 81.1]
    assert [row["paper_multiply_adds"] for row in rows.values()] == [
        4e8,
        1.8e9,
        1.8e9,
        1.9e9,
        1.8e9,
    ]


def test_rows_that_the_paper_lacks_are_none():
    rows = study.comparison_rows(study.scaled_networks("MobileNetV1", 2.0))
    assert [row["paper_top1"] for row in rows] == [70.6, None, 74.2, 72.7, 75.6]
    assert {row["paper_base"] for row in study.comparison_rows(study.scaled_networks("B1", 2))} == {
        "B0"
    }


def test_wrong_input_is_refused():
    with pytest.raises(ke.InputError, match="ratio=1 must be"):
        study.scaled_networks("B0", 1)
    with pytest.raises(ke.InputError, match="The paper scales B0, MobileNetV1"):
        study.paper_networks("B1")
    with pytest.raises(ke.InputError, match="alpha"):
        study.scaled_networks("B0", 4, alpha=-1)


def test_a_small_image_is_not_made_smaller():
    assert study.scale_network(TINY, resolution=0.5).resolution == 32
