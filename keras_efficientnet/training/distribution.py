"""One run on several devices of a host, and on several hosts.

On one host TensorFlow's `MirroredStrategy` or, on the JAX backend, Keras' `DataParallel`
gives every device an equal part of each batch. Several hosts run one process each on the
JAX backend (`hosts`). The batch is always that of the whole run, and so are the schedule and the
progress bar: a run computes the same on any number of devices, but for batch
normalization under `MirroredStrategy`, where each device normalizes by its own part of the
batch, as usual in Keras. On JAX it normalizes by the whole batch.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_efficientnet.errors import InputError, require


@contextlib.contextmanager
def over_devices(count: int | None = None) -> Iterator[None]:
    """Spreads what is built and trained inside over several devices.

    Args:
        count: devices of this host: its GPUs, or its logical CPUs where it has none. None
            for all GPUs, or all devices of all hosts.

    Raises:
        InputError: if there are not so many devices.
    """
    import keras

    if keras.backend.backend() == "jax":
        with _over_jax_devices(count):
            yield
        return
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU")
    if count and not devices:
        devices = tf.config.list_logical_devices("CPU")
    names = _first_devices([device.name for device in devices], count)
    if len(names) < 2 or tf.distribute.has_strategy():
        yield
        return
    with tf.distribute.MirroredStrategy(names).scope():
        yield


def _over_jax_devices(count: int | None):
    import jax
    import keras

    if count and jax.process_count() > 1:
        raise InputError(
            f"devices={count} goes with one host; on several, each uses the devices it sees."
        )
    devices = _first_devices(keras.distribution.list_devices(), count)
    if len(devices) < 2:
        return contextlib.nullcontext()
    # Every process makes its own part of each batch.
    return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope()


def _first_devices(devices: list[str], count: int | None) -> list[str]:
    most = max(1, len(devices))
    valid = count is None or 1 <= count <= most
    require(valid, "devices", count, f"from 1 to {most}, the number of devices that Keras sees")
    return devices[:count]


def device_count() -> int:
    """Returns the number of devices, on all hosts, that share each batch here."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution: Any = keras.distribution.distribution()
    return distribution.num_model_replicas if distribution else 1


def devices_here() -> int:
    """Returns the number of those on this host."""
    return device_count() // shard()[1]


def shard() -> tuple[int, int]:
    """Returns this process' number and how many processes the run has."""
    import keras

    if keras.backend.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that reads checkpoints and writes files."""
    return shard()[0] == 0


def leave_devices_to_jax() -> None:
    """Keeps TensorFlow, which reads the images, off the devices that JAX trains on."""
    import keras

    if keras.backend.backend() == "jax":
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def share_of_held_out(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the held-out images that this process evaluates, and their labels.

    JAX cuts every batch into equal parts, so the last images are left out, fewer than there
    are devices.

    Raises:
        InputError: if there are fewer images than devices.
    """
    index, processes = shard()
    devices = device_count()
    if processes == 1 and devices == 1:
        return images, labels
    count = len(images) // devices * devices
    if not count:
        raise InputError(f"{len(images)} held-out images are too few for {devices} devices.")
    return images[index:count:processes], labels[index:count:processes]


def check_same(settings: dict[str, Any]) -> None:
    """Compares the settings of all processes.

    Raises:
        InputError: if the first process has others.
    """
    if shard()[1] == 1:
        return
    first, now = same_for_all(settings), json.loads(json.dumps(settings))
    for name in {**first, **now}:
        if first.get(name) != now.get(name):
            raise InputError(
                f"Process 0 has {name}={first.get(name)!r} and this one {now.get(name)!r}; start "
                "every process with the same options."
            )


def same_for_all(value: Any) -> Any:
    """Returns the first process' value, anything that JSON takes, in every process."""
    if shard()[1] == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(_from_first(np.array(len(content), np.int32)))
    return json.loads(_from_first(content if is_first() else np.zeros(length, np.uint8)).tobytes())


def from_first(
    saved: tuple[dict[str, np.ndarray], dict[str, Any]] | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Returns the first process' checkpoint in every process, so that only its disk is needed.

    Args:
        saved: arrays by name and a state as JSON takes it, or None. Only the first
            process' is used.
    """
    if shard()[1] == 1:
        return saved
    tensors, state = saved or ({}, None)
    layout = {name: (array.dtype.name, array.shape) for name, array in tensors.items()}
    state, layout = same_for_all((state, layout))
    if state is None:
        return None
    if not is_first():
        tensors = {name: np.zeros(shape, dtype) for name, (dtype, shape) in layout.items()}
    # JAX would make 32-bit numbers of 64-bit ones, but leaves bytes alone.
    content = {name: array.reshape(-1).view(np.uint8) for name, array in tensors.items()}
    received = _from_first(content)
    return {
        name: received[name].view(dtype).reshape(shape) for name, (dtype, shape) in layout.items()
    }, state


def _from_first(arrays: Any) -> Any:
    """Returns the first process' arrays, which have the same shapes in all processes."""
    import jax
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(arrays))
