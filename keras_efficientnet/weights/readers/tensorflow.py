"""TensorFlow checkpoints, of version 1 by name and of version 2 by object graph."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from keras_efficientnet.weights.weight_file import Tensor

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Not "optimizer/_trainable_variables/0", which is the network's own.
_OPTIMIZER = re.compile(r"(?:^|/)_?optimizer/(?!_trainable_variables/)")


@contextmanager
def open_tensorflow(prefix: str) -> Iterator[dict[str, Tensor]]:
    """Opens the checkpoint behind a prefix such as `model.ckpt`; a SavedModel has one inside."""
    import tensorflow as tf

    reader: Any = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    if _OBJECT_GRAPH in shapes:
        names = _object_names(reader.get_tensor(_OBJECT_GRAPH))
    else:
        names = {name: name for name in shapes}
    yield {
        name: Tensor(name, tuple(shapes[key]), partial(reader.get_tensor, key))
        for name, key in names.items()
        if key in shapes
    }


def _object_names(graph: bytes) -> dict[str, str]:
    """Each variable's full name and the key under which the checkpoint keeps its value.

    Keras' export lists variables several times over, with equal values. Keras 2's optimizers keep
    their slots as attributes of no object; Keras 3's list theirs beside the network's variables.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    names: dict[str, str] = {}
    for node in TrackableObjectGraph.FromString(graph).nodes:
        for attribute in node.attributes:
            if attribute.full_name and not _OPTIMIZER.search(attribute.checkpoint_key):
                names.setdefault(attribute.full_name, attribute.checkpoint_key)
    return names
