"""`keras-efficientnet train`."""

from pathlib import Path

import click

from keras_efficientnet.cli.common import (
    DATA_HELP,
    data_options,
    import_tensorflow,
    json_option,
    print_artifacts,
    print_json,
    setting,
)
from keras_efficientnet.errors import InputError


@click.command()
@data_options("--data", DATA_HELP, default="digits", show_default=True)
@click.option(
    "--model",
    "variant",
    default="B0",
    show_default=True,
    help="Variant, such as B3, Lite0 or V2-S.",
)
@click.option(
    "--image-size",
    type=int,
    help="Side of the input in pixels. [default: the data's or the variant's]",
)
@click.option(
    "--recipe",
    "recipe_name",
    default="small",
    show_default=True,
    help="small, finetune, paper or v2-progressive.",
)
@click.option("--epochs", type=int, help="Passes over the training images. [default: the recipe's]")
@click.option(
    "--batch-size", type=int, help="Images that one step looks at. [default: the recipe's]"
)
@click.option(
    "--learning-rate", type=float, help="Peak, at this batch size. [default: the recipe's]"
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any other value of the recipe, such as policy=rand or mixup_alpha=0.2; repeatable.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of weights, order and augmentation."
)
@click.option("--weights", type=click.Path(), help="Published name or file to start from.")
@click.option("--class-weights", is_flag=True, help="Let every class count the same in the loss.")
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="float32, mixed_bfloat16 or mixed_float16.",
)
@click.option(
    "--accumulation",
    type=int,
    default=1,
    show_default=True,
    help="Parts that a batch is cut into where it does not fit into memory.",
)
@click.option(
    "--steps-per-run_config",
    type=int,
    default=1,
    show_default=True,
    help="Batches between two calls from Python; more keeps an accelerator busy.",
)
@click.option(
    "--devices",
    type=int,
    help="Devices of this host to share each batch. [default: all GPUs]",
)
@click.option(
    "--hosts",
    metavar="HOST:PORT,...",
    help="Train on several hosts, with KERAS_BACKEND=jax: all their addresses, in order.",
)
@click.option("--process-id", type=int, help="With --hosts: this process' place, from 0.")
@click.option("--deterministic", is_flag=True, help="Give the same bits every time; slower.")
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard.")
@click.option(
    "--checkpoint-seconds",
    type=float,
    default=300,
    show_default=True,
    help="Time between two checkpoints.",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run of the same options.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder to write. [default: saved_models/DATA-MODEL]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output or unfinished run.")
@json_option
def train(
    load_data,
    variant,
    recipe_name,
    epochs,
    batch_size,
    learning_rate,
    settings,
    class_weights,
    precision,
    accumulation,
    steps_per_execution,
    devices,
    hosts,
    process_id,
    deterministic,
    tensorboard,
    checkpoint_seconds,
    as_json,
    **options,
):
    r"""Train a classifier; export and check it.

    Writes a .keras file, a SavedModel, a float and an int8 LiteRT file, labels, the
    training history and a report. Every file is reloaded in a fresh process and compared
    with the Keras model on all held-out images.

    \b
    Examples:
      keras-efficientnet train
      keras-efficientnet train --data folder:photos --recipe finetune --weights imagenet
      keras-efficientnet train --data tfds:imagenet2012 --model B3 --recipe paper
      keras-efficientnet train --data folder:photos --set policy=rand --set magnitude=15
      KERAS_BACKEND=jax keras-efficientnet train --hosts 10.0.0.1:8476,10.0.0.2:8476 --process-id 0
    """
    from keras_efficientnet import scaling
    from keras_efficientnet.training import distribution

    # What is wrong shows before the seconds that TensorFlow takes to load.
    scaling.get_variant(variant)
    distribution.check_jax()
    if (hosts is None) != (process_id is None):
        raise InputError("--hosts and --process-id go together.")
    overrides = dict(setting(text) for text in settings)
    overrides |= {
        name: value
        for name, value in (("epochs", epochs), ("batch_size", batch_size))
        if value is not None
    }

    def run():
        import_tensorflow()
        from keras_efficientnet.run import train
        from keras_efficientnet.training import RunConfig
        from keras_efficientnet.training.recipes import REFERENCE_BATCH_SIZE, recipe

        if learning_rate is not None:
            batch = recipe(recipe_name, variant, **overrides).batch_size
            overrides["base_learning_rate"] = learning_rate * REFERENCE_BATCH_SIZE / batch
        return train(
            load_data(),
            variant,
            training_recipe=recipe(recipe_name, variant, **overrides),
            run_config=RunConfig(
                accumulation=accumulation,
                steps_per_execution=steps_per_execution,
                checkpoint_seconds=checkpoint_seconds,
                precision=precision,
                deterministic=deterministic,
                class_weights=class_weights,
                tensorboard=tensorboard,
                devices=devices,
            ),
            **options,
        )

    report = distribution.on_hosts(run, hosts, process_id) if hosts else run()
    if as_json:
        print_json(report)
        return
    if process_id:
        click.echo(f"Process 0 has exported and checked the model of process {process_id} too.")
        return
    print_artifacts(report)
    click.echo(f"Written to {report['output']} in {report['seconds']:.0f} s.")
