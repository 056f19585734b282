import pytest

import keras_efficientnet as ke
from keras_efficientnet import study


def test_the_table_marks_where_the_paper_and_the_arithmetic_differ():
    rows = {row["variant"]: row for row in study.family_table()}
    assert list(rows) == ["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "L2"]
    differ = {
        (name, what)
        for name, row in rows.items()
        for what in ("parameters", "multiply_adds")
        if row[f"{what}_agree"] is False
    }
    assert differ == {
        ("B1", "multiply_adds"),  # 0.687 for 0.70
        ("B2", "parameters"),  # 9.11 for 9.2
        ("B4", "multiply_adds"),  # 4.39 for 4.2
        ("B5", "multiply_adds"),  # 10.3 for 9.9
        ("B7", "multiply_adds"),  # 37.7 for 37
    }
    b5 = rows["B5"]
    assert (b5["trainable"], b5["parameters"], b5["blocks"]) == (30_389_784, 30_562_520, 39)
    assert (b5["paper_parameters"], b5["paper_multiply_adds"]) == (30e6, 9.9e9)
    assert b5["top1"] == {"paper v1": 83.3, "paper v5": 83.6}


def test_other_families_have_their_own_sources():
    lite = {row["variant"]: row for row in study.family_table("Lite")}
    assert lite["Lite0"]["top1"] == {"float, TPU": 75.1, "int8, TPU": 74.4}
    assert list(lite) == [f"Lite{i}" for i in range(5)]
    v2 = {row["variant"]: row for row in study.family_table("V2")}
    assert v2["V2-S"]["top1"] == {"AML": 83.9, "from 21k, AML": 84.9}
    assert v2["V2-B0"]["parameters_agree"]
    edge = study.family_table("EdgeTPU")
    assert len(edge) == 3
    assert all(row["paper_parameters"] is None and row["top1"] == {} for row in edge)
    with pytest.raises(ke.InputError, match="choose V1, Lite, EdgeTPU, V2"):
        study.family_table("V3")


def test_a_compound_coefficient_is_explained():
    result = study.compound_scaling(1.0)
    assert result["constraint"] == pytest.approx(1.2 * 1.1**2 * 1.15**2)
    assert result["from_two"] == pytest.approx(-0.07973)
    # Depth rounds up, so the network costs more than the formula says.
    assert (result["image_size"], round(result["ratio"], 2)) == (258, 2.57)
    assert result["predicted_ratio"] == pytest.approx(result["constraint"])
    still = study.compound_scaling(0.0, base="V2-S")
    assert (still["ratio"], still["trainable"]) == (1.0, 21_458_488)
    with pytest.raises(ke.InputError, match="alpha"):
        study.compound_scaling(1.0, alpha=0.0)


def test_the_released_networks_follow_no_single_coefficient():
    fitted = {row["variant"]: row for row in study.released_phi()}
    found = {
        name: tuple(round(fitted[name][d], 2) for d in ("depth", "width", "resolution"))
        for name in ("B4", "B5", "B7")
    }
    assert found == {
        "B4": (3.22, 3.53, 3.78),
        "B5": (4.32, 4.93, 5.09),
        "B7": (6.21, 7.27, 7.05),
    }
    assert study.released_phi(gamma=1.0)[0]["resolution"] is None


def test_the_tables_need_no_tensorflow(run_python):
    run_python(
        """
import sys
from keras_efficientnet.cli import group
for command in ("scale table --json", "scale phi 1.5 --json", "scale compare --json",
                "scale compare --base ResNet50 --paper", "scale search --base tiny --json"):
    group.main(command.split(), standalone_mode=False)
assert not {"tensorflow", "keras"} & set(sys.modules)
"""
    )
