"""`keras-efficientnet benchmark`."""

from pathlib import Path

import click

from keras_efficientnet.cli.common import PATH_OR_NAME, json_option, print_json, print_table, table


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=PATH_OR_NAME)
@click.option(
    "--threads", type=int, multiple=True, help="Cores to use; repeatable. [default: 1 and all]"
)
@click.option("--repeats", type=int, default=50, show_default=True, help="Rounds of measurement.")
@click.option(
    "--batch", type=int, default=32, show_default=True, help="Images at once, for throughput."
)
@json_option
def benchmark(models, threads, repeats, batch, as_json):
    """Measure the speed, memory and size of model files side by side.

    Each MODEL, a .keras, .tflite or .onnx file or a SavedModel folder, runs in a process of its
    own, and the measurements are interleaved in rounds. Latency is that of the network for one
    image, throughput that for a batch; "speedup" compares with the first model, round by round.

    \b
    Example:
      keras-efficientnet benchmark model.keras model_float32.tflite model_int8.tflite
    """
    from keras_efficientnet.deploy.benchmarking import benchmark as run

    report = run(models, threads, repeats, batch)
    if as_json:
        print_json(report)
        return
    from rich import box

    rows = table(
        *("model", "cores", "latency, ms\np50 / p90 / p99", "speedup", "images\n/s"),
        *("load\ns", "memory\nMB", "file\nMB"),
    )
    # So that eight columns fit into 80 characters.
    rows.box, rows.padding, rows.columns[0].overflow = box.SIMPLE_HEAD, (0, 1, 0, 0), "fold"
    before = None
    for result in report["results"]:
        memory = result["peak_memory"]
        rows.add_row(
            "" if before == result["model"] else _short(result["model"]),
            str(result["threads"]),
            " / ".join(f"{result['latency_ms'][share]:.1f}" for share in ("p50", "p90", "p99")),
            f"{result['speedup']['median']:.2f}x",
            f"{result['images_per_second']:.1f}",
            f"{result['load_seconds']:.2f}",
            f"{memory / 1e6:.0f}" if memory else "-",
            f"{result['size'] / 1e6:.1f}",
        )
        before = result["model"]
    print_table(rows)
    machine = report["machine"]
    click.echo(f"{machine['processor']}, {machine['cores']} cores; {repeats} rounds.")


def _short(path: str) -> str:
    return str(Path(*Path(path).parts[-2:]))
