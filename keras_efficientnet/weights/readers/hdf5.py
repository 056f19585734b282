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


@contextmanager
def open_hdf5(
    source: str | BinaryIO, path: str, names_by_group: dict[str, str] | None = None
) -> Iterator[tuple[str, dict[str, Tensor], list[dict]]]:
    """Opens a file or a file object.

    Yields what it is, its tensors as `layer/variable`, and its layers' configs; where the
    file has no configs, they are just the names.

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
        elif isinstance(
            root.get("layers") or root.get("_layer_checkpoint_dependencies"), h5py.Group
        ):
            yield "Keras .weights.h5", *_by_layer_groups(file, path, names_by_group or {})
        else:
            raise InputError(
                f"{path!r} is an HDF5 file that Keras did not write; .h5 and .weights.h5 files "
                "of a Keras model are accepted."
            )


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
    found: list[Any] = []
    root.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    for dataset in found:
        *_, outer, layer, variable = ("", "", *dataset.name.split("/"))
        if layer in ("reduce", "expand"):  # parts of this package's SqueezeExcite
            layer = f"{outer}/{layer}"
        yield _tensor(f"{layer}/{variable.partition(':')[0]}", dataset)


def _legacy_layers(file: Any, root: Any) -> list[dict]:
    if "model_config" in file.attrs:
        return list(layer_configs(json.loads(file.attrs["model_config"])))
    return [{"config": {"name": name}} for name in root]


def layer_configs(config: Any) -> Iterator[dict]:
    """Every object with a class name in a model's config, wherever it stands."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from layer_configs(value)
    elif isinstance(config, list):
        for value in config:
            yield from layer_configs(value)


def _by_layer_groups(
    file: Any, path: str, names_by_group: dict[str, str]
) -> tuple[dict[str, Tensor], list[dict]]:
    names: dict[str, str] = {}
    groups: list[Any] = []

    def visit(name: str, item: Any) -> None:
        if name.endswith("/vars") and isinstance(item, h5py.Group):
            group = name.removesuffix("/vars")
            names[group] = str(item.attrs.get("name", names_by_group.get(group, "")))
            if len(item) and name.startswith(("layers/", "_layer_checkpoint_dependencies/")):
                groups.append(item)

    file.visititems(visit)
    if groups and not any(names.values()):
        raise InputError(
            f"{path!r} has no layer names, as Keras wrote .weights.h5 files before it kept them; "
            "a .keras file of that Keras, or a .weights.h5 of a newer one, is accepted."
        )
    tensors = {}
    for group in groups:
        key = group.name.strip("/").removesuffix("/vars")
        layer = names[key]
        if layer in ("reduce", "expand"):
            layer = f"{names.get(key.rpartition('/')[0], '')}/{layer}"
        # A layer that is no part of an EfficientNet may have any number of variables.
        variables = _VARIABLES.get(len(group), tuple(group))
        tensors.update(
            _tensor(f"{layer}/{variable}", group[str(index)])
            for index, variable in enumerate(variables)
        )
    return tensors, [{"config": {"name": name}} for name in names.values()]


def _tensor(name: str, dataset: Any) -> tuple[str, Tensor]:
    def read() -> np.ndarray:
        return dataset[()]

    return name, Tensor(name, tuple(dataset.shape), read)
