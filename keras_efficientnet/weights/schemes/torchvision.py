"""Names of torchvision's networks: `features.2.0.block.1.0.weight`.

They pad symmetrically. Their batch normalization has PyTorch's epsilon in B0-B4 and
TensorFlow's in B5-B7 and in V2.
"""

import re

from keras_efficientnet.scaling import letters
from keras_efficientnet.weights.schemes import torch_names
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = torch_names.anchor("features.0.0.weight")
LABEL = "torchvision's names"

_B5_FEATURES = 2048
_BLOCK = re.compile(
    r"features\.(?P<stage>\d+)\.(?P<index>\d+)\.block\.(?P<layer>\d+)\.(?P<rest>.+)"
)
_CONV = re.compile(r"features\.(?P<stage>\d+)\.(?P<layer>[01])\.(?P<field>\w+)")
_SE = {"fc1": "se.reduce", "fc2": "se.expand"}


def translate(tensors: dict[str, Tensor]) -> Translation:
    """Translates a state dict."""
    layers: dict[tuple[str, str], list[str | None]] = {}
    for name in tensors:
        match = _BLOCK.fullmatch(name)
        if match:
            roles = layers.setdefault((match["stage"], match["index"]), [])
            roles.extend([None] * (int(match["layer"]) + 1 - len(roles)))
            if match["rest"].startswith("fc1."):
                roles[int(match["layer"])] = "se"

    head = torch_names.classifier(tensors)
    found, unknown = {}, []
    for name, tensor in tensors.items():
        if name.endswith(torch_names.COUNTER):
            continue
        inner = name.rpartition(".")[0]
        part = "classifier" if inner == head else _part(name, layers)
        if part:
            canonical, tensor = torch_names.canonical(part, name.rpartition(".")[2], tensor)
            found[canonical] = tensor
        else:
            unknown.append(tensor.name)
    return Translation(found, unknown, Origin({"symmetric": _epsilon(found)}, None, True))


def _part(name: str, layers: dict[tuple[str, str], list[str | None]]) -> str | None:
    match = _CONV.fullmatch(name)
    if match:
        scope = "stem" if match["stage"] == "0" else "head"
        return f"{scope}.{('conv', 'bn')[int(match['layer'])]}"
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    block = f"block{match['stage']}{letters(int(match['index']))}"
    inner, _, _ = match["rest"].rpartition(".")
    if inner in _SE:
        return f"{block}.{_SE[inner]}"
    role = _roles(layers[match["stage"], match["index"]])[int(match["layer"])]
    return f"{block}.{role}.{'conv' if inner == '0' else 'bn'}"


def _roles(layers: list[str | None]) -> list[str]:
    """What each of a block's layers is: torchvision numbers them without gaps."""
    if "se" in layers:
        return ["expand", "depthwise", "se", "project"][-len(layers) :]
    return ["expand", "project"][-len(layers) :]


def _epsilon(found: dict[str, Tensor]) -> float:
    fused = not any(".depthwise." in name and name.startswith("block1a") for name in found)
    head = found.get("head.conv.kernel")
    return 1e-3 if fused or (head is not None and head.shape[-1] >= _B5_FEATURES) else 1e-5
