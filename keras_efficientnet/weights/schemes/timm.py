"""Names of timm's `tf_efficientnet_*` and `efficientnet_*`: `blocks.1.0.conv_pw.weight`.

Both groups have the same names. The first was converted from Google's weights and keeps
TensorFlow's padding and epsilon; the second was trained in PyTorch with PyTorch's.
"""

import re

from keras_efficientnet.scaling import letters
from keras_efficientnet.weights.schemes import torch_names
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = torch_names.anchor("conv_stem.weight")
LABEL = "timm's names"

_NETWORK = {
    "conv_stem": "stem.conv",
    "bn1": "stem.bn",
    "conv_head": "head.conv",
    "bn2": "head.bn",
}
_SQUEEZE_EXCITE = {"se.conv_reduce": "se.reduce", "se.conv_expand": "se.expand"}
# timm's block classes, told apart by a layer that only they have; the first that fits.
_BLOCKS = (
    (
        ("conv_dw", "conv_pwl"),  # InvertedResidual
        {
            "conv_pw": "expand.conv",
            "bn1": "expand.bn",
            "conv_dw": "depthwise.conv",
            "bn2": "depthwise.bn",
            "conv_pwl": "project.conv",
            "bn3": "project.bn",
        },
    ),
    (
        ("conv_dw",),  # DepthwiseSeparableConv
        {
            "conv_dw": "depthwise.conv",
            "bn1": "depthwise.bn",
            "conv_pw": "project.conv",
            "bn2": "project.bn",
        },
    ),
    (
        ("conv_exp",),  # EdgeResidual
        {
            "conv_exp": "expand.conv",
            "bn1": "expand.bn",
            "conv_pwl": "project.conv",
            "bn2": "project.bn",
        },
    ),
    (("conv",), {"conv": "project.conv", "bn1": "project.bn"}),  # ConvBnAct
)
_NAME = re.compile(r"(?:blocks\.(?P<stage>\d+)\.(?P<index>\d+)\.)?(?P<layer>.+)\.(?P<field>\w+)")


def translate(tensors: dict[str, Tensor]) -> Translation:
    """Translates a state dict."""
    blocks: dict[tuple[str, str], set[str]] = {}
    for name in tensors:
        match = _NAME.fullmatch(name)
        if match and match["stage"]:
            blocks.setdefault((match["stage"], match["index"]), set()).add(match["layer"])

    head = torch_names.classifier(tensors)
    found, unknown = {}, []
    for name, tensor in tensors.items():
        if name.endswith(torch_names.COUNTER):
            continue
        match = _NAME.fullmatch(name)
        part = match and ("classifier" if match["layer"] == head else _part(match, blocks))
        if match and part:
            canonical, tensor = torch_names.canonical(part, match["field"], tensor)
            found[canonical] = tensor
        else:
            unknown.append(tensor.name)
    # Nothing in a state dict tells the two groups apart, nor AdvProp's pixels from others.
    return Translation(found, unknown, Origin({"same": 1e-3, "symmetric": 1e-5}, None, True))


def _part(match: re.Match, blocks: dict[tuple[str, str], set[str]]) -> str | None:
    if not match["stage"]:
        return _NETWORK.get(match["layer"])
    members = blocks[match["stage"], match["index"]]
    kinds = (parts for marks, parts in _BLOCKS if members.issuperset(marks))
    part = {**next(kinds, {}), **_SQUEEZE_EXCITE}.get(match["layer"])
    return part and f"block{int(match['stage']) + 1}{letters(int(match['index']))}.{part}"
