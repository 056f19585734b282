"""Grad-CAM: where in an image a network sees what speaks for a class."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from PIL import Image

from keras_efficientnet import plots
from keras_efficientnet.data import images
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write

# Side of a written picture in pixels, where the network's own input is smaller.
PICTURE_SIDE = 448


class GradCAM:
    """Grad-CAM of one network, for any number of images.

    The score of a class is followed back to a feature map. Each channel of the map counts by
    its mean gradient, and what the channels say together for the class, where it is positive,
    is the heatmap (Selvaraju et al., https://arxiv.org/abs/1610.02391). Over global average
    pooling and one dense layer, as in every network of this package, that is the class
    activation map of the EfficientNet paper's Figure 7 (Zhou et al.,
    https://arxiv.org/abs/1512.04150).

    The score is taken ahead of the softmax or sigmoid, which would hide the gradient of a
    class that the network is sure of.

    Args:
        model: a functional or sequential classifier, on TensorFlow, JAX or PyTorch.
        layer: name of the layer whose output is the feature map; the last one with height
            and width if None. All that the network computes must go through it.

    Raises:
        InputError: if the model has no such layer or is no classifier of one image.
    """

    def __init__(self, model: keras.Model, layer: str | None = None):
        image, scores = _ends(model)
        features = _feature_map(model, scores, layer)
        self.classes = scores.shape[-1]
        self.input_shape = tuple(image.shape[1:])
        before, finish = _ahead_of_activation(scores)
        self._to_features = keras.Model(image, [features, scores])
        # XLA would compile for minutes on a CPU; JAX knows nothing else.
        self._to_features.compile(jit_compile="auto" if keras.backend.backend() == "jax" else False)
        try:
            to_scores = keras.Model(features, before)
            entries = sum(isinstance(each, keras.layers.InputLayer) for each in to_scores.layers)
            if entries > 1:  # Keras 3.12 would say so in the first call
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
            float32 `[height, width]` from 0 to 1: relative to the place that speaks most for
            the class, and 0 everywhere where nothing does.

        Raises:
            InputError: if the image does not fit the network or there is no such class.
        """
        image = np.asarray(image, np.float32)
        expected = self.input_shape
        fits = (size in (None, own) for size, own in zip(expected, image.shape, strict=False))
        if image.ndim != len(expected) or not all(fits):
            raise InputError(f"image has shape {image.shape}; the network takes {expected}.")
        if class_index is not None and not 0 <= class_index < self.classes:
            raise InputError(f"class_index={class_index} must be from 0 to {self.classes - 1}.")
        features, scores = self._to_features.predict_on_batch(image[None])
        if class_index is None:
            class_index = int(np.argmax(scores[0]))
        features = np.asarray(features, np.float32)
        gradient = self._gradient(ops.convert_to_tensor(features), class_index)
        features = features[0]
        gradient = ops.convert_to_numpy(ops.cast(gradient, "float32"))[0]
        if keras.config.image_data_format() == "channels_first":
            features, gradient = np.moveaxis(features, 0, -1), np.moveaxis(gradient, 0, -1)
            image = np.moveaxis(image, 0, -1)
        heatmap = np.maximum(features @ gradient.mean((0, 1)), 0)  # [H/32, W/32]
        largest = heatmap.max()
        heatmap = heatmap / largest if largest > 0 else heatmap
        size = image.shape[:2]
        smooth = ops.image.resize(heatmap[..., None], size, "bilinear", data_format="channels_last")
        return ops.convert_to_numpy(smooth)[..., 0]


def grad_cam(
    model: keras.Model,
    image: np.ndarray,
    class_index: int | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """Returns where in an image a network sees what speaks for a class.

    For more than one image, `GradCAM` does the work on the network only once.

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


def with_pictures(
    results: Iterable[dict[str, Any]],
    sources: Mapping[str, Any],
    predictor: Any,
    model: str | os.PathLike,
    folder: str | os.PathLike,
    overwrite: bool = False,
) -> Iterator[dict[str, Any]]:
    """Writes for each classified image what speaks for its best class, while results pass by.

    Args:
        results: each with the image's name as `file`.
        sources: of each name, what can be read as the image.
        predictor: that classified them.
        model: its .keras file.
        folder: for a PNG file of each image: the image beside its heatmap. It appears when
            the results end.
        overwrite: replace an existing folder.

    Yields:
        The results, each with the path of its picture as `explanation`.

    Raises:
        InputError: if the file is not a .keras file, or the folder cannot be written.
    """
    if Path(model).suffix != ".keras":
        raise InputError(
            f"Model {os.fspath(model)!r} has no gradients to explain it by; pass the .keras file "
            "of the same network."
        )
    with atomic_write(folder, overwrite) as unfinished:
        unfinished.mkdir()
        explainer = GradCAM(keras.saving.load_model(model, compile=False, safe_mode=True))
        taken: set[str] = set()
        for result in results:
            name = _free_name(Path(result["file"]).stem, taken)
            _picture(explainer, predictor, sources[result["file"]]).save(unfinished / name)
            yield {**result, "explanation": str(Path(folder, name))}


def _free_name(stem: str, taken: set[str]) -> str:
    name, number = f"{stem}.png", 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.png"
    taken.add(name)
    return name


def _picture(explainer: GradCAM, predictor: Any, source: Any) -> Image.Image:
    size, crop_fraction = predictor.description.image_size, predictor.description.crop_fraction
    image = images.read(source)
    heatmap = explainer(images.prepare(image, size, crop_fraction))
    side = max(size, PICTURE_SIDE)
    pixels = images.prepare(image, side, crop_fraction)
    enlarged = Image.fromarray(heatmap).resize((side, side), Image.Resampling.BILINEAR)
    return Image.fromarray(np.hstack([pixels, plots.overlay(pixels, np.asarray(enlarged))]))


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
    """Returns the output of the layer of that name, or the last that still has places."""
    # By walking back from the scores, and not by `layer.output`: a layer that is shared with
    # another network, or a network itself, has an output in each.
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
            and _has_places(tensor)
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
    if not _has_places(tensor):
        raise InputError(
            f"layer={name!r} gives {tuple(tensor.shape)}; one that gives [batch, height, width, "
            "channels] can be explained."
        )
    return tensor


def _has_places(tensor: Any) -> bool:
    if len(tensor.shape) != 4:
        return False
    channels_last = keras.config.image_data_format() == "channels_last"
    return (tensor.shape[1:3] if channels_last else tensor.shape[2:]) != (1, 1)


def _ahead_of_activation(scores: Any) -> tuple[Any, Callable]:
    """Returns a symbolic tensor, and what makes of its values the scores without activation."""
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
    """Makes of a function with one value its gradient by its first argument."""
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
