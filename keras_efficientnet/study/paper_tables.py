"""What the papers' tables print of their networks, to set beside what is computed.

Figures are as printed: a `Decimal` keeps the digits, so that a computed value can be rounded
to as many. The papers' "FLOPS" are multiply-adds. Accuracies are ImageNet's top-1, in percent.
Those of published weights stand in `weights.registry`.

Sources, cited by the names used below:

- paper: Tan & Le, "EfficientNet", https://arxiv.org/abs/1905.11946; v1 is the ICML 2019
  version, v5 the latest. 77.3 79.2 80.3 81.7 83.0 83.7 84.2 84.4 for B0-B7, as often quoted,
  are neither's but an arXiv revision's between them.
- V2 paper: https://arxiv.org/abs/2104.00298, Table 7
- AML: https://github.com/google/automl/blob/master/efficientnetv2/README.md
- TPU: https://github.com/tensorflow/tpu/blob/master/models/official/efficientnet/lite/README.md
- Keras: https://keras.io/api/applications
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True)
class Figures:
    """What is printed of one network.

    Attributes:
        parameters: in millions.
        multiply_adds: in billions.
        top1: percent, by what tells several figures apart; the one to quote comes first.
        source: where the counts are printed.
    """

    parameters: Decimal | None = None
    multiply_adds: Decimal | None = None
    top1: Mapping[str, float] = field(default_factory=dict)
    source: str = "paper, Table 2"


def _v1(parameters: str, multiply_adds: str, first: float, latest: float) -> Figures:
    top1 = {"paper v1": first, "paper v5": latest}
    return Figures(Decimal(parameters), Decimal(multiply_adds), top1)


def _other(parameters: str, multiply_adds: str, top1: dict[str, float], source: str) -> Figures:
    return Figures(Decimal(parameters), Decimal(multiply_adds), top1, source)


VARIANTS: dict[str, Figures] = {
    "B0": _v1("5.3", "0.39", 76.3, 77.1),
    "B1": _v1("7.8", "0.70", 78.8, 79.1),
    "B2": _v1("9.2", "1.0", 79.8, 80.1),
    "B3": _v1("12", "1.8", 81.1, 81.6),
    "B4": _v1("19", "4.2", 82.6, 82.9),
    "B5": _v1("30", "9.9", 83.3, 83.6),
    "B6": _v1("43", "19", 84.0, 84.0),
    "B7": _v1("66", "37", 84.4, 84.3),
    "Lite0": _other("4.7", "0.407", {"int8, TPU": 74.4}, "TPU"),
    "Lite1": _other("5.4", "0.631", {"int8, TPU": 75.9}, "TPU"),
    "Lite2": _other("6.1", "0.899", {"int8, TPU": 77.0}, "TPU"),
    "Lite3": _other("8.2", "1.44", {"int8, TPU": 79.0}, "TPU"),
    "Lite4": _other("13.0", "2.64", {"int8, TPU": 80.2}, "TPU"),
    "V2-B0": _other("7.1", "0.72", {"AML": 78.7}, "AML"),
    "V2-B1": _other("8.1", "1.2", {"AML": 79.8}, "AML"),
    "V2-B2": _other("10.1", "1.7", {"AML": 80.5}, "AML"),
    "V2-B3": _other("14.4", "3.0", {"AML": 82.1}, "AML"),
    "V2-S": _other("22", "8.8", {"AML": 83.9}, "V2 paper"),
    "V2-M": _other("54", "24", {"AML": 85.2}, "V2 paper"),
    "V2-L": _other("120", "53", {"AML": 85.7}, "V2 paper"),
    "V2-XL": _other("208", "94", {}, "V2 paper"),
}


@dataclass(frozen=True)
class Baseline:
    """A network of keras.applications beside what is printed of it.

    Attributes:
        name: of its function in keras.applications.
        resolution: side of its usual input in pixels.
        figures: printed.
    """

    name: str
    resolution: int
    figures: Figures


def _baseline(name: str, resolution: int, counts: tuple[str, str], paper: float, keras: float):
    figures = _other(*counts, {"paper": paper, "Keras": keras}, "paper, Table 2")
    return Baseline(name, resolution, figures)


# Paper, Table 2 (MobileNets: Table 3), and Keras' accuracies of its own weights.
BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        _baseline("ResNet50", 224, ("26", "4.1"), 76.0, 74.9),
        _baseline("DenseNet169", 224, ("14", "3.5"), 76.2, 76.2),
        _baseline("ResNet152", 224, ("60", "11"), 77.8, 76.6),
        _baseline("InceptionV3", 299, ("24", "5.7"), 78.8, 77.9),
        _baseline("Xception", 299, ("23", "8.4"), 79.0, 79.0),
        _baseline("InceptionResNetV2", 299, ("56", "13"), 80.1, 80.3),
        _baseline("NASNetLarge", 331, ("89", "24"), 82.7, 82.5),
        Baseline(
            "MobileNet",
            224,
            Figures(None, Decimal("0.6"), {"paper": 70.6, "Keras": 70.4}, "paper, Table 3"),
        ),
        Baseline(
            "MobileNetV2",
            224,
            Figures(None, Decimal("0.3"), {"paper": 72.0, "Keras": 71.3}, "paper, Table 3"),
        ),
    )
}


@dataclass(frozen=True)
class Scaled:
    """A row of the paper's scaling tables.

    Attributes:
        dimension: `"base"`, `"depth"`, `"width"`, `"resolution"` or `"compound"`.
        depth: multiplier.
        width: multiplier.
        resolution: multiplier.
        multiply_adds: in billions, as printed.
        top1: percent.
    """

    dimension: str
    depth: float
    width: float
    resolution: float
    multiply_adds: Decimal
    top1: float


def _rows(*figures: tuple[str, str, float]) -> tuple[Scaled, ...]:
    multipliers = {
        "base": (1.0, 1.0, 1.0),
        "depth": (4.0, 1.0, 1.0),
        "width": (1.0, 2.0, 1.0),
        "resolution": (1.0, 1.0, 2.0),
        # Table 3 prints these for MobileNetV1 alone; taken for the others too.
        "compound": (1.4, 1.2, 1.3),
    }
    rows = []
    for dimension, printed, top1 in figures:
        depth, width, resolution = multipliers[dimension]
        rows.append(Scaled(dimension, depth, width, resolution, Decimal(printed), top1))
    return tuple(rows)


# Paper, Table 7 (B0) and Table 3.
SCALED: dict[str, tuple[Scaled, ...]] = {
    "B0": _rows(
        ("base", "0.4", 77.3),
        ("depth", "1.8", 79.0),
        ("width", "1.8", 78.9),
        ("resolution", "1.9", 79.1),
        ("compound", "1.8", 81.1),
    ),
    "MobileNetV1": _rows(
        ("base", "0.6", 70.6),
        ("width", "2.2", 74.2),
        ("resolution", "2.2", 72.7),
        ("compound", "2.3", 75.6),
    ),
    "MobileNetV2": _rows(
        ("base", "0.3", 72.0),
        ("depth", "1.2", 76.8),
        ("width", "1.1", 76.4),
        ("resolution", "1.2", 74.8),
        ("compound", "1.3", 77.4),
    ),
    "ResNet50": _rows(
        ("base", "4.1", 76.0),
        ("depth", "16.2", 78.1),
        ("width", "14.7", 77.7),
        ("resolution", "16.4", 77.5),
        ("compound", "16.7", 78.8),
    ),
}


MILLION = 10**6
BILLION = 10**9


def number(printed: Decimal | None, unit: int) -> float | None:
    """Returns a printed figure as a number; None where nothing is printed."""
    return None if printed is None else float(printed * unit)


def agrees(value: float, printed: Decimal | None, unit: int) -> bool | None:
    """Whether a computed value rounds to the printed one; None where nothing is printed."""
    if printed is None:
        return None
    return (Decimal(value) / unit).quantize(printed) == printed
