import pytest

import keras_efficientnet as ke
from keras_efficientnet import study
from keras_efficientnet.study.scalable_networks import TINY, get_network, network_cost


def test_the_papers_constraint_is_met_and_its_coefficients_are_among_them():
    rows = study.search_candidates("B0", study.Constraint(step=0.1))
    assert all(abs(row["product"] / 2 - 1) <= 0.05 + 1e-9 for row in rows)
    assert all(row["budget_ratio"] == row["product"] for row in rows)
    found = {(row["alpha"], row["beta"], row["gamma"]) for row in rows}
    # The paper's, and each dimension alone.
    assert {(1.2, 1.1, 1.15), (2.0, 1.0, 1.0), (1.0, 1.4, 1.0), (1.0, 1.0, 1.4)} <= found
    # Nothing on the grid is left out.
    axis = [1 + i / 10 for i in range(12)]
    wanted = {
        (round(a, 6), round(b, 6), round(c, 6))
        for a in axis
        for b in axis
        for c in axis
        if abs(a * b**2 * c**2 / 2 - 1) <= 0.05 + 1e-9
    }
    assert found == wanted | {(1.2, 1.1, 1.15)}
    paper = next(row for row in rows if row["gamma"] == 1.15)
    assert (paper["image_size"], paper["ratio"]) == (258, pytest.approx(2.57, abs=0.01))


@pytest.mark.parametrize(
    ("budget", "field"), [("multiply-adds", "multiply_adds"), ("parameters", "trainable")]
)
def test_other_budgets_count_the_finished_network(budget, field):
    constraint = study.Constraint(budget, ratio=2, tolerance=0.1, step=0.2)
    rows = study.search_candidates("B0", constraint)
    base = getattr(network_cost(get_network("B0")), field)
    for row in rows:
        assert row["budget_ratio"] == row[field] / base
        assert row["budget_ratio"] == pytest.approx(2, rel=0.1)
    # Resolution costs no parameters.
    assert (budget == "parameters") == ({row["gamma"] for row in rows} >= {1.0, 1.2, 1.4})


def test_latency_is_that_of_the_exported_file():
    constraint = study.Constraint("latency", ratio=2, tolerance=0.9, step=1)  # wide: noise
    base = study.scale_network(TINY, depth=0.1)
    rows = study.search_candidates(base, constraint, classes=3)
    ratios = {(row["alpha"], row["beta"], row["gamma"]): row["budget_ratio"] for row in rows}
    assert set(ratios) == {(1.2, 1.1, 1.15), (2.0, 1.0, 1.0), (3.0, 1.0, 1.0)}
    assert all(0.5 < ratio < 4 for ratio in ratios.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "memory"}, "budget='memory' must be one of product, multiply-adds"),
        ({"ratio": 1}, "ratio=1 must be above 1"),
        ({"ratio": float("nan")}, "ratio=nan must be above 1"),
        ({"tolerance": 0}, "tolerance=0 must be above 0"),
        ({"step": 0}, "step=0 must be from 0.01"),
    ],
)
def test_a_constraint_that_cannot_be_searched_is_refused(options, message):
    with pytest.raises(ke.InputError, match=message):
        study.Constraint(**options)


def test_a_constraint_that_nothing_meets_is_refused():
    constraint = study.Constraint("multiply-adds", 3.0, 1e-6, 0.5)
    with pytest.raises(ke.InputError, match="take a smaller step"):
        study.search_candidates("tiny", constraint)
