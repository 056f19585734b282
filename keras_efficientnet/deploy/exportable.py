"""A model made ready for export: opened, checked, in float32, and described."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_efficientnet import layers, scaling
from keras_efficientnet.data.images import PHOTO_CROP_FRACTION
from keras_efficientnet.deploy.keras_file import SUFFIXES, load_keras
from keras_efficientnet.deploy.runtime import BATCH_SIZE
from keras_efficientnet.deploy.saved_model_check import check_saved_model
from keras_efficientnet.description import ModelDescription, read_description
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.model import find_network, pixel_statistics
from keras_efficientnet.spec import VariantSpec
from keras_efficientnet.weights import inspect, structure

Model = Any
"""A Keras model, the path of a .keras file, a whole model in .h5 or a SavedModel folder, or an
`ExportableModel`."""
DescriptionLike = ModelDescription | Mapping[str, Any] | None
"""A description, or single fields of one for what the model and its file leave open or say
wrong."""


@dataclass(frozen=True)
class ExportableModel:
    """One image in, one tensor out, computed in float32.

    Attributes:
        description: its description.
        shape: of one image, `(height, width, channels)`.
        output_shape: of what one image gives; `(classes,)` of a classifier.
        call: from a float32 tensor `[batch, *shape]` to a float32 tensor.
        model: the Keras model, or None for a SavedModel.
    """

    description: ModelDescription
    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    call: Callable[[Any], Any]
    model: keras.Model | None = None

    @cached_property
    def function(self) -> Any:
        """`call` as a `tf.function`, so that formats share what is traced."""
        import tensorflow as tf

        return tf.function(self.call, autograph=False)

    @property
    def classifies(self) -> bool:
        """Whether it gives one score for each class."""
        return len(self.output_shape) == 1

    @property
    def output_name(self) -> str:
        """What files call the output."""
        return "scores" if self.classifies else "features"

    @property
    def gives_probabilities(self) -> bool:
        """Whether all outputs are known to lie between 0 and 1."""
        last = self.model.layers[-1] if self.model else None
        squashing = (keras.activations.softmax, keras.activations.sigmoid)
        return getattr(last, "activation", None) in squashing

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Runs the network on pixels `[count, *shape]` in 0-255, as it is before export."""
        import tensorflow as tf

        run = self.function.get_concrete_function(tf.TensorSpec((None, *self.shape)))
        inputs = self.description.network_input(pixels)
        starts = range(0, len(inputs), BATCH_SIZE)
        batches = [inputs[start : start + BATCH_SIZE].astype(np.float32) for start in starts]
        return np.concatenate([run(tf.constant(batch)).numpy() for batch in batches])


def open_exportable(model: Model, description: DescriptionLike = None) -> ExportableModel:
    """Makes any model ready for export.

    A model that computes in half precision is rebuilt to compute in float32 with the same
    weights: exported files hold float32, or what it was quantized to.

    Args:
        model: see `Model`.
        description: see `DescriptionLike`. Without it, the file's own description is used where
            there is one, else what the model shows: its name and size, without class names.

    Raises:
        InputError: if it cannot be exported; the message says why.
    """
    if isinstance(model, ExportableModel):
        known, fields = _parts(description, model.description)
        return (
            _checked(dataclasses.replace(model, description=known.replaced(fields)))
            if description
            else model
        )
    if not isinstance(model, str | os.PathLike):
        return _from_keras(model, description, None)
    path = Path(model)
    if not path.exists():
        raise InputError(f"Model {str(path)!r} does not exist.")
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _from_saved_model(path, description, read_description(path))
    if path.suffix in SUFFIXES:
        return _from_keras(_load_keras(path), description, read_description(path))
    raise InputError(
        f"{str(path)!r} cannot be exported; a .keras or .h5 file or a SavedModel folder can."
    )


def _parts(description: DescriptionLike, known: Any) -> tuple[Any, Mapping[str, Any]]:
    """Returns the description to begin with, if there is one, and the fields to replace."""
    return (
        (description, {})
        if isinstance(description, ModelDescription)
        else (known, description or {})
    )


def _load_keras(path: Path) -> keras.Model:
    """Loads a Keras file, without what training left in it and without running code."""
    try:
        return load_keras(path)
    except Exception as error:  # damaged archives fail in many ways
        raise InputError(f"Cannot load model {str(path)!r}: {reason(error)}.") from error


def described(
    model: keras.Model, description: DescriptionLike = None, known: ModelDescription | None = None
) -> ModelDescription:
    """Returns the description of a Keras model, with all that the model can tell.

    Args:
        model: of images.
        description: see `DescriptionLike`.
        known: what the model's file says of itself.

    Raises:
        InputError: if nothing says how large the images are. A network of a published variant
            that takes any size gets the variant's, with a warning.
    """
    height, _, channels = model.input_shape[1:]
    known, fields = _parts(description, known)
    if known is None:
        variant = _variant(model.name)
        name = variant.name if variant else model.name
        size = height or fields.get("image_size") or usual_size(model.name, structure_of(model))
        known = ModelDescription(name, (), size, PHOTO_CROP_FRACTION)
    found = known.replaced(fields)
    if found.pixel_mean is None:
        variant = None if normalizes(model) else _variant(found.variant)
        mean, std = pixel_statistics(variant, channels) if variant else ((0.0,), (1.0,))
        found = dataclasses.replace(found, pixel_mean=mean, pixel_std=std)
    return found


def normalizes(model: keras.Model) -> bool:
    """Whether the graph has the preprocessing inside."""
    kinds = (layers.Normalize, keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, kinds) for layer in _all_layers(model))


def _all_layers(model: Any) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)


def _variant(name: str) -> VariantSpec | None:
    try:
        return scaling.get_variant(name)
    except InputError:
        return None


