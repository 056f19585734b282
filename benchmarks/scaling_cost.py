"""How time and memory of a training step grow, beside the closed form of `ke.cost`.

    pip install -e ".[bench]"
    python benchmarks/scaling_cost.py --plot scaling_cost.svg --json figures.json

One thing grows at a time: the image size of B0, its batch, or the variant at its own image
size. Each point is measured as by training_step.py, in a process of its own: the CPU time of
the fastest of several steps, and the peak memory less that before the first. Predicted time is
proportional to the multiply-adds. Predicted memory is that of the activations which a step keeps
for its gradients, the output of each convolution and, of about half of them, that of
normalization and activation, and of the weights' gradients and the optimizer's two averages.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import training_step
from peers import parse, report, serving
from tqdm import tqdm

import keras_efficientnet as ke
from keras_efficientnet import plots
from keras_efficientnet.deploy.fresh_interpreter import start_worker

PACKAGES = ("keras", "tensorflow")
# What grows: variant, image size (None for its own) and batch of each point.
GRIDS = {
    "image size": [("B0", size, 8) for size in (96, 128, 192, 256, 320)],
    "batch": [("B0", 128, batch) for batch in (2, 4, 8, 16, 32)],
    "variant": [(f"B{index}", None, 1) for index in range(8)],
}
SMALL = {
    "image size": [("B0", 32, 2), ("B0", 64, 2)],
    "batch": [("B0", 32, 2), ("B0", 32, 4)],
    "variant": [("B0", 32, 2), ("B1", 32, 2)],
}
FLOAT_BYTES = 4
KEPT_OF_A_CONVOLUTION = 1.5
KEPT_OF_A_WEIGHT = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--along", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--small", action="store_true", help="two small points of each")
    parser.add_argument("--turns", type=int, default=3, help="of 3 steps; default: %(default)s")
    parser.add_argument("--points", nargs="+", default=[], help="figures of runs before, as --json")
    parser.add_argument("--plot", help="SVG file to draw all points into")
    options = parse(parser)
    points = [
        point
        for file in options.points
        for point in json.loads(Path(file).read_text(encoding="utf-8"))["points"]
    ]
    grids = SMALL if options.small else GRIDS
    wanted = [(along, place) for along in options.along for place in grids[along]]
    for along, place in tqdm(wanted, "Measuring", unit="point", leave=False, disable=None):
        points.append(measure(along, *place, options.turns))
    for point in points:
        print(
            f"{point['along']} {point['at']}: {point['time']:.3f} s, "
            f"{point['memory'] / 2**20:.0f} MiB ({point['predicted_memory'] / 2**20:.0f} predicted)"
        )
    report(options, PACKAGES, [], points=points)
    if options.plot:
        Path(options.plot).write_text(plots.to_svg(plots.cost_growth(points)), encoding="utf-8")


def measure(along: str, variant: str, size: int | None, batch: int, turns: int) -> dict[str, Any]:
    size = size or ke.spec.VARIANTS[variant].resolution
    given = argparse.Namespace(variant=variant, image_size=size, batch_size=batch)
    command = serving(training_step.__file__, training_step.OURS, given)
    with start_worker(command) as worker:
        memory = worker.loaded
        steps = [step for _ in range(turns) for step in worker.request("step")]
    cost = ke.cost.network_cost(variant, size)
    values = KEPT_OF_A_CONVOLUTION * batch * cost.activations + KEPT_OF_A_WEIGHT * cost.trainable
    return {
        "along": along,
        "at": {"image size": size, "batch": batch, "variant": variant}[along],
        "variant": variant,
        "image_size": size,
        "batch_size": batch,
        "time": min(step["CPU"] for step in steps),
        "wall_time": min(step["wall"] for step in steps),
        "memory": memory,
        "predicted_time": batch * cost.multiply_adds,
        "predicted_memory": FLOAT_BYTES * values,
    }


if __name__ == "__main__":
    main()
