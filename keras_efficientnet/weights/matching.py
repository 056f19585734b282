"""The one place where a file's tensors meet a model's variables."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_efficientnet import layers
from keras_efficientnet.errors import InputError
from keras_efficientnet.spec import Padding
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
            trained in, by the name of the `VariantSpec` field.
    """

    source: str
    layout: str
    loaded: tuple[str, ...] = ()
    adapted: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: dict[str, str] = dataclasses.field(default_factory=dict)
    differences: dict[str, str] = dataclasses.field(default_factory=dict)

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
        return "\n".join([*lines, *([problems] if (problems := self.problems()) else [])])


def read(
    model: keras.Model, checkpoint: WeightFile, strict: bool = True, padding: Padding | None = None
) -> tuple[LoadReport, dict[str, np.ndarray]]:
    """Compares an open file with a model and reads what fits, without changing the model.

    Args:
        model: a network of this package.
        checkpoint: an open file.
        strict: raise unless everything fits.
        padding: what the weights were trained with, for a file that leaves it open.

    Returns:
        What fits and what does not, and the values for `assign`: one copy of the weights,
        all of them finite.

    Raises:
        InputError: if the model is not of this package, if something does not fit and
            `strict` is set, if nothing fits, or if a tensor is not finite.
    """
    variables = structure.variables(model)
    named = checkpoint.with_block_names(structure.block_names(variables))
    report = dataclasses.replace(
        _compare(variables, named), differences=differences(model, checkpoint.origin, padding)
    )
    if not report.loaded or (strict and not report.complete):
        raise InputError(_refusal(model, checkpoint, report))
    return report, {name: _value(named, name, variables[name].shape) for name in report.loaded}


def assign(model: keras.Model, values: dict[str, np.ndarray]) -> None:
    """Fills a model's variables, and lets go of each value once it is assigned."""
    variables = structure.variables(model)
    for name in list(values):
        variables[name].assign(values.pop(name))


def differences(
    model: keras.Model, origin: Origin, padding: Padding | None = None
) -> dict[str, str]:
    """What a model does otherwise than the network that some weights were trained in.

    Args:
        model: a network of this package.
        origin: how the weights were trained.
        padding: with which padding they were, where `origin` leaves it open.

    Returns:
        By the name of the `VariantSpec` field: what the weights need and the model has.
    """
    found = {}
    names = {layer.name: layer for layer in model.layers}
    actual: Padding = "symmetric" if "stem_pad" in names else "same"
    epsilons: dict[Padding, float | None] = dict(origin.epsilons)
    if padding and (padding in epsilons or not epsilons):  # the file's own word counts more
        epsilons = {padding: epsilons.get(padding)}
    if epsilons and actual not in epsilons:
        needed = " or ".join(f"{name!r}" for name in epsilons)
        found["padding"] = _needs("padding", needed, f"{actual!r}")
        actual = next(iter(epsilons))
    elif origin.question and padding is None and actual == "same":
        found["padding"] = origin.question
    bn: Any = names["stem_bn"]
    epsilon = epsilons.get(actual)
    if epsilon is not None and not np.isclose(epsilon, bn.epsilon):
        found["batch_norm_epsilon"] = _needs(
            "batch_norm_epsilon", f"{epsilon:g}", f"{bn.epsilon:g}"
        )
    normalize = names.get("normalize")
    if origin.pixels and isinstance(normalize, layers.Normalize) and len(normalize.mean) == 3:
        for field, wanted, value in zip(
            ("pixel_mean", "pixel_std"), origin.pixels, (normalize.mean, normalize.std), strict=True
        ):
            if not np.allclose(wanted, value, rtol=1e-3, atol=1e-3):
                found[field] = _needs(field, _numbers(wanted), _numbers(value))
    return found


def _needs(field: str, wanted: str, actual: str) -> str:
    return f"the weights need {field}={wanted} and the model has {actual}"


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


def _refusal(model: keras.Model, checkpoint: WeightFile, report: LoadReport) -> str:
    sentence = f"{checkpoint.path!r} does not fit {model.name!r}: {report.problems()}"
    nearest, _ = structure.closest_variant(checkpoint)
    own = structure.matching_variant(model)
    if nearest != own and (report.missing or report.unexpected or report.mismatched):
        sentence += f"; its tensors are nearest to EfficientNet-{nearest}"
    if report.differences:
        sentence += "; build it from dataclasses.replace of the variant's spec"
    if report.loaded:
        sentence += "; with strict=False what fits is loaded"
    return f"{sentence}."


def _some(names: Any) -> str:
    names = list(names)
    rest = len(names) - _NAMED_IN_MESSAGES
    return ", ".join(names[:_NAMED_IN_MESSAGES]) + (f" and {rest} more" if rest > 0 else "")


def _numbers(values: Any) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
