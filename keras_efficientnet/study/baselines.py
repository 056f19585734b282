"""This family beside networks of keras.applications: what each costs, and what is claimed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from tqdm import tqdm

from keras_efficientnet import deploy, spec
from keras_efficientnet.description import ModelDescription
from keras_efficientnet.errors import InputError
from keras_efficientnet.study import family, paper_tables, scalable_networks
from keras_efficientnet.study.counting import multiply_adds

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
    """Sets networks side by side, each at its own resolution with ImageNet's 1000 classes.

    Args:
        names: variants of this family, networks of keras.applications (`paper_tables.BASELINES`),
            or others that can be scaled (`scalable_networks.BASES`).
        measure: export each with fresh weights as a float LiteRT file and time it here.
        threads: cores that it may use.
        repeats: turns of the measurement, see `deploy.benchmark`.

    Returns:
        A row for each: `network`, its name; `kind`, `"efficientnet"` or `"baseline"`;
        `image_size`, `trainable`, `multiply_adds`; `paper_parameters` and
        `paper_multiply_adds`, None where not printed; `top1`, published, in percent by source;
        and where measured `latency_ms` (median for one image), `peak_memory` of the process
        and `file_size` in bytes.

    Raises:
        InputError: if a name is unknown.
    """
    known = {name.lower(): baseline for name, baseline in paper_tables.BASELINES.items()}
    entries = [known.get(name.lower()) or _network(name) for name in names]
    models = tqdm(entries, "Building", unit="network", leave=False)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{index}.tflite") for index in range(len(entries))]
        rows = []
        for entry, file in zip(models, files, strict=True):
            rows.append(_row(entry, file if measure else None))
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
        printed counts; `fewer_parameters`, computed; `top1_gain`, percentage points by the
        first published figures; `holds`, whether the computed ratio is at least 5.
    """
    found = []
    for network in rows:
        for baseline in rows:
            if (network["kind"], baseline["kind"]) != ("efficientnet", "baseline"):
                continue
            ratio = baseline["multiply_adds"] / network["multiply_adds"]
            printed = [row["paper_multiply_adds"] for row in (baseline, network)]
            top1 = [
                value for row in (network, baseline) for value in list(row["top1"].values())[:1]
            ]
            found.append(
                {
                    "network": network["network"],
                    "baseline": baseline["network"],
                    "fewer_multiply_adds": ratio,
                    "paper_fewer_multiply_adds": (
                        printed[0] / printed[1] if all(printed) else None
                    ),
                    "fewer_parameters": baseline["trainable"] / network["trainable"],
                    "top1_gain": round(top1[0] - top1[1], 2) if len(top1) == 2 else None,
                    "holds": ratio >= CLAIMED_RATIO,
                }
            )
    return found


def _network(name: str) -> scalable_networks.ScalableNetwork:
    try:
        return scalable_networks.get_network(name)
    except InputError:
        known = dict.fromkeys([*spec.VARIANTS, *paper_tables.BASELINES, *scalable_networks.BASES])
        raise InputError(f"Unknown network {name!r}; choose one of {', '.join(known)}.") from None


def _row(
    entry: scalable_networks.ScalableNetwork | paper_tables.Baseline, file: Path | None
) -> dict[str, Any]:
    """Describes a network and, if a file is named, exports it there."""
    size = entry.resolution
    if isinstance(entry, paper_tables.Baseline):
        figures, top1, kind = entry.figures, dict(entry.figures.top1), "baseline"
        model = application(entry)
        trainable = sum(int(keras.ops.size(v)) for v in model.trainable_variables)
        count = multiply_adds(model)
    else:
        figures = paper_tables.VARIANTS.get(entry.name, paper_tables.Figures())
        top1 = family.top1(entry.name)
        kind = "efficientnet" if _is_efficientnet(entry) else "baseline"
        model = scalable_networks.build(entry, CLASSES, size) if file else None
        cost = scalable_networks.network_cost(entry, CLASSES)
        trainable, count = cost.trainable, cost.multiply_adds
    if file:
        names = tuple(str(index) for index in range(CLASSES))
        deploy.export_tflite(model, file, ModelDescription(entry.name, names, size, 1.0))
    return {
        "network": entry.name,
        "kind": kind,
        "image_size": size,
        "trainable": trainable,
        "multiply_adds": count,
        "paper_parameters": paper_tables.number(figures.parameters, paper_tables.MILLION),
        "paper_multiply_adds": paper_tables.number(figures.multiply_adds, paper_tables.BILLION),
        "top1": top1,
        "latency_ms": None,
        "peak_memory": None,
        "file_size": None,
    }


def _is_efficientnet(network: scalable_networks.ScalableNetwork) -> bool:
    return isinstance(network, spec.VariantSpec) and network is not scalable_networks.MOBILENET_V2


def application(baseline: paper_tables.Baseline) -> keras.Model:
    """Builds a network of keras.applications with fresh weights, for raw RGB pixels."""
    images = keras.Input((baseline.resolution, baseline.resolution, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
    builder = getattr(keras.applications, baseline.name)
    return builder(weights=None, input_tensor=pixels, classes=CLASSES)
