"""Images for networks, and what networks make of them."""

import numpy as np
from keras import ops


def photos(count, height, width, channels):
    """Random pixels in 0-255, each image in a colour of its own."""
    rng = np.random.default_rng(0)
    colour = rng.uniform(0.2, 1, (count, 1, 1, channels))
    return (colour * rng.uniform(0, 255, (count, height, width, channels))).astype("float32")


def outputs_of(model, x) -> np.ndarray:
    """Calls the model without tracing it, which takes longer than small networks do."""
    return np.asarray(ops.convert_to_numpy(model(x, training=False)))
