"""Naming conventions: each translates a file's names into canonical ones.

A file can hold several networks, and whatever else training leaves there. Each scheme knows its
networks by the name of their first kernel, its anchor; what comes before an anchor is the
network's prefix.
"""

import re
from dataclasses import dataclass
from types import ModuleType

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.schemes import (
    efficientnet_pytorch,
    hugging_face,
    keras_names,
    tf1_names,
    timm,
    torchvision,
)
from keras_efficientnet.weights.weight_file import Tensor, WeightFile

# The first whose anchor fits: a name may end in several of them.
_SCHEMES = (keras_names, tf1_names, hugging_face, efficientnet_pytorch, timm, torchvision)
_AVERAGED = {"ema", "swa", "avg", "average", "averaged", "averages", "shadow"}
# What training counts beside the weights, by the last part of its name.
_COUNTERS = {"n_averaged", "num_updates", "iteration", "iterations", "global_step", "save_counter"}
_COUNTERS |= {"step", "epoch", "updates", "decay", "learning_rate"}


@dataclass(frozen=True)
class _Network:
    """A network in a file.

    Attributes:
        prefix: what the names of its tensors begin with.
        group: of its tensors.
        scheme: that its names follow.
    """

    prefix: str
    group: str
    scheme: ModuleType

    @property
    def name(self) -> str:
        """The prefix for people."""
        return self.prefix.rstrip("./")

    @property
    def averaged(self) -> bool:
        """Whether it holds averages of another's weights, by its name."""
        return not _AVERAGED.isdisjoint(re.split(r"[^a-z0-9]+", self.prefix.lower()))


def translate(
    path: str,
    container: str,
    tensors: dict[str, Tensor],
    layers: list[tuple[str, dict]] | None = None,
    prefix: str | None = None,
) -> WeightFile:
    """Recognises a file's naming convention by the name of its first kernel.

    Of a network and its moving average, the average is taken.

    Args:
        path: of the file, for messages.
        container: what kind of file it is.
        tensors: by the file's own names.
        layers: prefix and config of each layer, where the file has them.
        prefix: of the network to take, where the file holds several.

    Raises:
        InputError: if no convention fits, or it is not clear which network is meant.
    """
    networks = _networks(tensors)
    if not networks:
        sample = ", ".join(sorted(tensors)[:3]) or "no tensors"
        raise InputError(
            f"{path!r} ({container}: {sample}) is not an EfficientNet's; accepted are the names of "
            "Keras and KerasHub, of Google's checkpoints, of EfficientNet-PyTorch, of timm, of "
            "torchvision and of Hugging Face transformers."
        )
    network = _choose(path, networks, prefix)
    others = tuple(other.prefix for other in networks if len(other.prefix) > len(network.prefix))
    own, strange = {}, []
    for name, tensor in tensors.items():
        if tensor.group != network.group or _is_training_state(name, network):
            continue
        if name.startswith(network.prefix) and not (others and name.startswith(others)):
            own[name.removeprefix(network.prefix)] = tensor
        elif prefix is None and len(networks) == 1:
            strange.append(tensor.name)
    if network.scheme is keras_names:
        inside = [config for start, config in layers or () if start == network.prefix]
        translation = keras_names.translate(own, None if layers is None else inside)
    else:
        translation = network.scheme.translate(own)
    return WeightFile(
        path,
        f"{container}, {network.scheme.LABEL}",
        translation.tensors,
        (*translation.unknown, *strange),
        translation.origin,
    )


def _networks(tensors: dict[str, Tensor]) -> list[_Network]:
    found: dict[str, _Network] = {}
    for name, tensor in tensors.items():
        for scheme in _SCHEMES:
            match = scheme.ANCHOR.fullmatch(name)
            if match:
                prefix = name[: match.start("anchor")]
                found.setdefault(prefix, _Network(prefix, tensor.group, scheme))
                break
    return list(found.values())


def _choose(path: str, networks: list[_Network], prefix: str | None) -> _Network:
    names = ", ".join(repr(network.name) for network in networks)
    if prefix is not None:
        for network in networks:
            if network.name == prefix.rstrip("./"):
                return network
        raise InputError(f"prefix={prefix!r} is no network of {path!r}, which holds {names}.")
    averaged = [network for network in networks if network.averaged]
    if len(networks) == 1 or (len(networks) == 2 and len(averaged) == 1):
        return (averaged or networks)[0]
    raise InputError(
        f"{path!r} holds {len(networks)} networks; say which one with prefix=, one of {names}."
    )


def _is_training_state(name: str, network: _Network) -> bool:
    """Whether it is a counter or a generator's state; Google's code writes these at the top."""
    at_top = network.scheme is tf1_names and "/" not in name
    return at_top or "seed_generator" in name or re.split(r"[./]", name)[-1] in _COUNTERS
