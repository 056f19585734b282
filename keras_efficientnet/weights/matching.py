"""The one place where a file's tensors meet a model's variables."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_efficientnet import layers
from keras_efficientnet.errors import InputError
from keras_efficientnet.scaling import rgb
from keras_efficientnet.spec import PIXELS, Padding, Pixels
from keras_efficientnet.weights import structure
from keras_efficientnet.weights.structure import CLASSIFIER, CLASSIFIER_KERNEL, STEM_KERNEL
from keras_efficientnet.weights.weight_file import Origin, WeightFile

_NAMED_IN_MESSAGES = 4


@dataclass(frozen=True)
class LoadReport:
    """What loading a file did and did not do; names are canonical.

    Attributes:
        source: the file.
        layout: what kind of file it is.
        loaded: variables filled from the file, adapted ones included.
        adapted: variables that the model's own head or stem treats differently, each
            with what was done.
        missing: variables that the file has no tensor for.
        unexpected: tensors that the model has no variable for.
        mismatched: variables whose tensor has another shape, each with both shapes.
        differences: what the model does otherwise than the network the weights were
            trained in, or may do, by the builder's argument.
        unknown: what the file does not say of how the weights were trained: `"padding"`,
            `"pixels"`.
    """

    source: str
    layout: str
    loaded: tuple[str, ...] = ()
    adapted: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: dict[str, str] = dataclasses.field(default_factory=dict)
    differences: dict[str, str] = dataclasses.field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the model now computes what the file's network did, up to what was adapted."""
        return not (self.missing or self.unexpected or self.mismatched or self.differences)

    def problems(self) -> str:
        """What did not fit, in one line; empty if all did."""
        parts = [
            f"{len(names)} {kind} ({_some(names)})"
            for kind, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("mismatched", [f"{name}: {why}" for name, why in self.mismatched.items()]),
            )
            if names
        ]
        return "; ".join([*parts, *self.differences.values()])

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.layout}", f"loaded {len(self.loaded)} tensors"]
        lines += [f"adapted {name}: {what}" for name, what in self.adapted.items()]
        lines += [f"unknown to the file: {name}" for name in self.unknown]
        return "\n".join([*lines, *([problems] if (problems := self.problems()) else [])])


def read(
    model: keras.Model,
    checkpoint: WeightFile,
    strict: bool = True,
    padding: Padding | None = None,
    pixels: Pixels | None = None,
) -> tuple[LoadReport, dict[str, np.ndarray]]:
    """Compares an open file with a model and reads what fits, without changing the model.

    Args:
        model: a network of this package.
        checkpoint: an open file.
        strict: raise unless everything fits.
        padding: what the weights were trained with, for a file that does not say.
        pixels: what the weights were trained on, for a file that does not say.

    Returns:
        What fits and what does not, and the values for `assign`: one copy of the weights,
        all of them finite.

    Raises:
        InputError: if the model is not of this package, if something does not fit and
            `strict` is set, if nothing fits, or if a tensor is not finite.
    """
    variables = structure.variables(model)
    named = checkpoint.with_block_names(structure.block_names(variables))
    origin = checkpoint.origin
    differences, arguments = compare_settings(model, origin.completed(padding, pixels))
    report = dataclasses.replace(
        _compare(variables, named), differences=differences, unknown=origin.unknown
    )
    if not report.loaded or (strict and not report.complete):
        raise InputError(_refusal(model, checkpoint, report, arguments))
    return report, {name: _value(named, name, variables[name].shape) for name in report.loaded}


def assign(model: keras.Model, values: dict[str, np.ndarray]) -> None:
    """Fills a model's variables, and lets go of each value once it is assigned."""
    variables = structure.variables(model)
    for name in list(values):
        variables[name].assign(values.pop(name))


def compare_settings(model: keras.Model, origin: Origin) -> tuple[dict[str, str], dict[str, Any]]:
    """Compares what surrounds a model's weights with what some weights were trained with.

    Args:
        model: a network of this package.
        origin: how the weights were trained.

    Returns:
        By builder argument, what differs or is not known, and the arguments to build with.
    """
    names = {layer.name: layer for layer in model.layers}
    found, arguments = {}, {}
    actual: Padding = "symmetric" if "stem_pad" in names else "same"
    possible = list(origin.epsilons) or [actual]
    padding = actual if actual in possible else possible[0]
    if padding != actual:
        found["padding"] = _needs("padding", repr(padding), repr(actual))
    elif len(possible) > 1 and actual == "same":  # nobody builds the other by chance
        found["padding"] = (
            "the file does not say its padding, which is 'same' in timm's tf_efficientnet_* and "
            "'symmetric' (with batch_norm_epsilon=1e-5) in its efficientnet_*"
        )
    if "padding" in found:
        arguments["padding"] = padding
    elif origin.pads_in_two_ways:
        found["padding"] = (
            "the file's network pads depthwise convolutions as 'same' and others as 'symmetric', "
            "which no network here does"
        )
    bn: Any = names["stem_bn"]
    epsilon = origin.epsilons.get(padding)
    if epsilon is not None and not np.isclose(epsilon, bn.epsilon):
        needed = _needs("batch_norm_epsilon", f"{epsilon:g}", f"{bn.epsilon:g}")
        found["batch_norm_epsilon"], arguments["batch_norm_epsilon"] = needed, epsilon
    normalize = names.get("normalize")
    if isinstance(normalize, layers.Normalize) and len(normalize.mean) == 3:
        has = rgb(normalize.mean), rgb(normalize.std)
        if origin.pixels and not np.allclose(origin.pixels, has, rtol=1e-3, atol=1e-3):
            needed = _needs("pixels", _pixels(origin.pixels), _pixels(has))
            found["pixels"], arguments["pixels"] = needed, _pixels_argument(origin.pixels)
        elif origin.pixels is None and origin.pixels_vary:
            found["pixels"] = (
                "the file does not say its pixels, which are 'imagenet' for most, 'inception' for "
                "AdvProp, and 'lite' and 'v2' in Google's files of these"
            )
            arguments["pixels"] = _pixels_argument(has)
    return found, arguments


