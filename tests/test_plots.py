"""Plots show the numbers they are given, in colours that everybody can distinguish."""

import io
import itertools
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import plots, study

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as dichromats see it.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": np.eye(3),
}


def linear(code):
    values = np.array([int(code[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(first, second):
    """The ratio of WCAG 2."""
    lights = sorted(linear(code) @ [0.2126, 0.7152, 0.0722] for code in (first, second))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def oklab(rgb):
    """Ottosson's uniform colour space, https://bottosson.github.io/posts/oklab."""
    lms = np.cbrt(
        np.clip(
            np.array(
                [
                    [0.4122214708, 0.5363325363, 0.0514459929],
                    [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005],
                ]
            )
            @ rgb,
            0,
            None,
        )
    )
    return (
        np.array(
            [
                [0.2104542553, 0.7936177850, -0.0040720468],
                [1.9779984951, -2.4285922050, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.8086757660],
            ]
        )
        @ lms
    )


@pytest.mark.parametrize("name", list(plots.THEMES))
def test_text_and_series_stand_out_from_the_background(name):
    theme = plots.THEMES[name]
    for code in (theme.ink, theme.muted):
        assert contrast(code, theme.surface) >= 4.5
    for code in (*theme.series, theme.peers):
        assert contrast(code, theme.surface) >= 3
    assert contrast(theme.on_series, theme.series[0]) >= 4.5
    codes = theme.codes().values()
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("blindness", list(BLINDNESS))
@pytest.mark.parametrize("name", list(plots.THEMES))
def test_everybody_can_distinguish_the_series(name, blindness):
    theme = plots.THEMES[name]
    seen = [
        oklab(np.clip(np.array(BLINDNESS[blindness]) @ linear(code), 0, 1)) for code in theme.series
    ]
    for first, second in itertools.combinations(seen, 2):
        assert np.linalg.norm(first - second) > 0.1


HISTORY = [
    {
        "epoch": str(epoch),
        "stage": "head" if epoch < 4 else "blocks",
        "loss": str(2 / epoch),
        "val_loss": str(2.5 / epoch),
        "accuracy": str(1 - 0.9 / epoch),
        "val_accuracy": str(1 - 0.95 / epoch),
        "learning_rate": str(0.1 / epoch),
    }
    for epoch in range(1, 8)
]
SEARCH = [
    {"alpha": alpha, "beta": beta, "gamma": (2 / (alpha * beta**2)) ** 0.5, "accuracy": accuracy}
    for alpha, beta, accuracy in (
        (1.0, 1.0, 0.70),
        (1.1, 1.1, 0.73),
        (1.2, 1.1, 0.75),
        (1.3, 1.0, ""),
        (1.2, 1.2, None),
    )
]
COMPARISON = [
    {"dimension": dimension, "multiply_adds": cost, "accuracy": accuracy, "spread": spread}
    for dimension, cost, accuracy, spread in (
        ("base", 0.39e9, 0.773, None),
        ("depth", 1.8e9, 0.790, 0.002),
        ("width", 1.8e9, 0.789, 0.003),
        ("resolution", 1.9e9, 0.791, None),
        ("compound", 1.8e9, 0.811, 0.001),
    )
]
GROWTH = [
    {
        "along": along,
        "at": at,
        "time": 0.5 * cost,
        "memory": 3.0 * cost**0.5,
        "predicted_time": 7 * cost,
        "predicted_memory": 2.0 * cost,
    }
    for along, points in (("image size", (32, 64)), ("variant", ("B0", "B7")))
    for at, cost in zip(points, (2.0, 8.0), strict=True)
]
PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
HEATMAP = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
EVERY = {
    "size_against_accuracy": lambda: plots.size_against_accuracy(study.published_networks()),
    "cost_against_accuracy": lambda: plots.cost_against_accuracy(study.published_networks()),
    "cost_growth": lambda: plots.cost_growth(GROWTH),
    "scaling_curves": lambda: plots.scaling_curves(study.compound_scales([0, 1, 2])),
    "scaling_comparison": lambda: plots.scaling_comparison(COMPARISON),
    "search_results": lambda: plots.search_results(SEARCH),
    "learning_curves": lambda: plots.learning_curves(HISTORY),
    "learning_rate_schedule": lambda: plots.learning_rate_schedule(HISTORY),
    "augmentation_samples": lambda: plots.augmentation_samples([PHOTO], [[PHOTO, PHOTO]]),
    "confusion_matrix": lambda: plots.confusion_matrix([[3, 1], [0, 2]], ["dog", "$x_1$"]),
    "grad_cam": lambda: plots.grad_cam([PHOTO], [[HEATMAP]], ["B0"]),
}


def test_every_picture_is_here():
    drawn = {name for name in plots.__all__ if hasattr(getattr(plots, name), "__wrapped__")}
    assert drawn == set(EVERY) | {"theme"}


@pytest.mark.parametrize("theme", list(plots.THEMES))
@pytest.mark.parametrize("name", list(EVERY))
def test_every_picture_can_be_drawn_in_light_and_dark(name, theme):
    # Whatever style the caller has set.
    with matplotlib.rc_context({"axes.facecolor": "red", "text.color": "lime", "font.size": 30}):
        with plots.theme(theme):
            figure = EVERY[name]()
        assert isinstance(figure, Figure)
        file = io.BytesIO()
        figure.savefig(file, dpi=50)
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    surface = tuple(int(plots.THEMES[theme].surface[i : i + 2], 16) for i in (1, 3, 5))
    assert tuple(pixels[0, 0]) == surface
    assert not (pixels == (255, 0, 0)).all(-1).any()
    for axes in figure.axes:
        for label in axes.get_xticklabels() + axes.get_yticklabels():
            assert label.get_color() == plots.THEMES[theme].muted
    if name not in ("augmentation_samples", "grad_cam"):
        assert all(axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize("name", list(EVERY))
def test_an_svg_follows_the_reader(name):
    svg = plots.to_svg(EVERY[name]())
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    light, dark = (plots.THEMES[theme].codes() for theme in ("light", "dark"))
    for role in ("surface", "ink"):
        assert f"var(--{role}, {light[role]})" in svg
        assert f"--{role}:{dark[role]};" in svg
    # Every colour of the theme is a variable: none is left as it is.
    styles = [element.get("style", "") for element in root.iter()]
    for style in styles:
        assert not any(f": {code}" in style for code in light.values()), style
    assert svg == plots.to_svg(EVERY[name]())  # the same bytes every time
    with plots.theme("dark"):
        assert "var(--" not in plots.to_svg(EVERY[name]())


@pytest.mark.parametrize("name", list(EVERY))
def test_a_notebook_keeps_photographs_small_and_the_rest_sharp(name):
    figure = EVERY[name]()
    if name in ("augmentation_samples", "grad_cam"):
        assert figure._repr_svg_() is None
        assert figure._repr_jpeg_().startswith(b"\xff\xd8\xff")
    else:
        assert (figure._repr_svg_() or "").startswith("<svg")
        assert not hasattr(figure, "_repr_jpeg_")


def lines_of(axes):
    return {line.get_label(): np.array(line.get_xydata()) for line in axes.lines}


def test_networks_are_where_their_figures_are():
    rows = study.published_networks()
    (axes,) = plots.size_against_accuracy(rows).axes
    drawn = lines_of(axes)
    for family in ("EfficientNet", "EfficientNetV2", "EfficientNet-Lite"):
        members = sorted(
            (row["parameters"] / 1e6, 100 * row["accuracy"])
            for row in rows
            if row["family"] == family
        )
        np.testing.assert_allclose(drawn[family], members)
    assert len(drawn["other networks"]) == sum(row["family"] is None for row in rows)
    (axes,) = plots.cost_against_accuracy(rows).axes
    drawn = lines_of(axes)
    assert drawn["EfficientNet"][0] == pytest.approx([0.386, 77.1], abs=1e-3)
    # GPipe's cost is not published.
    assert len(drawn["other networks"]) == sum(row["family"] is None for row in rows) - 1


def test_names_cover_neither_one_another_nor_points():
    figure = plots.size_against_accuracy(study.published_networks())
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= 35
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)
    for line in axes.lines:
        for x, y in axes.transData.transform(line.get_xydata()):
            assert not any(box.contains(x, y) for box in boxes)


def test_published_networks_are_those_of_the_tables():
    rows = {row["name"]: row for row in study.published_networks()}
    assert (rows["B7"]["parameters"], rows["B7"]["accuracy"]) == (66_347_960, 0.843)
    assert rows["ResNet50"]["multiply_adds"] == pytest.approx(4.1e9)
    assert rows["ResNet152"]["accuracy"] == pytest.approx(0.778)
    assert [f"B{number}" for number in range(8)] == [
        name for name, row in rows.items() if row["family"] == "EfficientNet"
    ]


def test_scales_are_those_of_the_paper():
    rows = study.compound_scales([0, 1])
    lines, points = rows[:2], rows[2:]
    assert lines[1]["depth"] == pytest.approx(1.2)
    assert (
        lines[1]["multiply_adds"]
        == ke.cost.network_cost(ke.scaling.compound_scale(1)).multiply_adds
    )
    assert [row["name"] for row in points] == [f"B{number}" for number in range(8)]
    assert points[0]["phi"] == 0
    assert points[4]["phi"] == pytest.approx(3.73, abs=0.01)
    assert (points[4]["depth"], points[4]["width"]) == (1.8, 1.4)
    assert points[4]["resolution"] == pytest.approx(380 / 224)


def test_growth_is_drawn_over_the_first_point():
    figure = plots.cost_growth(GROWTH)
    sizes, variants = figure.axes
    for axes in (sizes, variants):
        lines = {line.get_label(): line.get_ydata().tolist() for line in axes.lines}
        assert lines == {
            "time, measured": [1, 4],
            "time, predicted": [1, 4],
            "memory, measured": [1, 2],
            "memory, predicted": [1, 4],
        }
    assert sizes.lines[0].get_xdata().tolist() == [32, 64]
    assert [label.get_text() for label in variants.get_xticklabels()] == ["B0", "B7"]
    assert (sizes.get_xlabel(), sizes.get_ylabel()) == ("image size", "times that of 32")


def test_scaling_lines_begin_at_the_base_network():
    (axes,) = plots.scaling_comparison(COMPARISON).axes
    _, labels = axes.get_legend_handles_labels()
    assert sorted(labels) == ["base network", "compound", "depth", "resolution", "width"]
    depth = np.array(axes.lines[0].get_xydata())
    np.testing.assert_allclose(depth, [[0.39, 77.3], [1.8, 79.0]])
    bars = [segment for line in axes.collections for segment in line.get_segments()]
    heights = {round(float(np.ptp(segment[:, 1])), 3) for segment in bars}
    assert {0.4, 0.6, 0.2} <= heights  # twice the spread, in percent


def test_the_best_candidate_is_ringed_and_ranked_first():
    figure = plots.search_results(SEARCH)
    plane, ranks = figure.axes[:2]
    ring = plane.collections[-1].get_offsets()
    np.testing.assert_allclose(ring, [[1.2, 1.1]])
    labels = [label.get_text() for label in ranks.get_yticklabels()]
    assert labels[0] == "1.20  1.10  1.17   (2.00)"
    assert len(labels) == 3
    np.testing.assert_allclose(ranks.lines[0].get_xdata(), [75, 73, 70])
    waiting = plane.collections[0].get_offsets()
    np.testing.assert_allclose(waiting, [[1.3, 1.0], [1.2, 1.2]])


def test_curves_are_those_of_the_history():
    loss, accuracy, rate = plots.learning_curves(HISTORY).axes
    np.testing.assert_allclose(lines_of(loss)["held out"][:, 1], 2.5 / np.arange(1, 8))
    np.testing.assert_allclose(lines_of(accuracy)["training"][:, 1], 100 - 90 / np.arange(1, 8))
    np.testing.assert_allclose(rate.lines[0].get_ydata(), 0.1 / np.arange(1, 8))
    for axes in (loss, accuracy, rate):
        assert [text.get_text().strip() for text in axes.texts] == ["head", "blocks"]
        assert any(np.all(np.array(line.get_xdata()) == 3.5) for line in axes.lines)
    only = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    (axes,) = plots.learning_curves(only).axes
    assert axes.get_title(loc="left") == "Loss"


def test_the_schedule_is_that_of_the_recipe():
    rows = ke.training.learning_rates(ke.training.recipe("paper"), steps_per_epoch=50)
    assert len(rows) == 350 * 50
    # The paper's: 5 epochs of warm-up to 0.256, and 0.97 times as much every 2.4 epochs.
    schedule = ke.training.WarmupExponentialDecay(0.256, 5 * 50, 2.4 * 50, 0.97)
    for step in (0, 1, 249, 250, 359, 360, 17_499):
        assert rows[step]["epoch"] == step / 50
        assert rows[step]["learning_rate"] == pytest.approx(float(schedule(step)))
    (axes,) = plots.learning_rate_schedule(rows).axes
    assert axes.texts[0].get_text() == "0.255 in epoch 4.98"

    # Progressive stages share one schedule.
    rows = ke.training.learning_rates(ke.training.recipe("v2-progressive"), 10)
    assert {row["stage"] for row in rows} == {f"stage {number}" for number in range(1, 5)}
    rates = [row["learning_rate"] for row in rows[50:]]
    assert rates == sorted(rates, reverse=True)


def test_cells_of_the_matrix_show_counts_and_shares():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    (axes,) = plots.confusion_matrix(counts, ["a", "b", "c"]).axes
    cells = {
        (round(cell.get_y() + 0.5), round(cell.get_x() + 0.5)): cell.get_alpha() or 0
        for cell in axes.patches
    }
    assert set(cells) == {(0, 0), (0, 1), (2, 1), (2, 2)}
    assert cells[0, 0] > cells[2, 1] == cells[2, 2] > cells[0, 1]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "3",
        (1, 0): "1",
        (1, 2): "2",
        (2, 2): "2",
    }
    many = np.eye(80, dtype=int)
    (axes,) = plots.confusion_matrix(many, [str(i) for i in range(80)]).axes
    assert not axes.texts
    assert not axes.get_xticks().size


def test_an_overlay_glows_where_the_heatmap_does():
    image = np.full((4, 4, 3), (200, 40, 60), np.uint8)
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[1, 2] = 1
    laid = plots.overlay(image, heatmap)
    assert (laid.dtype, laid.shape) == (np.uint8, (4, 4, 3))
    assert (laid[0, 0] == 100).all()  # grey, as bright as the image
    assert laid[1, 2].max() - laid[1, 2].min() > 50
    with pytest.raises(ke.InputError, match=r"\(4, 4\) does not fit an image of \(5, 4, 3\)"):
        plots.overlay(np.zeros((5, 4, 3)), heatmap)


def test_samples_are_what_training_sees():
    data = ke.data.load("digits")
    plain = ke.data.Augmentation(min_crop_area=1.0)
    originals, copies = ke.data.augmented(data, 48, plain, images_shown=3, copies=2)
    assert (originals.shape, copies.shape) == ((3, 48, 48, 3), (3, 2, 48, 48, 3))
    assert copies.dtype == np.uint8
    np.testing.assert_array_equal(originals[0], data.train.pixels[0])
    strong = ke.data.Augmentation(policy="rand", mixup_alpha=0.5)
    first = ke.data.augmented(data, 48, strong, images_shown=4, copies=2)[1]
    again = ke.data.augmented(data, 48, strong, images_shown=4, copies=2)[1]
    np.testing.assert_array_equal(first, again)
    other = ke.data.augmented(data, 48, strong, images_shown=4, copies=2, seed=1)[1]
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:, 0], first[:, 1])


def test_what_cannot_be_drawn_is_a_sentence():
    network = {"name": "a", "parameters": 1e6, "accuracy": 0.7}
    five = [{**network, "family": str(index)} for index in range(5)]
    for call, message in (
        (lambda: plots.size_against_accuracy([]), "no rows to draw"),
        (lambda: plots.size_against_accuracy([{**network, "accuracy": 77.1}]), "accuracy=77.1"),
        (lambda: plots.size_against_accuracy(five), "can distinguish at most 4"),
        (lambda: plots.learning_curves([{"epoch": 1}]), "none of loss"),
        (lambda: plots.learning_curves([]), "no rows to draw"),
        (lambda: plots.learning_rate_schedule([{"epoch": 1, "learning_rate": "x"}]), "Row 0 has"),
        (lambda: plots.scaling_comparison([{"dimension": "depth"}]), "multiply_adds=None"),
        (lambda: plots.search_results([{**SEARCH[0], "accuracy": None}]), "no rows to draw"),
        (lambda: plots.confusion_matrix(np.eye(3), ["a"]), r"need \(1, 1\)"),
        (lambda: plots.theme("sepia").__enter__(), "Unknown theme 'sepia'; choose light, dark"),
    ):
        with pytest.raises(ke.InputError, match=message):
            call()


PROBE = """
import sys
from keras_efficientnet import plots
figure = plots.learning_curves([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}])
assert figure._repr_svg_().startswith("<svg")
print(sorted({"tensorflow", "keras", "matplotlib.pyplot"} & set(sys.modules)))
"""


def test_drawing_needs_neither_tensorflow_nor_a_screen(run_python):
    assert run_python(PROBE) == "[]"
