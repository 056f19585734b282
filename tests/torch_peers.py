"""Networks of PyTorch packages with random weights."""

from typing import Any

import numpy as np
import pytest
from weights_helpers import GAIN_FUSED, GAIN_WITH_SE, random_value

torch = pytest.importorskip("torch")

# torchvision's compiled operators do not load beside a PyTorch from another index, and
# its package asks for them when it is imported; no network here uses them.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for _name, _schema in (
    ("nms", "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    ("qnms", "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    (
        "roi_align",
        "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
        "int pooled_width, int sampling_ratio, bool aligned) -> Tensor",
    ),
):
    if not hasattr(torch.ops.torchvision, _name):
        _OPERATORS.define(_schema)

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")

_FIELDS = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def randomize(network: Any, seed: int = 0) -> Any:
    """As `weights_helpers.randomize`, for a torch module; returns it in evaluation mode."""
    rng = np.random.default_rng(seed)
    state = network.state_dict()
    fused = not any(value.ndim == 4 and value.shape[1] == 1 for value in list(state.values())[:14])
    gain = GAIN_FUSED if fused else GAIN_WITH_SE
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        is_norm = name.rpartition(".")[0] + ".running_mean" in state
        shape = tuple(value.shape)
        if value.ndim == 4:  # OIHW
            shape = (*shape[2:], shape[1], shape[0])
            kind = "depthwise" if shape[2] == 1 else "kernel"
            random = random_value(kind, shape, gain, rng).transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            random = random_value("kernel", shape[::-1], gain, rng).T
        else:
            kind = _FIELDS[name.rpartition(".")[2]] if is_norm else "bias"
            random = random_value(kind, shape, gain, rng)
        value.copy_(torch.from_numpy(np.ascontiguousarray(random)))
    return network.eval()


def outputs(network: Any, pixels: np.ndarray) -> np.ndarray:
    """Runs a network on channels-last pixels, already normalized."""
    with torch.no_grad():
        return network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
