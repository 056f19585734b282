"""Naming conventions: each translates a file's names into canonical ones."""

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.schemes import (
    efficientnet_pytorch,
    keras_names,
    tf1_names,
    timm,
    torchvision,
)
from keras_efficientnet.weights.weight_file import Tensor, WeightFile


def translate(
    path: str, container: str, tensors: dict[str, Tensor], layers: list[dict] | None = None
) -> WeightFile:
    """Recognises a file's naming convention by the name of its first kernel.

    Args:
        path: of the file, for messages.
        container: what kind of file it is.
        tensors: by the file's own names.
        layers: configs of the layers, where the file has them.

    Raises:
        InputError: if no convention fits.
    """

    def has(anchor: str) -> bool:
        return any(name == anchor or name.endswith(f".{anchor}") for name in tensors)

    if keras_names.ANCHOR in tensors:
        scheme, translation = keras_names, keras_names.translate(tensors, layers)
    elif tf1_names.recognises(tensors):
        scheme, translation = tf1_names, tf1_names.translate(tensors, path)
    elif has(efficientnet_pytorch.ANCHOR):
        scheme, translation = efficientnet_pytorch, efficientnet_pytorch.translate(tensors)
    elif has(timm.ANCHOR):
        scheme, translation = timm, timm.translate(tensors)
    elif has(torchvision.ANCHOR):
        scheme, translation = torchvision, torchvision.translate(tensors)
    else:
        sample = ", ".join(sorted(tensors)[:3]) or "no tensors"
        raise InputError(
            f"{path!r} ({container}: {sample}) is not an EfficientNet's; accepted are the names of "
            "Keras, of Google's checkpoints, of EfficientNet-PyTorch, of timm and of torchvision."
        )
    return WeightFile(
        path,
        f"{container}, {scheme.LABEL}",
        translation.tensors,
        tuple(translation.unknown),
        translation.origin,
    )
