"""HDF5 files of Keras: Keras 2's `.h5`, with or without a model, and `.weights.h5`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.weight_file import Tensor

# A `.weights.h5` numbers a layer's variables and does not name them.
_VARIABLES = {
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: ("mean", "variance", "count"),
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


Layers = list[tuple[str, dict]]
"""For each layer: the names of the models around it, each with a slash, and its config."""


@contextmanager
def open_hdf5(
    source: str | BinaryIO, path: str, names_by_group: dict[str, str] | None = None
) -> Iterator[tuple[str, dict[str, Tensor], Layers]]:
    """Opens a file or a file object.

    Yields what it is, its tensors as `layer/variable` behind the names of the models around the
    layer, and its layers' configs; where the file has no configs, they are just the names.

    Args:
        source: the file.
        path: what to call it in messages.
        names_by_group: layer names by HDF5 group, for a file that does not keep them.
    """
    with h5py.File(source, "r") as file:
        _refuse_other_files(file, path)
        root: Any = file
        if isinstance(root.get("model_weights"), h5py.Group):
            root = root["model_weights"]
        if any(name.startswith("layer_names") for name in root.attrs):
            yield "Keras .h5", dict(_by_weight_names(root)), _legacy_layers(file, root)
            return
        groups = _layer_groups(file)
        if not groups:
            raise InputError(
                f"{path!r} is an HDF5 file that Keras did not write; .h5 and .weights.h5 files "
                "of a Keras model are accepted."
            )
        yield "Keras .weights.h5", *_by_layer_groups(groups, path, names_by_group or {})


def _refuse_other_files(file: Any, path: str) -> None:
    """Refuses a file that would have others read, from wherever it likes."""
    elsewhere: list[str] = []

    def visit(name: str, link: Any) -> None:
        item: Any = file[name] if isinstance(link, h5py.HardLink) else None
        outside = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
        if isinstance(link, h5py.ExternalLink) or outside:
            elsewhere.append(name)

    file.visititems_links(visit)
    if elsewhere:
        raise InputError(
            f"{path!r} takes {elsewhere[0]!r} from another file; a file that holds all its weights "
            "itself is accepted."
        )


def _by_weight_names(root: Any) -> Iterator[tuple[str, Tensor]]:
    """Keras 2's: a group for each layer of the model, with its variables under their full names."""
    found: list[Any] = []
    root.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    for dataset in found:
        outer, *inner = dataset.name.removeprefix(root.name).strip("/").split("/")
        # The full name may or may not begin with the layer's.
        while outer in inner[:-1]:
            inner = inner[inner.index(outer) + 1 :]
        yield _tensor("/".join((outer, *inner)).partition(":")[0], dataset)


def _legacy_layers(file: Any, root: Any) -> Layers:
    if "model_config" in file.attrs:
        return list(layer_configs(json.loads(file.attrs["model_config"])["config"]))
    return [("", {"config": {"name": name}}) for name in root]


def layer_configs(config: Any, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Yields every object with a class name in a model's config, wherever it stands.

    The names of the models around it come first, each with a slash.
    """
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield prefix, config
            inner = config.get("config")
            if isinstance(inner, dict) and isinstance(inner.get("layers"), list):
                prefix += f"{inner.get('name')}/"
        for value in config.values():
            yield from layer_configs(value, prefix)
    elif isinstance(config, list):
        for value in config:
            yield from layer_configs(value, prefix)


def _layer_groups(file: Any) -> dict[str, Any]:
    """Groups of a layer's variables, by the layer's place; those of no variables are names."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        layer = name.removesuffix("vars").rstrip("/")
        state = name.partition("/")[0] in ("optimizer", "metrics", "_optimizer")
        if name.endswith("/vars") and isinstance(item, h5py.Group) and not state:
            found[layer] = item

    file.visititems(visit)
    return found


def _by_layer_groups(
    groups: dict[str, Any], path: str, names_by_group: dict[str, str]
) -> tuple[dict[str, Tensor], Layers]:
    names = {
        group: str(item.attrs.get("name", names_by_group.get(group, "")))
        for group, item in groups.items()
    }
    if not any(names.values()):
        raise InputError(
            f"{path!r} has no layer names, as Keras wrote .weights.h5 files before it kept them; "
            "a .keras file of that Keras, or a .weights.h5 of a newer one, is accepted."
        )
    tensors: dict[str, Tensor] = {}
    layers: Layers = []
    for group, variables in groups.items():
        parts = group.split("/")
        outer = ("/".join(parts[:end]) for end in range(1, len(parts)))
        prefix = "".join(f"{names[place]}/" for place in outer if names.get(place))
        layers.append((prefix, {"config": {"name": names[group]}}))
        # A layer that is no part of an EfficientNet may have any number of variables.
        known = _VARIABLES.get(len(variables), tuple(variables))
        tensors.update(
            _tensor(f"{prefix}{names[group]}/{variable}", variables[str(index)])
            for index, variable in enumerate(known)
        )
    return tensors, layers


def _tensor(name: str, dataset: Any) -> tuple[str, Tensor]:
    def read() -> np.ndarray:
        return dataset[()]

    return name, Tensor(name, tuple(dataset.shape), read)
