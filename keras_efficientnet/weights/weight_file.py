"""What a weight file holds, said in this package's names and array layouts.

Readers (one for each container) give tensors under the file's own names; schemes (one
for each naming convention) translate those into a `WeightFile`. Nothing is read from
disk until `Tensor.read` is called, so that shapes can be checked first.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from keras_efficientnet.spec import Interpolation, Padding, Pixels

# Blocks of files that number them through, until a model says what each is called.
_NUMBERED = re.compile(r"block#(\d+)\.")


@dataclass(frozen=True)
class Tensor:
    """One array of a file.

    Attributes:
        name: as the file calls it.
        shape: as `read` returns it.
        read: reads it from the file.
        group: how its name begins if it is in one of several state dicts of a file, such as
            `"state_dict."`.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    group: str = ""

    def transpose(self, axes: Sequence[int]) -> "Tensor":
        """The same tensor with its axes in another order."""
        return replace(
            self,
            shape=tuple(self.shape[axis] for axis in axes),
            read=lambda: self.read().transpose(axes),
        )


@dataclass(frozen=True)
class Origin:
    """How a file's weights were trained, as far as the file tells.

    Attributes:
        epsilons: the paddings they may have been trained with and the batch
            normalization's epsilon that goes with each, None where the file does not tell
            it; empty where the file tells neither.
        pixels: mean and standard deviation of RGB values in 0-255; None where the file
            does not tell.
        pixels_vary: whether files of these names exist for more than one kind of pixels.
        pads_in_two_ways: whether their network pads as no network of this package does.
    """

    epsilons: dict[Padding, float | None] = field(default_factory=dict)
    pixels: Pixels | None = None
    pixels_vary: bool = False
    pads_in_two_ways: bool = False

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the file does not tell: `"padding"`, `"pixels"`."""
        told = {"padding": len(self.epsilons) == 1, "pixels": self.pixels is not None}
        return tuple(name for name, known in told.items() if not known)

    def completed(self, padding: Padding | None, pixels: Pixels | None) -> "Origin":
        """Returns it with the caller's word where the file does not tell."""
        epsilons = self.epsilons
        if padding and (padding in epsilons or not epsilons):
            epsilons = {padding: epsilons.get(padding)}
        return replace(self, epsilons=epsilons, pixels=self.pixels or pixels)


@dataclass(frozen=True)
class Usage:
    """How a file's weights are meant to be used; None and empty where it does not tell.

    Attributes:
        size: image side in pixels at evaluation.
        crop_fraction: of the central crop.
        interpolation: by which images are resized.
        class_names: in the order of the outputs.
    """

    size: int | None = None
    crop_fraction: float | None = None
    interpolation: Interpolation | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Translation:
    """What a naming scheme makes of a file's tensors; the fields are those of `WeightFile`."""

    tensors: dict[str, Tensor]
    unknown: list[str]
    origin: Origin


@dataclass(frozen=True)
class WeightFile:
    """A weight file, understood.

    Attributes:
        path: of the file.
        layout: what kind of file it is, in words.
        tensors: by canonical name, such as `"block2a.expand.conv.kernel"`, in Keras'
            array layout.
        unknown: names in the file that are no part of an EfficientNet.
        origin: how the weights were trained.
        usage: how they are used.
    """

    path: str
    layout: str
    tensors: dict[str, Tensor]
    unknown: tuple[str, ...] = ()
    origin: Origin = field(default_factory=Origin)
    usage: Usage = field(default_factory=Usage)

    def with_block_names(self, block_names: Sequence[str]) -> "WeightFile":
        """Names the blocks of a file that only numbers them."""

        def named(name: str) -> str:
            match = _NUMBERED.match(name)
            if match is None or int(match[1]) >= len(block_names):
                return name
            return f"{block_names[int(match[1])]}.{name[match.end() :]}"

        return replace(self, tensors={named(name): t for name, t in self.tensors.items()})
