"""Fine-tuning on some hundred photos, beside training from scratch for as many epochs.

    python examples/fine_tuning.py --data folder:flowers --weights imagenet

Both see the same images at the same size. The weights may lack some layers: these start from
random weights and are trained first.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

import keras_efficientnet as ke


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder:DIR, csv:FILE or tfds:NAME")
    parser.add_argument("--model", default="B0", help="variant, such as B0 or V2-S")
    parser.add_argument("--weights", required=True, help="published name or file")
    parser.add_argument("--image-size", type=int, help="in pixels; the variant's if not given")
    parser.add_argument("--epochs", type=int, help="the recipe's if not given")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    tuning = ke.training.recipe(
        "finetune", options.model, **({"epochs": options.epochs} if options.epochs else {})
    )
    scratch = ke.training.recipe(
        "small", options.model, epochs=tuning.epochs, batch_size=tuning.batch_size
    )
    data = ke.data.load(options.data)
    table, reports = Table("start", "accuracy", "seconds"), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe, weights in (
            ("pretrained", tuning, options.weights),
            ("scratch", scratch, None),
        ):
            report = ke.train(
                data,
                options.model,
                recipe,
                weights=weights,
                image_size=options.image_size,
                output=Path(folder, name),
            )
            reports[name] = dataclasses.asdict(report)
            accuracy = report.export.file("model.keras").accuracy
            table.add_row(name, f"{100 * accuracy:.1f} %", f"{report.seconds:.0f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
