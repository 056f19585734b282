"""`keras-efficientnet train`."""

import dataclasses
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    PATH,
    PATH_OR_NAME,
    data_options,
    import_tensorflow,
    json_option,
    print_files,
    print_json,
    setting,
)
from keras_efficientnet.errors import InputError


def grouped(name: str, *options: Callable) -> Callable:
    """Adds options to a command, which gets their values as one dict under this name."""

    def decorate(command: Callable) -> Callable:
        @wraps(command)
        def gathered(**values):
            group = {option: values.pop(option) for option in names}
            return command(**{name: group}, **values)

        for option in reversed(options):
            option(gathered)
        added: Any = vars(gathered)["__click_params__"][-len(options) :]
        names = [parameter.name for parameter in added]
        return gathered

    return decorate


network_options = grouped(
    "network",
    click.option(
        "--model",
        "variant",
        help="Variant, such as B3, Lite0 or V2-S. [default: B0; Lite0 from pretrained weights]",
    ),
    click.option(
        "--image-size",
        type=int,
        help="Side of the input in pixels. [default: the data's or the variant's]",
    ),
    click.option(
        "--weights",
        type=PATH_OR_NAME,
        help="Published name or file to start from, auto for the first set that is installed, in "
        "the cache or can be downloaded, or none. [default: auto for photos, none for digits and "
        "for recipes from scratch]",
    ),
)
recipe_options = grouped(
    "recipe",
    click.option(
        "--recipe",
        "name",
        help="finetune, probe, small, paper or v2-progressive. [default: finetune from weights, "
        "small from scratch]",
    ),
    click.option(
        "--epochs", type=int, help="Passes over the training images. [default: the recipe's]"
    ),
    click.option(
        "--batch-size", type=int, help="Images per optimizer step. [default: the recipe's]"
    ),
    click.option(
        "--learning-rate",
        type=float,
        help="Peak learning rate at any batch size. [default: the recipe's]",
    ),
    click.option(
        "--set",
        "settings",
        metavar="NAME=VALUE",
        multiple=True,
        help="Any other value of the recipe, such as policy=rand or progressive.magnitude=5; "
        "repeatable.",
    ),
)
run_options = grouped(
    "config",
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Of initial weights, order of the images and augmentation.",
    ),
    click.option(
        "--minutes",
        type=float,
        help="Time for training when fine-tuning: as many epochs as fit. Exporting comes after.",
    ),
    click.option(
        "--class-weights", is_flag=True, help="Weight the loss so that every class counts equally."
    ),
    click.option(
        "--precision",
        default="float32",
        show_default=True,
        help="float32, mixed_bfloat16 or mixed_float16.",
    ),
    click.option(
        "--accumulation",
        type=int,
        default=1,
        show_default=True,
        help="Equal parts that each batch is processed in, where it does not fit into memory.",
    ),
    click.option(
        "--steps-per-execution",
        type=int,
        default=1,
        show_default=True,
        help="Batches between two calls from Python; more keep an accelerator busy.",
    ),
    click.option(
        "--devices",
        type=int,
        help="Devices of this host that share each batch. [default: all GPUs]",
    ),
    click.option(
        "--deterministic", is_flag=True, help="Compute the same bits in every run; slower."
    ),
    click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard."),
    click.option(
        "--checkpoint-seconds",
        type=float,
        default=300,
        show_default=True,
        help="Time between two checkpoints.",
    ),
)
host_options = grouped(
    "cluster",
    click.option(
        "--hosts",
        metavar="HOST:PORT,...",
        help="Train on several hosts, with KERAS_BACKEND=jax: all their addresses, in order.",
    ),
    click.option(
        "--process-id", type=int, help="With --hosts: number of this process among them, from 0."
    ),
)
output_options = grouped(
    "results",
    click.option(
        "--resume", is_flag=True, help="Continue an unfinished run with the same options."
    ),
    click.option(
        "--output",
        type=PATH,
        help="Folder to write. [default: saved_models/DATA-MODEL]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace an existing output or unfinished run."),
)


