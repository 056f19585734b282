"""From published weights to a network for one's own photos."""

import dataclasses
import os
import sys
from typing import Any

import keras
import numpy as np

from keras_efficientnet import scaling, variants
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.errors import InputError
from keras_efficientnet.spec import VariantSpec
from keras_efficientnet.training.recipes import Recipe
from keras_efficientnet.training.recipes import recipe as get_recipe
from keras_efficientnet.training.temperature import divide_logits, fit_temperature
from keras_efficientnet.training.trainer import RunConfig, fit
from keras_efficientnet.weights import (
    is_hub,
    load_weights,
    open_weight_file,
    registry,
    structure,
)
from keras_efficientnet.weights.conversion import trained_as
from keras_efficientnet.weights.download import fetch, is_here
from keras_efficientnet.weights.imagenet import IMAGENET_CLASSES

AUTO = "auto"
EVALUATION_BATCH = 32


def finetune(
    model: keras.Model | scaling.Variant,
    data: Dataset | str,
    recipe: Recipe | None = None,
    *,
    weights: str | os.PathLike = AUTO,
    image_size: int | None = None,
    seed: int = 0,
    config: RunConfig | None = None,
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """Makes a classifier of one's own photos from pretrained weights.

    A linear probe comes first, and the network is trained on from there; the best epoch on the
    validation images (the held-out ones where the data have no others) is returned, the probe being
    one of them. Then the logits are divided by the temperature that makes probabilities fit those
    images.

    Args:
        model: a variant such as `"Lite0"`, or a network that a builder returned, which has its
            weights and as many outputs as the data have classes; it is trained in place.
        data: a data set, or its name such as `"folder:photos"`, see `data.load`.
        recipe: how it is trained; `training.recipe("finetune")` for as many images if None.
        weights: of a variant: a published name or a file, see `find_weights`.
        image_size: side of the images in pixels; the network's if None.
        seed: of the order of the images and their augmentation.
        config: how the machine is used.

    Returns:
        The model, and one record for each epoch, see `training.fit`.

    Raises:
        InputError: if the weights cannot be had, or something does not fit.
        RunError: as `training.fit`.
    """
    data = sources.load(data) if isinstance(data, str) else data
    recipe = recipe or get_recipe("finetune", images=len(data.train))
    if not recipe.fine_tuning:
        raise InputError(f"Recipe {recipe.name!r} does not fine-tune; use finetune or probe.")
    network: Any = model
    if isinstance(network, keras.Model):
        size = image_size or network.input_shape[1]
        if size is None:
            raise InputError("The model takes images of any size; pass image_size=.")
    else:
        variant, weights = find_weights(model, weights)
        size = image_size or variant.resolution
        network = variants.EfficientNet(
            variant,
            input_shape=(size, size, 3),
            classes=len(data.class_names),
            dropout_rate=recipe.dropout_rate,
            drop_connect_rate=recipe.drop_connect_rate,
        )
        recipe = load_pretrained(network, weights, recipe)
    held_out = pipeline.split_arrays(data, data.chooser, size)
    history = fit(
        network, data, recipe, image_size=size, seed=seed, held_out=held_out, run_config=config
    )
    calibrate(network, *held_out)
    return network, history


def find_weights(variant: scaling.Variant, weights: str | os.PathLike) -> tuple[VariantSpec, str]:
    """Chooses pretrained weights, and the network that they were trained in.

    Args:
        variant: whose weights these are.
        weights: `"auto"` for the first published set that is installed, in the cache, or can be
            downloaded; the name of a published set; `"hf://owner/name"`; or the path of a file.

    Returns:
        The variant, for a published set and a model of the Hugging Face Hub with its pixels,
        padding and epsilon, and the name or path.

    Raises:
        InputError: if there are no such weights, or none of them can be had.
    """
    found, weights = scaling.get_variant(variant), os.path.expanduser(weights)
    published = [entry for entry in registry.table() if entry.variant == found.name]
    if weights == AUTO:
        # Sets of more classes than ImageNet-1k's are large files; who wants one names it.
        usual = [entry for entry in published if entry.classes == IMAGENET_CLASSES]
        if not usual:
            raise InputError(
                f"No ImageNet weights of EfficientNet-{found.name} are published in a usable form; "
                "pass the path of a file, or --weights none to start from random ones."
            )
        chosen = next(filter(is_here, usual), usual[0])
        try:
            fetch(chosen)
        except InputError as error:
            raise InputError(f"{error} Or start from random weights: --weights none.") from error
        print(f"Starting from weights {chosen.name!r} of {found.name}.", file=sys.stderr)
        return chosen.spec(), chosen.name
    named = [entry for entry in published if entry.name == weights and not os.path.exists(weights)]
    if is_hub(weights):
        with open_weight_file(weights) as file:
            return trained_as(found, file.origin), weights
    return (named[0].spec() if named else found), weights


def load_pretrained(model: keras.Model, weights: str, recipe: Recipe) -> Recipe:
    """Loads weights to fine-tune; returns the recipe, naming the first layer that got none.

    Raises:
        InputError: if the weights do not fit the network.
    """
    report = load_weights(model, weights, strict=not recipe.fine_tuning)
    if report.unexpected or report.mismatched or report.differences:
        raise InputError(f"Weights {weights!r} do not fit: {report.problems()}.")
    if not (recipe.fine_tuning and report.missing):
        return recipe
    print(
        f"Initialized at random, as not in {weights}: {', '.join(report.missing)}", file=sys.stderr
    )
    variables = structure.variables(model).items()
    fresh = {id(variable) for name, variable in variables if name not in report.loaded}
    first = next(layer.name for layer in model.layers if fresh & set(map(id, layer.weights)))
    tuning = dataclasses.replace(recipe.fine_tuning, fresh_from=first)
    return dataclasses.replace(recipe, fine_tuning=tuning)


def calibrate(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Divides a network's logits by the temperature that fits images; returns it.

    Args:
        model: a network that a builder returned, ending in softmax.
        images: `[count, height, width, channels]`, that it was not trained on.
        labels: class indices, int `[count]`.
    """
    probabilities = model.predict(images, batch_size=EVALUATION_BATCH, verbose=0)
    temperature = fit_temperature(np.log(np.maximum(probabilities, 1e-30)), labels)
    divide_logits(model, temperature)
    return temperature
