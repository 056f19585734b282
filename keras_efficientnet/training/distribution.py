"""One run on several devices of a host, and on several hosts.

On one host TensorFlow's `MirroredStrategy` or, on the JAX backend, Keras' `DataParallel`
gives every device an equal part of each batch. Several hosts run one process each on the
JAX backend. The batch is always that of the whole run, and so are the schedule and the
progress bar: a run computes the same however many devices share the work, but for batch
normalization under `MirroredStrategy`, where each device normalizes by its own part of the
batch, as usual in Keras. On JAX it normalizes by the whole batch.
"""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import Any, TypeVar

import numpy as np

from keras_efficientnet.errors import InputError

Result = TypeVar("Result")

CONNECTED = "connected"

# A process that has not been heard of for so long is lost, and the run with it.
HEARTBEAT_SECONDS = 20
CONNECT_SECONDS = 120
# Processes that are done wait so long for the first one, which exports and checks.
SHUTDOWN_SECONDS = 24 * 3600
# What a checkpoint is sent in, so that it fits beside the model on a device.
PIECE_BYTES = 2**26

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:,/]+):(\d{1,5})")


def on_hosts(
    work: Callable[[], Result],
    hosts: str,
    process_id: int,
    *,
    connect_seconds: int = CONNECT_SECONDS,
) -> Result:
    """Calls a function on one of several hosts that train together, on the JAX backend.

    Every host calls this with the same work and addresses, and with its own number. The
    work is done in a child process, because JAX aborts a process whose partners are lost;
    nothing may have used JAX or TensorFlow before. Processes that finish early wait for the
    others.

    Args:
        work: such as `lambda: train("folder:photos")`; what it returns must be picklable.
        hosts: `HOST:PORT` of every process, with commas between. The others reach the
            first one there.
        process_id: this process' place among them, from 0.
        connect_seconds: how long to wait for the others at the start.

    Returns:
        What the work returned.

    Raises:
        InputError: if an address or `process_id` is wrong, JAX is missing or is not the
            backend, the others cannot be reached, or one of them is lost.
    """
    addresses = hosts.split(",")
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[2]) < 2**16:
            raise InputError(
                f"hosts={hosts!r} must be addresses such as 10.0.0.1:8476,10.0.0.2:8476; "
                f"{address!r} is none."
            )
    if not 0 <= process_id < len(addresses):
        raise InputError(
            f"process_id={process_id!r} must be from 0 to {len(addresses) - 1} with "
            f"{len(addresses)} hosts."
        )
    check_jax()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    message: Any = None
    connected = False
    with tempfile.TemporaryFile() as notes:
        child = context.Process(
            target=_child, args=(work, addresses, process_id, connect_seconds, sender, notes)
        )
        child.start()
        sender.close()
        try:
            message = receiver.recv()
            if connected := message == CONNECTED:
                message = receiver.recv()
            child.join()
        except EOFError:  # it died without a word
            child.join()
            notes.seek(0)
            if not connected:
                raise InputError(
                    f"Process {process_id} could not join the {len(addresses)} processes of the "
                    f"run; check that each is started with its own number, and that {addresses[0]} "
                    "is free on the first host and can be reached from the others."
                ) from None
            message = False, _cause_of_death(child.exitcode, notes.read())
        finally:
            child.kill()  # nothing where it has ended
    done, outcome = message
    if done:
        return outcome
    raise outcome


