"""What is asked of exported files."""

from dataclasses import dataclass

from keras_efficientnet.errors import require


@dataclass(frozen=True)
class ExportOptions:
    """What is asked of exported files.

    Attributes:
        min_agreement: share of the held-out images on which a quantized file must decide as the
            model does, in [0, 1], of all and of each class.
        strict_gate: let the lower end of that share's 95 % interval decide.
        qat_epochs: passes over training images in which a copy of the model is fine-tuned under
            8-bit rounding before it is quantized to int8; 0 for none.
        dynamic_batch: let .tflite and .onnx files take any number of images at once. GPUs and
            NPUs want a fixed shape, which is one image.
    """

    min_agreement: float = 0.97
    strict_gate: bool = False
    qat_epochs: int = 0
    dynamic_batch: bool = False

    def __post_init__(self):
        """Checks the ranges."""
        require(0 <= self.min_agreement <= 1, "min_agreement", self.min_agreement, "from 0 to 1")
        require(self.qat_epochs >= 0, "qat_epochs", self.qat_epochs, "at least 0")
