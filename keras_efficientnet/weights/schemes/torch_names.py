"""What PyTorch's naming conventions share: field names and the order of axes."""

import re

from keras_efficientnet.weights.weight_file import Tensor

_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
COUNTER = "num_batches_tracked"
_HEAD = re.compile(r"classifier(?:\.\d+)?\.weight")


def anchor(name: str) -> re.Pattern[str]:
    """Returns a pattern for a network's first kernel, whatever wraps the network."""
    return re.compile(rf"(?:.+\.)?(?P<anchor>{re.escape(name)})")


def classifier(tensors: dict[str, Tensor]) -> str | None:
    """Returns the name of the one linear layer of a head, by itself or in a sequence."""
    names = [name.removesuffix(".weight") for name in tensors if _HEAD.fullmatch(name)]
    return names[0] if len(names) == 1 else None


def canonical(part: str, field: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Names a layer's field and turns its axes from PyTorch's order to Keras'."""
    if part.endswith(".bn"):
        return f"{part}.{_BATCH_NORM.get(field, field)}", tensor
    name = f"{part}.{'kernel' if field == 'weight' else field}"
    if len(tensor.shape) == 4:
        return name, tensor.transpose((2, 3, 0, 1) if "depthwise" in part else (2, 3, 1, 0))
    return name, tensor.transpose((1, 0)) if len(tensor.shape) == 2 else tensor
