"""What a model file says about itself: class names, image size and the like.

One JSON document travels with every format. A .keras file is a zip archive and takes it
as one more member; a .tflite file carries associated files as a zip archive behind the
network, as TFLite metadata does; a SavedModel keeps it in `assets.extra`, TensorFlow's
place for what others add; an .onnx file has properties.
"""

import dataclasses
import json
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from keras_efficientnet import scaling
from keras_efficientnet.errors import RANGE, InputError, is_range
from keras_efficientnet.files import is_text
from keras_efficientnet.spec import Interpolation
from keras_efficientnet.task import SINGLE_LABEL, TASKS

FILE_NAME = "keras_efficientnet.json"
_ASSETS = "assets.extra"
_INTERPOLATIONS = get_args(Interpolation)
_TUPLES = ("class_names", "pixel_mean", "pixel_std", "pixel_range")
_TEXTS = ("variant", "summary", "author", "license", "data", "recipe", "listing", "group_by")
# Version 1 had no version and called the summary its description.
VERSION = 2
MAX_IMAGE_SIZE = 65_536
# The 21,000 names of the largest published set take less than a hundredth of it.
MAX_BYTES = 2**26


@dataclass(frozen=True)
class ModelDescription:
    """What prediction needs to know besides the network, and what people want to know.

    Attributes:
        variant: such as `"B0"`, or any name for a network that is none of the published.
        class_names: in the order of the outputs.
        image_size: side of the input in pixels.
        crop_fraction: centre crop at evaluation, see `data.images.prepare`.
        pixel_mean: is subtracted from pixels in 0-255 before the network sees them, one value
            or one for each channel.
        pixel_std: divides them then. A mean of 0 and a deviation of 1 say that the network
            takes raw pixels, because its graph has the preprocessing inside; None and None,
            that it is not known yet (`deploy.exportable.described` finds out).
        summary: a sentence for people.
        author: who made the model.
        license: under which it may be used.
        data: what it was trained on, for the model card.
        recipe: how it was trained, for the model card; may have several lines.
        task: what its outputs mean, see `task`.
        temperature: that the logits were divided by, in the classifier's own weights, so that
            probabilities fit held-out images; 1 where they were not.
        listing: `Dataset.listing` of the data that it was trained on; empty if unknown.
        pixel_range: values of wide pixels that it was trained to see as black and white, see
            `data.images.read`; None for those that a file itself names.
        interpolation: by which images are resized at evaluation, see `data.images.prepare`.
        holdout: `Dataset.holdout` of these data.
        group_by: `Dataset.group_by` of these data.
    """

    variant: str
    class_names: tuple[str, ...]
    image_size: int
    crop_fraction: float
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    summary: str = ""
    author: str = ""
    license: str = ""
    data: str = ""
    recipe: str = ""
    task: str = SINGLE_LABEL.name
    temperature: float = 1.0
    listing: str = ""
    pixel_range: tuple[float, float] | None = None
    interpolation: Interpolation = "bicubic"
    holdout: float | None = None
    group_by: str = ""

    def __post_init__(self):
        """Refuses values that a stranger's file could bring in, without repeating them."""
        names, size, crop = self.class_names, self.image_size, self.crop_fraction
        are_names = isinstance(names, tuple) and all(isinstance(name, str) for name in names)
        pixels = "as many finite numbers as the other, every deviation above 0, or both null"
        checks = {
            "class_names": (are_names and is_text("".join(names)), "a list of texts"),
            "image_size": (
                isinstance(size, int) and 1 <= size <= MAX_IMAGE_SIZE,
                f"a whole number from 1 to {MAX_IMAGE_SIZE:,}",
            ),
            "crop_fraction": (
                isinstance(crop, int | float) and 0 < crop <= 1,
                "above 0 and at most 1",
            ),
            "pixel_mean or pixel_std": (_are_pixels(self.pixel_mean, self.pixel_std), pixels),
            "temperature": (
                isinstance(self.temperature, int | float) and 0 < self.temperature < float("inf"),
                "above 0",
            ),
            "pixel_range": (
                self.pixel_range is None or is_range(self.pixel_range),
                f"{RANGE}, or null",
            ),
            "holdout": (
                self.holdout is None
                or (isinstance(self.holdout, int | float) and 0 < self.holdout < 1),
                "between 0 and 1, or null",
            ),
            "task": (self.task in tuple(TASKS), f"one of {', '.join(TASKS)}"),
            "interpolation": (
                self.interpolation in _INTERPOLATIONS,
                f"one of {', '.join(_INTERPOLATIONS)}",
            ),
        }
        for name in _TEXTS:
            value = getattr(self, name)
            checks[name] = isinstance(value, str) and is_text(value), "a text"
        for name, (valid, accepted) in checks.items():
            if not valid:
                raise InputError(f"{name} of the description must be {accepted}.")

    @property
    def takes_raw_pixels(self) -> bool:
        """Whether the preprocessing is inside the graph."""
        return not any(self.pixel_mean or ()) and set(self.pixel_std or (1,)) == {1}

    @property
    def preprocessing(self) -> str:
        """Where it takes place, for people."""
        if self.takes_raw_pixels:
            return "inside the graph"
        mean, std = (
            ", ".join(f"{value:g}" for value in values or ())
            for values in (self.pixel_mean, self.pixel_std)
        )
        return f"outside the graph: (pixels - [{mean}]) / [{std}]"

    @property
    def labels(self) -> str:
        """The class names as a text, one a line."""
        return "".join(re.sub(r"[\r\n]+", " ", name) + "\n" for name in self.class_names)

    @property
    def title(self) -> str:
        """The network's name for people."""
        try:
            return f"EfficientNet-{scaling.get_variant(self.variant).name}"
        except InputError:
            return self.variant

    def network_input(self, pixels: np.ndarray) -> np.ndarray:
        """Returns what the network takes for pixels `[..., channels]` in 0-255."""
        if self.takes_raw_pixels:
            return pixels
        mean, std = np.array(self.pixel_mean, np.float32), np.array(self.pixel_std, np.float32)
        return (pixels.astype(np.float32) - mean) / std

    def check_range(self, pixel_range: tuple[float, float] | None) -> None:
        """Refuses data whose wide pixels were read by another range than the model was made for.

        Args:
            pixel_range: `Dataset.pixel_range`.

        Raises:
            InputError: if it is another.
        """
        if pixel_range != self.pixel_range:
            shown, accepted = (
                "no --pixel-range"
                if limits is None
                else f"--pixel-range {limits[0]:g}:{limits[1]:g}"
                for limits in (pixel_range, self.pixel_range)
            )
            raise InputError(
                f"The images were read with {shown}, and the model was trained with {accepted}; "
                "read them as it was."
            )

    def label(self, index: int) -> str:
        """Returns the name of a class."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def replaced(self, fields: Mapping[str, Any]) -> "ModelDescription":
        """Returns it with some fields replaced.

        Raises:
            InputError: if there is no such field, or a value cannot be.
        """
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(fields) - set(known)):
            raise InputError(f"description has no {unknown[0]!r}; it has {', '.join(known)}.")
        tuples = {name: tuple(fields[name]) for name in _TUPLES if fields.get(name) is not None}
        return dataclasses.replace(self, **{**fields, **tuples})

    def to_json(self) -> str:
        """Returns the document that travels with a file."""
        document = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps(document, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "ModelDescription":
        """Reads the document back.

        Raises:
            InputError: if it is damaged, or of a later version than this package reads.
        """
        try:
            fields = json.loads(text)
            version = fields.pop("version", 1)
            if version == 1 and "description" in fields:
                fields["summary"] = fields.pop("description")
            for name in _TUPLES:
                if isinstance(fields.get(name), list):
                    fields[name] = tuple(fields[name])
            if version in (1, VERSION):
                return cls(**fields)
        except InputError as error:
            raise InputError(f"The model's own description is damaged: {error}") from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InputError("The model's own description is damaged.") from error
        raise InputError(
            f"The model's own description is of version {version!r}, and this package reads up to "
            f"version {VERSION}; update the package."
        )


def _are_pixels(mean: Any, std: Any) -> bool:
    """Whether these are statistics of pixels, or both unknown."""
    if mean is None and std is None:
        return True
    return (
        isinstance(mean, tuple)
        and isinstance(std, tuple)
        and len(mean) == len(std) >= 1
        and all(isinstance(value, int | float) for value in (*mean, *std))
        and all(abs(value) <= np.finfo(np.float32).max for value in (*mean, *std))
        and all(value > 0 for value in std)
    )


def write_description(path: Path, description: ModelDescription) -> None:
    """Adds the description to a .keras file or SavedModel folder just written."""
    if path.is_dir():
        (path / _ASSETS).mkdir(exist_ok=True)
        (path / _ASSETS / FILE_NAME).write_text(description.to_json(), encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(FILE_NAME, description.to_json())


def read_description(path: str | os.PathLike) -> ModelDescription | None:
    """Reads the description of a model file, or returns None where it has none.

    Raises:
        InputError: if there is one and it is damaged.
    """
    path = Path(path)
    try:
        if path.is_dir():
            with (path / _ASSETS / FILE_NAME).open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        elif path.suffix == ".onnx":
            content = _onnx_properties(path)[FILE_NAME].encode()
        else:
            content = _member(path)
    except (FileNotFoundError, KeyError):
        return None
    try:
        if content is None or len(content) > MAX_BYTES:
            raise InputError("Its description cannot be read, or is too long.")
        return ModelDescription.from_json(content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"The description inside {str(path)!r} is damaged.") from error
    except InputError as error:
        raise InputError(f"Model {str(path)!r}: {error}") from error


def _member(path: Path) -> bytes | None:
    """Reads the description in an archive; None if it is there and cannot be read.

    Raises:
        KeyError: if there is none.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise KeyError(FILE_NAME) from None
    except (ValueError, NotImplementedError, struct.error):  # of names, versions and lengths
        return None
    with archive:
        if FILE_NAME not in archive.namelist():
            raise KeyError(FILE_NAME)
        try:
            with archive.open(FILE_NAME) as file:
                return file.read(MAX_BYTES + 1)
        except Exception:  # a damaged archive fails in many ways
            return None


def _onnx_properties(path: Path) -> dict[str, str]:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}  # without it, the file cannot be run either
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:  # a damaged file has no description; whoever runs it will hear why
        return {}
    return session.get_modelmeta().custom_metadata_map
