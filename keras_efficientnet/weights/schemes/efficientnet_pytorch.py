"""Names of the package EfficientNet-PyTorch: `_blocks.0._expand_conv.weight`.

Its networks pad as TensorFlow does and keep TensorFlow's epsilon; its published weights
were converted from Google's.
"""

import re

from keras_efficientnet.weights.schemes import torch_names
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = re.compile(r"(?:.+\.)?(?P<anchor>_conv_stem(?:\.conv)?\.weight)")
LABEL = "EfficientNet-PyTorch's names"

_NETWORK = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.bn",
    "_conv_head": "head.conv",
    "_bn1": "head.bn",
    "_fc": "classifier",
}
_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.bn",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.bn",
    "_se_reduce": "se.reduce",
    "_se_expand": "se.expand",
    "_project_conv": "project.conv",
    "_bn2": "project.bn",
}
# EfficientDet in PyTorch has each convolution one level deeper.
_NAME = re.compile(r"(?:_blocks\.(\d+)\.)?(_\w+)(?:\.conv)?\.(\w+)")


def translate(tensors: dict[str, Tensor]) -> Translation:
    """Translates a state dict."""
    found, unknown = {}, []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        part = match and (_BLOCK if match[1] else _NETWORK).get(match[2])
        if match and part and match[3] != torch_names.COUNTER:
            part = f"block#{match[1]}.{part}" if match[1] else part
            canonical, tensor = torch_names.canonical(part, match[3], tensor)
            found[canonical] = tensor
        elif not name.endswith(torch_names.COUNTER):
            unknown.append(tensor.name)
    return Translation(found, unknown, Origin({"same": 1e-3}, None, True))
