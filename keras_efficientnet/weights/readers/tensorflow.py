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

# Keras 3 numbers a model's operations, and Keras 2 its layers.
_LAYER = re.compile(r"(?P<around>.*/)?(?:(?:_operations|_layers)/\d+|layer(?:_with_weights)?-\d+)/")
_IN_A_LIST = re.compile(r"(?P<list>(?:.*/)?\w*variables)/(?P<index>\d+)/\.ATTRIBUTES")
# Whatever draws random numbers has a state of this name.
_SEED = "seed_generator"


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
    The names of two networks are the same; their keys begin with the objects around them, except
    in a list of all variables, which has one network after the other.
    """
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    found = [
        (attribute.full_name, attribute.checkpoint_key)
        for node in TrackableObjectGraph.FromString(graph).nodes
        for attribute in node.attributes
        if attribute.full_name and not _OPTIMIZER.search(attribute.checkpoint_key)
    ]
    lists: dict[str, list[tuple[int, str, str]]] = {}
    places: dict[str, dict[str, str]] = {}
    for name, key in found:
        if match := _IN_A_LIST.match(key):
            lists.setdefault(match["list"], []).append((int(match["index"]), name, key))
        else:
            layer = _LAYER.match(key)
            places.setdefault((layer and layer["around"]) or "", {})[name] = key
    networks = places if _repeats(places) else _one_after_another(lists)
    if _repeats(networks):
        return {f"{at}{name}": key for at, names in networks.items() for name, key in names.items()}
    names: dict[str, str] = {}
    for name, key in found:
        names.setdefault(name, key)
    return names


def _one_after_another(lists: dict[str, list[tuple[int, str, str]]]) -> dict[str, dict[str, str]]:
    """Splits the longest list of variables where a name comes again."""
    networks: list[dict[str, str]] = [{}]
    for _, name, key in sorted(max(lists.values(), key=len, default=[])):
        if name in networks[-1] and _SEED not in name:
            networks.append({})
        networks[-1][name] = key
    return {f"network-{index}/": names for index, names in enumerate(networks, start=1)}


def _repeats(places: dict[str, dict[str, str]]) -> bool:
    """Whether several objects have a variable of the same name."""
    names = [name for held in places.values() for name in held if _SEED not in name]
    return len(set(names)) < len(names)
