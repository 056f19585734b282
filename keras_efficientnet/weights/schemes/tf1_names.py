"""Variable names of Google's code for V1, Lite and V2: `efficientnet-b0/blocks_0/conv2d`."""

import re
from collections import defaultdict

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = re.compile(r"(?:.+/)?(?P<anchor>stem/conv2d/kernel)")
LABEL = "Google's variable names"

_AVERAGE = "/ExponentialMovingAverage"
_NAME = re.compile(
    r"(?P<scope>stem|head|blocks_(?P<block>\d+))/(?P<se>se/)?"
    r"(?P<layer>conv2d|depthwise_conv2d|(?:tpu_)?batch_normalization|dense)(?:_(?P<index>\d+))?/"
    r"(?P<variable>\w+)"
)


def translate(tensors: dict[str, Tensor]) -> Translation:
    """Translates a checkpoint; moving averages of weights win over the weights.

    Raises:
        InputError: for Google's EdgeTPU networks.
    """
    scopes: dict[str, dict[tuple[str, int, str], Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in tensors.items():
        if _is_training_state(name, tensors):
            continue
        match = _NAME.fullmatch(name)
        if match is None:
            unknown.append(name)
            continue
        if "edgetpu" in tensor.name:
            raise InputError(
                f"Tensor {tensor.name!r} is of Google's EdgeTPU checkpoint, whose graph strides in "
                "the projection where this package's, like timm's, strides in the fused "
                "convolution, so its outputs would differ; the state dict of timm's "
                "tf_efficientnet_es is accepted."
            )
        layer = "se" if match["se"] else match["layer"].removeprefix("tpu_")
        scope = f"block#{match['block']}" if match["block"] else match["scope"]
        key = (layer, int(match["index"] or 0), match["variable"].replace("depthwise_", ""))
        scopes[scope][key] = tensors.get(f"{name}{_AVERAGE}", tensor)

    found = {}
    for scope, members in scopes.items():
        for (layer, index, variable), tensor in members.items():
            found[f"{_part(scope, layer, index, members)}.{variable}"] = tensor
    return Translation(found, unknown, Origin({"same": 1e-3}, None, True))


def _is_training_state(name: str, tensors: dict[str, Tensor]) -> bool:
    """Counters, and what an optimizer keeps of a variable under the variable's name."""
    return "/" not in name or name.rpartition("/")[0] in tensors


def _part(scope: str, layer: str, index: int, members: dict) -> str:
    """Which part of a network a layer is, from its number within its scope."""
    if layer == "dense":
        return "classifier"
    if layer == "se":
        return f"{scope}.se.{('reduce', 'expand')[min(index, 1)]}"
    if not scope.startswith("block"):
        return f"{scope}.{'conv' if layer == 'conv2d' else 'bn'}"
    if layer == "depthwise_conv2d":
        return f"{scope}.depthwise.conv"
    order = sorted({i for kind, i, _ in members if kind == layer})
    convs = {i for kind, i, _ in members if kind == "conv2d"}
    parts = ["expand", "project"] if len(convs) > 1 else ["project"]
    if layer == "batch_normalization" and any(kind == "depthwise_conv2d" for kind, *_ in members):
        parts.insert(-1, "depthwise")
    position = order.index(index)
    name = parts[position] if position < len(parts) else f"extra{position}"
    return f"{scope}.{name}.{'conv' if layer == 'conv2d' else 'bn'}"
