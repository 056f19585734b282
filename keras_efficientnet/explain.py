"""Grad-CAM: the parts of an image that raise a class's score."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from keras_efficientnet import plots
from keras_efficientnet.data import images
from keras_efficientnet.data.threads import attempt, in_threads
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.files import atomic_write

# Side of a written picture in pixels, where the network's own input is smaller.
PICTURE_SIDE = 448


class GradCAM:
    """Grad-CAM of one network, for any number of images.

    The heatmap is the ReLU of the weighted sum of a feature map's channels; the weight of a
    channel is the mean gradient of the class's score by it (Selvaraju et al.,
    https://arxiv.org/abs/1610.02391). Before global average pooling and one dense layer, as in
    every network of this package, that is the class activation map of the EfficientNet paper's
    Figure 7 (Zhou et al., https://arxiv.org/abs/1512.04150).

    The score is the logit: the gradient of a softmax or sigmoid vanishes for a class that the
    network is sure of.

    Attributes:
        classes: number of classes.
        input_shape: of one image.
        feature_shape: of the feature map of one image.

    Args:
        model: a functional or sequential classifier, on TensorFlow, JAX or PyTorch.
        layer: name of the layer whose output is the feature map; the last one with height
            and width if None. All paths from image to scores must go through it.

    Raises:
        InputError: if the model has no such layer or is not a classifier of one image.
    """

    def __init__(self, model: keras.Model, layer: str | None = None):
        image, scores = _ends(model)
        features = _feature_map(model, scores, layer)
        self.classes = scores.shape[-1]
        self.feature_shape = tuple(features.shape[1:])
        self.input_shape = tuple(image.shape[1:])
        before, finish = _ahead_of_activation(scores)
        self._to_features = keras.Model(image, [features, scores])
        # XLA would compile for minutes on a CPU; JAX always compiles.
        self._to_features.compile(jit_compile="auto" if keras.backend.backend() == "jax" else False)
        try:
            to_scores = keras.Model(features, before)
            entries = sum(isinstance(each, keras.layers.InputLayer) for each in to_scores.layers)
            if entries > 1:  # Keras 3.12 would raise in the first call
                raise ValueError("The network's own input is needed as well.")
        except ValueError:
            raise InputError(
                f"layer={layer!r}: the network has a path around this layer; choose one that all "
                "paths go through, such as the end of a block."
            ) from None
        self._gradient = _gradient_of(
            lambda values, index: finish(to_scores(values, training=False))[0, index]
        )

    def __call__(self, image: np.ndarray, class_index: int | None = None) -> np.ndarray:
        """Returns the heatmap of one image.

        Args:
            image: `[height, width, channels]` as the network takes it.
            class_index: the class to explain; the best one if None.

        Returns:
            float32 `[height, width]` from 0 to 1, relative to the place that contributes most
            to the class's score; 0 everywhere if no place raises it.

        Raises:
            InputError: if the image does not fit the network or there is no such class.
        """
        return self.with_scores(image, class_index)[1]

    def with_scores(
        self, image: np.ndarray, class_index: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the scores `[classes]` of one image beside its heatmap, see `__call__`."""
        image = np.asarray(image, np.float32)
        expected = self.input_shape
        fits = (size in (None, own) for size, own in zip(expected, image.shape, strict=False))
        if image.ndim != len(expected) or not all(fits):
            raise InputError(f"image has shape {image.shape}; the network takes {expected}.")
        valid = class_index is None or 0 <= class_index < self.classes
        require(valid, "class_index", class_index, f"from 0 to {self.classes - 1}")
        features, scores = self._to_features.predict_on_batch(image[None])
        scores = np.asarray(scores, np.float32)[0]
        if class_index is None:
            class_index = int(np.argmax(scores))
        features = np.asarray(features, np.float32)
        gradient = self._gradient(ops.convert_to_tensor(features), class_index)
        gradient = ops.convert_to_numpy(ops.cast(gradient, "float32"))
        if keras.config.image_data_format() == "channels_first":
            features, gradient = np.moveaxis(features, 1, -1), np.moveaxis(gradient, 1, -1)
            image = np.moveaxis(image, 0, -1)
        heatmap = np.maximum(features[0] @ gradient[0].mean((0, 1)), 0)  # [H/32, W/32]
        heatmap = heatmap / (heatmap.max() or 1)
        size = image.shape[:2]
        smooth = ops.image.resize(heatmap[..., None], size, "bilinear", data_format="channels_last")
        return scores, ops.convert_to_numpy(smooth)[..., 0]


def grad_cam(
    model: keras.Model,
    image: np.ndarray,
    class_index: int | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Returns the Grad-CAM heatmap of one image.

    For several images, `GradCAM` prepares the network only once.

    Args:
        model: see `GradCAM`.
        image: `[height, width, channels]` as the network takes it: with a network of this
            package, pixels in 0-255.
        class_index: the class to explain; the best one if None.
        layer: see `GradCAM`.

    Returns:
        float32 `[height, width]` from 0 to 1, which `plots.overlay` lays over the image.

    Raises:
        InputError: see `GradCAM`.

    Examples:
        >>> heatmap = ke.explain.grad_cam(model, pixels)
        >>> ke.plots.grad_cam([pixels], [[heatmap]], ["B0"])
    """
    return GradCAM(model, layer)(image, class_index)


def explained(
    predictor: Any,
    files: Iterable[str | os.PathLike],
    folder: str | os.PathLike,
    count: int = 5,
    overwrite: bool = False,
) -> Iterator[tuple[Any, Any, Path | None]]:
    """Classifies image files, and writes for each where it shows its best class.

    Args:
        predictor: a `deploy.Predictor` of a .keras file.
        files: paths of images.
        folder: for a PNG file of each image: the image beside its heatmap. It appears when
            all images are classified.
        count: how many of the best classes to give.
        overwrite: replace an existing folder.

    Yields:
        Each file, in order, with its `Prediction` and the path of its picture, or with the
        `InputError` that says why it cannot be read and None.

    Raises:
        InputError: if the predictor's file is not a .keras file, the folder cannot be written,
            or no image can be read.
    """
    if predictor.keras_model is None:
        raise InputError("Only a .keras file has the gradients that an explanation takes.")
    description = predictor.description
    size, side = description.image_size, max(description.image_size, PICTURE_SIDE)

    def read(file):
        image = images.read(file, description.pixel_range)
        crop, interpolation = description.crop_fraction, description.interpolation
        return [images.prepare(image, width, crop, interpolation) for width in (size, side)]

    with atomic_write(folder, overwrite) as unfinished:
        unfinished.mkdir()
        explainer = GradCAM(predictor.keras_model)
        taken: set[str] = set()
        prepared = in_threads(lambda file: (file, attempt(read, file)), files, predictor.threads)
        for file, pixels in prepared:
            if isinstance(pixels, InputError):
                yield file, pixels, None
                continue
            scores, heatmap = explainer.with_scores(pixels[0])
            name = _free_name(file, taken)
            _side_by_side(pixels[1], heatmap).save(unfinished / name)
            yield file, predictor.top(scores, count), Path(folder, name)
        if not taken:
            raise InputError(f"No image could be read, so {str(folder)!r} was not written.")


def _side_by_side(pixels: np.ndarray, heatmap: np.ndarray) -> Image.Image:
    side = len(pixels)
    enlarged = Image.fromarray(heatmap).resize((side, side), Image.Resampling.BILINEAR)
    return Image.fromarray(np.hstack([pixels, plots.overlay(pixels, np.asarray(enlarged))]))


def _free_name(file: str | os.PathLike, taken: set[str]) -> str:
    stem = os.fsencode(Path(file).stem).decode(errors="replace")  # a name may not be text
    name, number = f"{stem}.png", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name)
    return name


def _ends(model: keras.Model) -> tuple[Any, Any]:
    """Returns the symbolic image and scores of a classifier."""
    inputs, outputs = (getattr(model, name, None) or [] for name in ("inputs", "outputs"))
    if len(inputs) != 1 or len(outputs) != 1 or len(outputs[0].shape) != 2:
        raise InputError(
            f"Model {model.name!r} cannot be explained; a functional or sequential network that "
            "takes one image and gives one score for each class can."
        )
    return inputs[0], outputs[0]


def _feature_map(model: keras.Model, scores: Any, name: str | None) -> Any:
    """Returns the output of the layer of that name, or the last one with height and width."""
    # Walks back from the scores, because `layer.output` is ambiguous for a layer that is shared
    # between networks or is a network itself.
    pending, seen = [scores], set()
    while pending:
        tensor = pending.pop(0)
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, node_index, _ = tensor._keras_history
        if operation.name == name:
            break
        if (
            name is None
            and _is_spatial(tensor)
            and not isinstance(operation, keras.layers.InputLayer)
        ):
            break
        pending += operation._inbound_nodes[node_index].input_tensors
    else:
        raise InputError(
            f"Model {model.name!r} has no layer {name!r} between image and scores."
            if name
            else f"Model {model.name!r} has no feature map with height and width."
        )
    if not _is_spatial(tensor):
        raise InputError(
            f"layer={name!r} gives {tuple(tensor.shape)}; one that gives [batch, height, width, "
            "channels] can be explained."
        )
    return tensor


def _is_spatial(tensor: Any) -> bool:
    if len(tensor.shape) != 4:
        return False
    channels_last = keras.config.image_data_format() == "channels_last"
    return (tensor.shape[1:3] if channels_last else tensor.shape[2:]) != (1, 1)


def _ahead_of_activation(scores: Any) -> tuple[Any, Callable]:
    """Returns a symbolic tensor, and a function from its values to the logits."""
    layer, node_index, _ = scores._keras_history
    before = layer._inbound_nodes[node_index].input_tensors[0]
    if isinstance(layer, keras.layers.Dense) and layer.activation is not keras.activations.linear:

        def finish(values):
            sums = ops.matmul(ops.cast(values, layer.compute_dtype), layer.kernel)
            return sums if layer.bias is None else sums + layer.bias

        return before, finish
    if isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
        return before, lambda values: values
    return scores, lambda values: values


def _gradient_of(function: Callable) -> Callable:
    """Returns the gradient of a scalar function by its first argument."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def gradient(values, *arguments):
            with tf.GradientTape() as tape:
                tape.watch(values)
                result = function(values, *arguments)
            return tape.gradient(result, values)

        return gradient
    if backend == "jax":
        import jax  # pyright: ignore[reportMissingImports]

        return jax.jit(jax.grad(function))
    if backend == "torch":
        import torch  # pyright: ignore[reportMissingImports]

        def gradient(values, *arguments):
            values = values.detach().requires_grad_()
            return torch.autograd.grad(function(values, *arguments), values)[0]

        return gradient
    raise InputError(f"Grad-CAM works on TensorFlow, JAX and PyTorch, not on {backend!r}.")