def _child(work, addresses, process_id, connect_seconds, sender, notes) -> None:
    """Sends that it is connected, does the work, sends `(True, result)` or `(False, error)`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Native code's notes, such as gloo's greeting and the stack trace of an abort, are for
    # neither users nor scripts that read the output.
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, os.fdopen(os.dup(number), "w", buffering=1))
        os.dup2(notes.fileno(), number)
    if sys.platform == "linux":
        # No thread pushes in when it wakes up, all threads to come included. Gloo's would, while a
        # computation sends, and would spin for the lock that the computation holds: for 4 ms on
        # a core that both share, twenty times what a sum takes.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        _connect(addresses, process_id, connect_seconds)
        sender.send(CONNECTED)
        try:
            result = work()
        except (InputError, OSError):
            raise
        except Exception:
            # A partner that is lost shows as any error, first. JAX then ends this process.
            time.sleep(1.5 * HEARTBEAT_SECONDS)
            raise
        import jax

        jax.distributed.shutdown()
        sender.send((True, result))
    except (InputError, OSError) as error:
        sender.send((False, error))
    except BaseException:
        traceback.print_exc()
        sender.send((False, SystemExit(1)))
    sys.stdout.flush()
    sys.stderr.flush()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    connection.wait([parent.sentinel])
    os._exit(1)


def _connect(addresses: list[str], process_id: int, seconds: int) -> None:
    """Joins the other processes."""
    import keras

    if keras.backend.backend() != "jax":
        raise InputError(
            f"Several hosts need the JAX backend, and Keras runs on {keras.backend.backend()}; "
            "set KERAS_BACKEND=jax."
        )
    import jax

    # CPUs have no collective operations but with this; other devices do not read it.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        # `keras.distribution.initialize` does this too, with JAX's slow heartbeat.
        jax.distributed.initialize(
            addresses[0],
            len(addresses),
            process_id,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except Exception:  # jaxlib's own types, where it does not abort
        os._exit(1)


def _cause_of_death(code: int | None, notes: bytes) -> BaseException:
    if code == -signal.SIGABRT and b"distributed service" in notes:
        return InputError(
            "Another process of the run was lost, and the run ends here; start all of them again "
            "with --resume to go on from the last checkpoint."
        )
    if code == -signal.SIGKILL:
        return InputError(
            "The training process was killed, perhaps for want of memory; start all processes "
            "again with --resume to go on from the last checkpoint."
        )
    sys.stderr.write(notes.decode(errors="replace"))
    return SystemExit(1)


def check_jax() -> None:
    """Refuses the JAX backend where JAX is not installed.

    Raises:
        InputError: if so.
    """
    if os.environ.get("KERAS_BACKEND") == "jax" and not importlib.util.find_spec("jax"):
        raise InputError(
            "The JAX backend needs JAX; run: pip install 'efficientnet-keras3[distributed]'."
        )


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
    if count is not None and not 1 <= count <= max(1, len(devices)):
        raise InputError(
            f"devices={count} must be from 1 to {max(1, len(devices))}, the number of devices "
            "that Keras sees."
        )
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
    """Returns the held-out images that this process evaluates.

    JAX cuts every batch into equal parts, so that up to one image less than there are
    devices is left out.

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
    first = same_for_all(settings)
    now = json.loads(json.dumps(settings))
    for name in {**first, **now}:
        if first.get(name) != now.get(name) and shard()[1] > 1:
            raise InputError(
                f"Process 0 has {name}={first.get(name)!r} and this one {now.get(name)!r}; start "
                "every process with the same options."
            )


def same_for_all(value: Any) -> Any:
    """Returns the first process' value, anything that JSON takes, in every process."""
    (_, state) = from_first(({}, {"value": value})) or ({}, {})
    return state.get("value")


def from_first(
    saved: tuple[dict[str, np.ndarray], dict[str, Any]] | None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Gives every process what the first one has, so that only its disk is needed.

    Args:
        saved: arrays by name and a state as JSON takes it, or None. Only the first
            process' is looked at.
    """
    if shard()[1] == 1:
        return saved
    content = io.BytesIO()
    if is_first() and saved:
        named: dict[str, Any] = {**saved[0], "state": np.array(json.dumps(saved[1]))}
        np.savez(content, **named)
    received = _broadcast(content.getvalue())
    if not received:
        return None
    with np.load(io.BytesIO(received), allow_pickle=False) as arrays:
        tensors = {name: arrays[name] for name in arrays.files}
    return tensors, json.loads(tensors.pop("state").item())


def _broadcast(content: bytes) -> bytes:
    """Sends bytes from the first process to all."""
    from jax.experimental import multihost_utils

    pieces = -(-len(content) // PIECE_BYTES)
    lengths = np.array([pieces, len(content) - (pieces - 1) * PIECE_BYTES], np.int32)
    pieces, last = np.asarray(multihost_utils.broadcast_one_to_all(lengths)).tolist()
    received = []
    for number in range(pieces):
        length = last if number + 1 == pieces else PIECE_BYTES
        piece = np.zeros(length, np.uint8)
        if is_first():
            start = number * PIECE_BYTES
            piece[:] = np.frombuffer(content, np.uint8, length, start)
        received.append(np.asarray(multihost_utils.broadcast_one_to_all(piece)).tobytes())
    return b"".join(received)
