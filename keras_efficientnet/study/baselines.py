"""This family beside networks of keras.applications: cost, published accuracy, speed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_efficientnet import deploy, spec
from keras_efficientnet.bars import Bar
from keras_efficientnet.errors import InputError
from keras_efficientnet.study import family, paper_tables
from keras_efficientnet.study.counting import multiply_adds
from keras_efficientnet.study.paper_tables import BASELINES, Baseline
from keras_efficientnet.study.scalable_networks import (
    BASES,
    MOBILENET_V2,
    ScalableNetwork,
    build,
    get_network,
    network_cost,
)

CLASSES = 1000
# "EfficientNet needs 5 to 10 times fewer FLOPs", as is often said of the whole family.
CLAIMED_RATIO = 5


def compare_networks(
    names: Sequence[str],
    *,
    measure: bool = False,
    threads: int = 1,
    repeats: int = 20,
) -> list[dict[str, Any]]:
    """Compares networks, each at its own resolution with ImageNet's 1000 classes.

    Args:
        names: variants of this family, networks of keras.applications (`paper_tables.BASELINES`),
            or the peers in `scalable_networks.BASES`.
        measure: export each with random weights as a float LiteRT file and time it here.
        threads: cores to time it with.
        repeats: turns of the measurement, see `deploy.benchmark`.

    Returns:
        A row for each: `network`, its name; `kind`, `"efficientnet"` or `"baseline"`;
        `image_size`, `trainable`, `multiply_adds`; `paper_parameters` and
        `paper_multiply_adds`, None where not printed; `top1`, published accuracy in percent by
        source; and `latency_ms` (median for one image), `peak_memory` of the process and
        `file_size` in bytes, None where not measured.

    Raises:
        InputError: if a name is unknown.
    """
    known = {name.lower(): baseline for name, baseline in BASELINES.items()}
    entries = [known.get(name.lower()) or _network(name) for name in names]
    models = Bar(entries, "Building", unit="network", leave=False)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{index}.tflite") for index in range(len(entries))]
        rows = [
            _row(entry, file if measure else None)
            for entry, file in zip(models, files, strict=True)
        ]
        if measure:
            report = deploy.benchmark(files, [threads], repeats, batch=1)
            for row, result in zip(rows, report["results"], strict=True):
                row["latency_ms"] = result["latency_ms"]["p50"]
                row["peak_memory"] = result["peak_memory"]
                row["file_size"] = result["size"]
    return rows


def efficiency_claims(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checks "5 to 10 times fewer FLOPs" for every EfficientNet beside every baseline.

    Args:
        rows: from `compare_networks`.

    Returns:
        A row for each pair: `network`, `baseline`; `fewer_multiply_adds`, the baseline's
        multiply-adds over the network's, computed, and `paper_fewer_multiply_adds`, by the
        printed counts, None where one is not printed; `fewer_parameters`, computed; `top1_gain`,
        percentage points by the first published figures, None where one is not published;
        `holds`, whether the computed ratio is at least 5.
    """
    return [
        _claim(network, baseline)
        for network in rows
        for baseline in rows
        if (network["kind"], baseline["kind"]) == ("efficientnet", "baseline")
    ]


def _claim(network: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    ratio = baseline["multiply_adds"] / network["multiply_adds"]
    printed = baseline["paper_multiply_adds"], network["paper_multiply_adds"]
    top1, baseline_top1 = (next(iter(r["top1"].values()), None) for r in (network, baseline))
    return {
        "network": network["network"],
        "baseline": baseline["network"],
        "fewer_multiply_adds": ratio,
        "paper_fewer_multiply_adds": printed[0] / printed[1] if all(printed) else None,
        "fewer_parameters": baseline["trainable"] / network["trainable"],
        "top1_gain": round(top1 - baseline_top1, 2) if top1 and baseline_top1 else None,
        "holds": ratio >= CLAIMED_RATIO,
    }


def _network(name: str) -> ScalableNetwork:
    try:
        return get_network(name)
    except InputError:
        known = dict.fromkeys([*spec.VARIANTS, *BASELINES, *BASES])
        raise InputError(f"Unknown network {name!r}; choose one of {', '.join(known)}.") from None


def _row(entry: ScalableNetwork | Baseline, file: Path | None) -> dict[str, Any]:
    """Describes a network and, if a file is named, exports it there."""
    if isinstance(entry, Baseline):
        figures, top1, kind = entry.figures, dict(entry.figures.top1), "baseline"
        model = application(entry)
        trainable = sum(int(keras.ops.size(v)) for v in model.trainable_variables)
        count = multiply_adds(model)
    else:
        figures = paper_tables.VARIANTS.get(entry.name, paper_tables.Figures())
        top1 = family.top1(entry.name)
        kind = "efficientnet" if _is_efficientnet(entry) else "baseline"
        model = build(entry, CLASSES, entry.resolution) if file else None
        cost = network_cost(entry, CLASSES)
        trainable, count = cost.trainable, cost.multiply_adds
    if file:
        deploy.export_tflite(model, file)
    return {
        "network": entry.name,
        "kind": kind,
        "image_size": entry.resolution,
        "trainable": trainable,
        "multiply_adds": count,
        "paper_parameters": paper_tables.number(figures.parameters),
        "paper_multiply_adds": paper_tables.number(figures.multiply_adds),
        "top1": top1,
        "latency_ms": None,
        "peak_memory": None,
        "file_size": None,
    }


def _is_efficientnet(network: ScalableNetwork) -> bool:
    return isinstance(network, spec.VariantSpec) and network is not MOBILENET_V2


def application(baseline: Baseline) -> keras.Model:
    """Builds a network of keras.applications with random weights, for raw RGB pixels in 0-255."""
    images = keras.Input((baseline.resolution, baseline.resolution, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
    builder = getattr(keras.applications, baseline.name)
    return builder(weights=None, input_tensor=pixels, classes=CLASSES)