def _needs(field: str, wanted: str, actual: str) -> str:
    return f"the weights need {field}={wanted} and the model has {actual}"


def _pixels_argument(pixels: Pixels) -> str | Pixels:
    """Returns a name that `pixels=` takes, or the numbers if there is none."""
    return next((name for name, known in PIXELS.items() if np.allclose(known, pixels)), pixels)


def _pixels(pixels: Pixels) -> str:
    argument = _pixels_argument(pixels)
    return repr(argument) if isinstance(argument, str) else f"({', '.join(map(_numbers, pixels))})"


def _compare(variables: dict[str, Any], checkpoint: WeightFile) -> LoadReport:
    loaded, missing = [], []
    adapted, mismatched = {}, {}
    for name, variable in variables.items():
        tensor, shape = checkpoint.tensors.get(name), tuple(variable.shape)
        if tensor is None:
            missing.append(name)
        elif tensor.shape == shape:
            loaded.append(name)
        elif name in CLASSIFIER and structure.fits(name, tensor.shape, shape):
            adapted[name] = f"left fresh: {tensor.shape[-1]} classes in the file, {shape[-1]} here"
        elif name == STEM_KERNEL and _can_adapt_channels(tensor.shape, shape):
            adapted[name] = f"{tensor.shape[2]} input channels made {shape[2]}"
            loaded.append(name)
        else:
            mismatched[name] = f"{tensor.shape} in the file, {shape} in the model"
    extra = [name for name in checkpoint.tensors if name not in variables]
    if CLASSIFIER_KERNEL not in variables:
        adapted.update(
            {name: "left out: the model has no top" for name in extra if name in CLASSIFIER}
        )
    unexpected = [checkpoint.tensors[name].name for name in extra if name not in adapted]
    return LoadReport(
        source=checkpoint.path,
        layout=checkpoint.layout,
        loaded=tuple(loaded),
        adapted=adapted,
        missing=tuple(missing),
        unexpected=(*unexpected, *checkpoint.unknown),
        mismatched=mismatched,
    )


def _can_adapt_channels(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return structure.fits(STEM_KERNEL, shape, wanted) and shape[2] == 3


def _value(checkpoint: WeightFile, name: str, shape: tuple[int, ...]) -> np.ndarray:
    tensor = checkpoint.tensors[name]
    value = tensor.read()
    if not np.issubdtype(value.dtype, np.floating) or not np.isfinite(value).all():
        raise InputError(
            f"{checkpoint.path!r}: tensor {tensor.name!r} holds values that are not finite "
            "numbers; a file of finite floating-point weights is accepted."
        )
    return adapt_channels(value, shape[2]) if name == STEM_KERNEL else value


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Fits a stem kernel for RGB to another number of input channels, as timm does.

    One channel gets the sum over red, green and blue, so that a grey image gives what it
    gave as RGB. More get the three repeated in turn and scaled by 3 / channels, which
    keeps the size of the outputs (timm, `models/_manipulate.py`).

    Args:
        kernel: `[height, width, 3, filters]`.
        channels: of the model's input.
    """
    if channels == kernel.shape[2]:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeats = -(-channels // kernel.shape[2])
    return np.tile(kernel, (1, 1, repeats, 1))[:, :, :channels] * (kernel.shape[2] / channels)


def _refusal(
    model: keras.Model, checkpoint: WeightFile, report: LoadReport, arguments: dict[str, Any]
) -> str:
    sentence = f"{checkpoint.path!r} does not fit {model.name!r}: {report.problems()}"
    own = structure.matching_variant(model)
    if report.missing or report.unexpected or report.mismatched:
        nearest, fitting = structure.closest_variant(checkpoint)
        if fitting == 1 and nearest != own:
            sentence += f"; it holds EfficientNet-{nearest}"
    elif arguments:
        sentence += f"; {suggestion(own, checkpoint.path, arguments)}"
    if report.loaded:
        sentence += "; with strict=False what fits is loaded"
    return f"{sentence}."


def suggestion(variant: str | None, source: str, arguments: dict[str, Any]) -> str:
    """Returns the line of code that builds a network for some weights."""
    options = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    if variant is None:
        return f"build the network with {options}"
    return f"build it by ke.EfficientNet({variant!r}, weights={source!r}, {options})"


def _some(names: Any) -> str:
    names = list(names)
    rest = len(names) - _NAMED_IN_MESSAGES
    return ", ".join(names[:_NAMED_IN_MESSAGES]) + (f" and {rest} more" if rest > 0 else "")


def _numbers(values: Any) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