def structure_of(model: keras.Model) -> str | None:
    """Returns the published variant that a model is, or has inside; None if there is none."""
    try:
        return structure.matching_variant(find_network(model))
    except InputError:
        return None


def structure_of_file(path: Path) -> str | None:
    """Returns the published variant whose weights a file holds; None if there is none."""
    try:
        found = inspect(path)
    except InputError:
        return None
    return found.variant if found.fits else None


def usual_size(name: str, variant: str | None) -> int:
    """Returns the image size of a variant, for a model that takes any, and warns of it.

    Raises:
        InputError: if the model is of no published variant.
    """
    if variant is None:
        raise InputError(
            f"Model {name!r} takes images of any size and does not say which; pass image_size "
            "(--image-size), or build it with a fixed height and width."
        )
    size = scaling.get_variant(variant).resolution
    warnings.warn(
        f"Model {name!r} takes images of any size and does not say which; {size} px are used, "
        f"those of EfficientNet-{variant}. image_size (--image-size) sets another.",
        stacklevel=2,
    )
    return size


def _from_keras(
    model: Any, description: DescriptionLike, known: ModelDescription | None
) -> ExportableModel:
    name = getattr(model, "name", type(model).__name__)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise InputError(
            f"Model {name!r} must be a functional or Sequential Keras model that begins with a "
            "keras.Input."
        )
    _check_single(name, len(inputs), len(outputs))
    _check_images(name, tuple(inputs[0].shape[1:]))
    if keras.config.image_data_format() != "channels_last":
        raise InputError(
            "image_data_format 'channels_first' cannot be exported; call "
            "keras.config.set_image_data_format('channels_last') and build the model again."
        )
    found = described(model, description, known)
    shape = _fixed_shape(name, tuple(inputs[0].shape[1:]), found.image_size)
    model = _in_float32(model)

    def call(images):
        return model(images, training=False)

    output_shape = tuple(model.compute_output_shape((1, *shape))[1:])
    return _checked(ExportableModel(found, shape, output_shape, call, model))


def _from_saved_model(
    path: Path, description: DescriptionLike, known: ModelDescription | None
) -> ExportableModel:
    import tensorflow as tf

    name = str(path)
    try:
        check_saved_model(path)
        loaded: Any = tf.saved_model.load(name)
        signature = loaded.signatures["serving_default"]
    except KeyError:
        raise InputError(f"SavedModel {name!r} has no signature 'serving_default'.") from None
    except Exception as error:  # damaged folders fail in many ways
        raise InputError(f"Cannot load model {name!r}: {reason(error)}.") from error
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    _check_single(name, len(inputs), len(outputs))
    ((source, spec),) = inputs.items()
    (target,) = outputs
    given: tuple[int | None, ...] = tuple(spec.shape)[1:] if spec.shape.rank else ()
    _check_images(name, given)
    known, fields = _parts(description, known)
    if known is None:
        size = next(iter(given)) or fields.get("image_size")
        size = size or usual_size(name, structure_of_file(path))
        known = ModelDescription("unknown", (), size, PHOTO_CROP_FRACTION, (0.0,), (1.0,))
    found = known.replaced(fields)
    shape = _fixed_shape(name, given, found.image_size)

    def call(images):
        signature = loaded.signatures["serving_default"]  # holds its variables weakly
        return signature(**{source: tf.cast(images, spec.dtype)})[target]

    traced = tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec((1, *shape)))
    return _checked(ExportableModel(found, shape, tuple(traced.output_shapes[1:]), call))


def _check_single(name: str, inputs: int, outputs: int) -> None:
    if inputs != 1 or outputs != 1:
        raise InputError(
            f"Model {name!r} has {inputs} inputs and {outputs} outputs; a model with one of each "
            "can be exported."
        )


def _check_images(name: str, shape: tuple[int | None, ...]) -> None:
    if len(shape) != 3 or shape[2] is None:
        raise InputError(
            f"Model {name!r} takes {shape}; a model of images of height, width and channels can "
            "be exported."
        )


def _fixed_shape(name: str, given: tuple[int | None, ...], size: int) -> tuple[int, ...]:
    shape = tuple(size if side is None else side for side in given[:2])
    if shape != (size, size):
        raise InputError(
            f"Model {name!r} takes images of {given[0]} x {given[1]} pixels, which does not fit "
            f"an image size of {size}; square images of one size are exported."
        )
    return (*shape, given[2] or 0)


def _checked(network: ExportableModel) -> ExportableModel:
    names = network.description.class_names
    if names and network.output_shape != (len(names),):
        raise InputError(
            f"{len(names)} class names do not fit a model that gives {network.output_shape} for "
            "an image."
        )
    return network


def _in_float32(model: Any) -> Any:
    """Rebuilds a model that computes in half precision; returns any other as it is."""
    if not any(layer.compute_dtype in ("float16", "bfloat16") for layer in _all_layers(model)):
        return model
    try:
        config = _with_float32(keras.saving.serialize_keras_object(model))
        # Code in it, as of a Lambda layer, is the caller's own and in memory already.
        rebuilt = keras.saving.deserialize_keras_object(config, safe_mode=False)
        rebuilt.set_weights(model.get_weights())
    except Exception as error:  # whatever a custom layer lacks
        raise InputError(
            f"Model {model.name!r} computes in half precision and cannot be rebuilt in float32 "
            f"({reason(error)}); build it under the policy 'float32' and copy its weights."
        ) from error
    return rebuilt


def _with_float32(config: Any) -> Any:
    """Returns a serialized model with every policy replaced, and without its training."""
    if isinstance(config, list | tuple):
        return [_with_float32(value) for value in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return {**config, "config": {"name": "float32"}}
    return {key: _with_float32(value) for key, value in config.items() if key != "compile_config"}
