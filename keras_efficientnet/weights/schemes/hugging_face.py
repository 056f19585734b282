"""Names of Hugging Face transformers: `efficientnet.encoder.blocks.0.expansion.expand_conv.weight`.

Its networks pad as TensorFlow does and keep TensorFlow's epsilon; the published weights were
converted from those of keras.applications.
"""

import re

from keras_efficientnet.weights.schemes import torch_names
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = re.compile(r"(?:.+?\.)??(?P<anchor>(?:efficientnet\.)?embeddings\.convolution\.weight)")
LABEL = "Hugging Face transformers' names"

_NETWORK = {
    "embeddings.convolution": "stem.conv",
    "embeddings.batchnorm": "stem.bn",
    "encoder.top_conv": "head.conv",
    "encoder.top_bn": "head.bn",
    "classifier": "classifier",
}
_BLOCK = {
    "expansion.expand_conv": "expand.conv",
    "expansion.expand_bn": "expand.bn",
    "depthwise_conv.depthwise_conv": "depthwise.conv",
    "depthwise_conv.depthwise_norm": "depthwise.bn",
    "squeeze_excite.reduce": "se.reduce",
    "squeeze_excite.expand": "se.expand",
    "projection.project_conv": "project.conv",
    "projection.project_bn": "project.bn",
}
_NAME = re.compile(
    r"(?:efficientnet\.)?(?:encoder\.blocks\.(?P<block>\d+)\.)?(?P<layer>.+)\.(?P<field>\w+)"
)


def translate(tensors: dict[str, Tensor]) -> Translation:
    """Translates a state dict."""
    found, unknown = {}, []
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        part = match and (_BLOCK if match["block"] else _NETWORK).get(match["layer"])
        if match and part and match["field"] != torch_names.COUNTER:
            part = f"block#{match['block']}.{part}" if match["block"] else part
            canonical, tensor = torch_names.canonical(part, match["field"], tensor)
            found[canonical] = tensor
        elif not name.endswith(torch_names.COUNTER):
            unknown.append(tensor.name)
    return Translation(found, unknown, Origin({"same": 1e-3}))