@click.command()
@data_options("--data", DATA_HELP, default="digits", show_default=True)
@network_options
@recipe_options
@run_options
@host_options
@output_options
@json_option
def train(load_data, network, recipe, config, cluster, results, as_json):
    r"""Train a classifier; export and verify it.

    Writes a .keras file, a SavedModel, a float and an int8 LiteRT file, labels, the
    training history and a report. Every file is reloaded in a fresh process and compared
    with the Keras model on all held-out images.

    \b
    Examples:
      keras-efficientnet train
      keras-efficientnet train --data folder:photos
      keras-efficientnet train --data folder:photos --model B3 --recipe probe
      keras-efficientnet train --data folder:photos --minutes 10
      keras-efficientnet train --data tfds:imagenet2012 --model B3 --recipe paper
      keras-efficientnet train --data folder:photos --set policy=rand --set magnitude=15
      KERAS_BACKEND=jax keras-efficientnet train --hosts 10.0.0.1:8476,10.0.0.2:8476 --process-id 0
    """
    from keras_efficientnet import scaling
    from keras_efficientnet.training import check_jax, on_hosts

    # These show mistakes before the seconds that TensorFlow takes to load.
    scaling.get_variant(network["variant"] or "B0")
    check_jax()
    hosts, process_id = cluster["hosts"], cluster["process_id"]
    if (hosts is None) != (process_id is None):
        raise InputError("--hosts and --process-id go together.")
    if recipe["epochs"] is not None and config["minutes"] is not None:
        raise InputError("Give --epochs or --minutes, not both.")

    def run():
        import_tensorflow()
        from keras_efficientnet.run import TrainConfig, train

        data = load_data()
        variant, weights, name = _start(data, network, recipe["name"])
        return train(
            data,
            variant,
            _recipe(name, variant, len(data.train), recipe),
            weights=weights,
            image_size=network["image_size"],
            output=results["output"],
            if_exists=_if_exists(**results),
            config=TrainConfig(**config),
        )

    report = on_hosts(run, hosts, process_id) if hosts else run()
    if as_json:
        print_json(report and dataclasses.asdict(report))
    elif report is None:
        click.echo(f"Process 0 has exported and verified the model of process {process_id} too.")
    else:
        print_files(report.export)
        click.echo(f"Written to {report.export.directory} in {report.seconds:.0f} s.")


def _start(data, network, recipe_name):
    """Returns the variant, the weights and the recipe's name, with what was not given."""
    from keras_efficientnet.training.recipes import SCRATCH

    weights = network["weights"]
    if weights is None:
        from_scratch = data.source == "digits" if recipe_name is None else recipe_name in SCRATCH
        weights = "none" if from_scratch else "auto"
    weights = None if weights == "none" else weights
    variant = network["variant"] or _variant_of(weights)
    return variant, weights, recipe_name or ("small" if weights is None else "finetune")


def _variant_of(weights):
    """Returns the variant that weights are of; of a name that several have, the smallest."""
    from keras_efficientnet.weights import inspect, registry

    if weights is None:
        return "B0"
    having = [entry.variant for entry in registry.table() if entry.name == weights]
    if weights == "auto" or registry.DEFAULT_VARIANT in having:
        return registry.DEFAULT_VARIANT
    variant = having[0] if having else inspect(weights).variant
    if variant is None:
        raise InputError(f"Weights {weights!r} are of no published variant; pass --model.")
    return variant


def _recipe(name, variant, images, given):
    """Returns the recipe with the values that were given in place of its own."""
    from keras_efficientnet.training import recipe

    values = {option: given[option] for option in ("epochs", "batch_size", "learning_rate")}
    values = {option: value for option, value in values.items() if value is not None}
    return recipe(name, variant, images, **dict(map(setting, given["settings"])), **values)


def _if_exists(resume, overwrite, output):
    return "resume" if resume else "overwrite" if overwrite else "fail"
