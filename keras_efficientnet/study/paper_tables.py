"""What the papers' tables print of their networks, to set beside what is computed.

Figures are as printed: a `Decimal` keeps the digits, 5.3 million as 5.3E+6, so that a computed
value can be rounded to as many. The papers' "FLOPS" are multiply-adds. Accuracies are
ImageNet's top-1, in percent. Those of published weights stand in `weights.registry`.

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

TABLE_2, TABLE_3 = "paper, Table 2", "paper, Table 3"


@dataclass(frozen=True)
class Figures:
    """What is printed of one network.

    Attributes:
        parameters: their number; None where it is not printed.
        multiply_adds: for one image; None where they are not printed.
        top1: accuracy in percent by its source; the one to quote comes first.
        source: where the counts are printed.
    """

    parameters: Decimal | None = None
    multiply_adds: Decimal | None = None
    top1: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


def _printed(
    millions: str | None, billions: str | None, source: str, top1: Mapping[str, float]
) -> Figures:
    """Takes parameters in millions and multiply-adds in billions, as the papers do."""
    return Figures(
        parameters=None if millions is None else Decimal(millions).scaleb(6),
        multiply_adds=None if billions is None else Decimal(billions).scaleb(9),
        top1=top1,
        source=source,
    )


def _v1(millions: str, billions: str, first: float, latest: float) -> Figures:
    return _printed(millions, billions, TABLE_2, {"paper v1": first, "paper v5": latest})


VARIANTS: dict[str, Figures] = {
    "B0": _v1("5.3", "0.39", 76.3, 77.1),
    "B1": _v1("7.8", "0.70", 78.8, 79.1),
    "B2": _v1("9.2", "1.0", 79.8, 80.1),
    "B3": _v1("12", "1.8", 81.1, 81.6),
    "B4": _v1("19", "4.2", 82.6, 82.9),
    "B5": _v1("30", "9.9", 83.3, 83.6),
    "B6": _v1("43", "19", 84.0, 84.0),
    "B7": _v1("66", "37", 84.4, 84.3),
    "Lite0": _printed("4.7", "0.407", "TPU", {"int8, TPU": 74.4}),
    "Lite1": _printed("5.4", "0.631", "TPU", {"int8, TPU": 75.9}),
    "Lite2": _printed("6.1", "0.899", "TPU", {"int8, TPU": 77.0}),
    "Lite3": _printed("8.2", "1.44", "TPU", {"int8, TPU": 79.0}),
    "Lite4": _printed("13.0", "2.64", "TPU", {"int8, TPU": 80.2}),
    "V2-B0": _printed("7.1", "0.72", "AML", {"AML": 78.7}),
    "V2-B1": _printed("8.1", "1.2", "AML", {"AML": 79.8}),
    "V2-B2": _printed("10.1", "1.7", "AML", {"AML": 80.5}),
    "V2-B3": _printed("14.4", "3.0", "AML", {"AML": 82.1}),
    "V2-S": _printed("22", "8.8", "V2 paper", {"AML": 83.9}),
    "V2-M": _printed("54", "24", "V2 paper", {"AML": 85.2}),
    "V2-L": _printed("120", "53", "V2 paper", {"AML": 85.7}),
    "V2-XL": _printed("208", "94", "V2 paper", {}),
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


def _baseline(
    name: str, resolution: int, counts: tuple[str | None, str], paper: float, keras: float
) -> Baseline:
    source = TABLE_2 if counts[0] else TABLE_3
    return Baseline(name, resolution, _printed(*counts, source, {"paper": paper, "Keras": keras}))


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
        _baseline("MobileNet", 224, (None, "0.6"), 70.6, 70.4),
        _baseline("MobileNetV2", 224, (None, "0.3"), 72.0, 71.3),
    )
}

# Paper, Table 2: the networks that keras.applications lacks.
OTHERS: dict[str, Figures] = {
    "DenseNet-264": _printed("34", "6.0", TABLE_2, {"paper": 77.9}),
    "Inception-v4": _printed("48", "13", TABLE_2, {"paper": 80.0}),
    "ResNeXt-101": _printed("84", "32", TABLE_2, {"paper": 80.9}),
    "PolyNet": _printed("92", "35", TABLE_2, {"paper": 81.3}),
    "SENet": _printed("146", "42", TABLE_2, {"paper": 82.7}),
    "AmoebaNet-A": _printed("87", "23", TABLE_2, {"paper": 82.8}),
    "PNASNet": _printed("86", "23", TABLE_2, {"paper": 82.9}),
    "AmoebaNet-C": _printed("155", "41", TABLE_2, {"paper": 83.5}),
    "GPipe": _printed("557", None, TABLE_2, {"paper": 84.3}),
}


@dataclass(frozen=True)
class Scaled:
    """A row of the paper's scaling tables.

    Attributes:
        dimension: `"base"`, `"depth"`, `"width"`, `"resolution"` or `"compound"`.
        depth: multiplier of the base network's.
        width: likewise.
        resolution: likewise.
        multiply_adds: for one image.
        top1: accuracy in percent.
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
    for dimension, billions, top1 in figures:
        depth, width, resolution = multipliers[dimension]
        multiply_adds = Decimal(billions).scaleb(9)
        rows.append(Scaled(dimension, depth, width, resolution, multiply_adds, top1))
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


def number(printed: Decimal | None) -> float | None:
    """Returns a printed figure as a number; None where nothing is printed."""
    return None if printed is None else float(printed)


def agrees(value: float, printed: Decimal | None) -> bool | None:
    """Whether a computed value rounds to the printed one; None where nothing is printed."""
    return None if printed is None else Decimal(value).quantize(printed) == printed
