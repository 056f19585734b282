"""What an export has made and measured: the records that every table of model files renders.

`dataclasses.asdict` makes JSON of a report, and `ExportReport.from_dict` reads it back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_efficientnet.data.dataset import LeftOut
from keras_efficientnet.deploy.significance import AccuracyChange, Interval
from keras_efficientnet.errors import RunError

# An int8 file that is larger or slower than these shares of the float32 file has little of what
# int8 is for.
MOST_SIZE, MOST_LATENCY = 0.6, 0.9


@dataclass(frozen=True)
class Equalized:
    """A swish whose channels were equalized.

    Attributes:
        layer: the convolution ahead of it.
        gain: in signal-to-noise ratio of the logits, in dB.
        latency: of the network with it over that of the network before.
    """

    layer: str
    gain: float
    latency: float


@dataclass(frozen=True)
class FloatPart:
    """A part of an int8 network that computes in float32.

    Attributes:
        part: its name, such as `"block2b"`.
        operators: their number.
        gain: in signal-to-noise ratio of the logits, in dB.
        size: bytes by which it makes the file larger.
        latency: of the network with it over that of the network before.
    """

    part: str
    operators: int
    gain: float
    size: int
    latency: float


@dataclass(frozen=True)
class Int8Report:
    """What the search for an int8 file did.

    Attributes:
        agreement: share of the search's own images on which the file decides as the float
            network does; None for a network that does not classify. The gate judges other
            images: their number is `ExportedFile.agreement`.
        min_agreement: that was asked for.
        images: number of the search's own images.
        signal_to_noise: of the logits on calibration images, in dB.
        equalized: swishes with equalized channels, in the order in which they were chosen.
        float_parts: parts that stay in float32, likewise.
        latency: over that of the float32 file, on one image.
        size: over that of the float32 file.
        qat_epochs: of quantization-aware fine-tuning ahead of the search.
    """

    agreement: float | None
    min_agreement: float
    images: int
    signal_to_noise: float
    equalized: tuple[Equalized, ...] = ()
    float_parts: tuple[FloatPart, ...] = ()
    latency: float = 1.0
    size: float = 1.0
    qat_epochs: int = 0

    @property
    def disappointment(self) -> str:
        """Says that the file is hardly smaller or faster than in float32, and why; else empty."""
        if self.size <= MOST_SIZE and self.latency <= MOST_LATENCY:
            return ""
        parts = ", ".join(each.part for each in self.float_parts)
        reason = (
            f"for agreement, {parts} had to stay in float32"
            if parts
            else "its operators are few or not faster in 8 bits on this processor"
        )
        return (
            f"The int8 file has {self.size:.0%} of the float32 file's size and "
            f"{self.latency:.0%} of its latency: {reason}."
        )


@dataclass(frozen=True)
class ExportedFile:
    """A model file that was reloaded by a fresh interpreter and compared with the model.

    Attributes:
        name: of the file or folder, such as `"model_int8.tflite"` or `"saved_model"`.
        format: `"keras"`, `"saved_model"`, `"tflite"` or `"onnx"`.
        number_format: `"float32"`, `"float16"`, `"dynamic"`, `"weight8"`, `"int8"` or `"int16x8"`.
        size: in bytes.
        agreement: share of the deciding images on which it decides as the model does; None if
            the model does not classify. This is the number that the gate judges.
        max_abs_difference: of any output from the model's.
        accuracy: share of the reported images that it classifies rightly; None without labels.
        latency_ms: median time for one image in milliseconds; None where it was not measured.
        agreement_interval: of the agreement.
        accuracy_interval: of the accuracy.
        accuracy_change: against the model, on the reported images.
        unjudged_classes: number of classes with too few deciding images for a verdict of its own.
        operators: of a .tflite file, how many of each kind, the most frequent first.
        int8: what the search for an int8 file did.
    """

    name: str
    format: str
    number_format: str
    size: int
    agreement: float | None
    max_abs_difference: float
    accuracy: float | None = None
    latency_ms: float | None = None
    agreement_interval: Interval | None = None
    accuracy_interval: Interval | None = None
    accuracy_change: AccuracyChange | None = None
    unjudged_classes: int = 0
    operators: Mapping[str, int] = field(default_factory=dict)
    int8: Int8Report | None = None


@dataclass(frozen=True)
class FailedFile:
    """A model file that was asked for and is not in place.

    Attributes:
        name: of the file or folder.
        reason: one or more sentences.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ExportReport:
    """What `export` returns.

    Attributes:
        directory: of the files.
        files: those in place, in the order in which they were made.
        failed: those that could not be made, or did not pass.
        images: number of images that decided on the files.
        compared_on: which kind of images, such as `"held-out images"`.
        source_accuracy: of the model itself on the reported images; None without labels.
        preprocessing: where it takes place, for people.
        left_out: images of the data that were not used.
        warnings: sentences.
        reported_images: number of images that gave the accuracy: others than those that decided.
    """

    directory: str
    files: tuple[ExportedFile, ...]
    failed: tuple[FailedFile, ...]
    images: int
    compared_on: str
    source_accuracy: float | None
    preprocessing: str
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    reported_images: int = 0

    def file(self, name: str) -> ExportedFile:
        """Returns a file by its name.

        Raises:
            KeyError: if no such file is in place.
        """
        for each in self.files:
            if each.name == name:
                return each
        raise KeyError(name)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "ExportReport":
        """Reads back what `dataclasses.asdict` gave, from JSON or directly."""
        return cls(
            **{
                **document,
                "files": tuple(map(_exported_file, document["files"])),
                "failed": tuple(FailedFile(**each) for each in document["failed"]),
                "left_out": tuple(LeftOut(**each) for each in document["left_out"]),
                "warnings": tuple(document["warnings"]),
            }
        )


def _exported_file(document: Mapping[str, Any]) -> ExportedFile:
    read = {
        "agreement_interval": lambda found: Interval(**found),
        "accuracy_interval": lambda found: Interval(**found),
        "accuracy_change": lambda found: AccuracyChange(
            **{**found, "interval": Interval(**found["interval"])}
        ),
        "int8": _int8_report,
    }
    nested = {name: document[name] and make(document[name]) for name, make in read.items()}
    return ExportedFile(**{**document, **nested})


def _int8_report(document: Mapping[str, Any]) -> Int8Report:
    return Int8Report(
        **{
            **document,
            "equalized": tuple(Equalized(**each) for each in document["equalized"]),
            "float_parts": tuple(FloatPart(**each) for each in document["float_parts"]),
        }
    )


class ExportError(RunError):
    """Some of the files could not be made; the others are in place.

    Attributes:
        report: what `export` would have returned, with the reasons in its `failed`.
    """

    def __init__(self, report: ExportReport):
        self.report = report
        kept = ", ".join(each.name for each in report.files)
        super().__init__(
            f"{', '.join(each.name for each in report.failed)} could not be made"
            f"{f'; in place are {kept}' if kept else ''}: "
            f"{' '.join(each.reason for each in report.failed)}"
        )


class GateError(RunError):
    """A quantized file does not agree with the float network as often as was asked for.

    Attributes:
        report: of the best file that the search found; None if the search had found one.
    """

    def __init__(self, message: str, report: Int8Report | None = None):
        super().__init__(message)
        self.report = report
