"""One of several processes, on as many hosts, that train together on the JAX backend.

JAX connects the processes (`jax.distributed`) and aborts all of them where one is lost. Here the
work is done in a child process, so that its parent can say in a sentence what happened.
"""

import importlib.util
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from typing import Any, TypeVar

from keras_efficientnet.errors import InputError, RunError, require

Result = TypeVar("Result")

CONNECTED = "connected"

# A process without a heartbeat for so long is lost, and the run with it.
HEARTBEAT_SECONDS = 20
# Processes that are done wait so long for the first one, which exports the model.
SHUTDOWN_SECONDS = 24 * 3600

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:,/]+):\d{1,5}")
_RESUME = "start all processes again with --resume to go on from the last checkpoint."


def on_hosts(
    work: Callable[[], Result],
    hosts: str,
    process_id: int,
    *,
    connect_seconds: int = 120,
) -> Result:
    """Calls a function on one of several hosts that train together, on the JAX backend.

    Every host calls this with the same work and addresses, and with its own number. The
    work is done in a forked child process; nothing may have used JAX or TensorFlow before.
    Processes that finish early wait for the others.

    Args:
        work: such as `lambda: train("folder:photos")`; what it returns must be picklable.
        hosts: `HOST:PORT` of every process, with commas between. The first one's address
            must be reachable from the others.
        process_id: this process' place among them, from 0.
        connect_seconds: how long to wait for the others at the start.

    Returns:
        What the work returned.

    Raises:
        InputError: if an address or `process_id` is wrong, or JAX is missing or is not the
            backend.
        RunError: if the other processes cannot be reached, or one of them is lost.
    """
    addresses = hosts.split(",")
    valid = all(_ADDRESS.fullmatch(address) for address in addresses)
    require(valid, "hosts", hosts, "addresses such as 10.0.0.1:8476,10.0.0.2:8476")
    last = len(addresses) - 1
    require(
        0 <= process_id <= last, "process_id", process_id, f"from 0 to {last}, one of the hosts"
    )
    check_jax()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    messages: list[Any] = []
    with tempfile.TemporaryFile() as notes:
        child = context.Process(
            target=_child, args=(work, addresses, process_id, connect_seconds, sender, notes)
        )
        child.start()
        sender.close()
        try:
            while True:
                messages.append(receiver.recv())
        except EOFError:
            child.join()
        finally:
            child.kill()  # does nothing to one that has ended
        if not messages:
            raise RunError(
                f"Process {process_id} could not join the {len(addresses)} processes of the "
                f"run; check that each is started with its own number, and that {addresses[0]} "
                "is free on the first host and can be reached from the others."
            )
        if messages[-1] == CONNECTED:
            notes.seek(0)
            raise _cause_of_death(child.exitcode, notes.read())
    done, outcome = messages[-1]
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
        # A batch process preempts no other when it wakes up, nor do its threads. Gloo's would do
        # so while a computation sends, and spin for the lock that the computation has: for 4 ms
        # on a core that both share, twenty times as long as a sum takes.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        _connect(addresses, process_id, connect_seconds)
        sender.send(CONNECTED)
        try:
            result = work()
        except (InputError, RunError, OSError):
            raise
        except Exception:
            # The loss of another process first shows as any error. JAX then ends this process.
            time.sleep(1.5 * HEARTBEAT_SECONDS)
            raise
        import jax

        jax.distributed.shutdown()
        sender.send((True, result))
    except (InputError, RunError, OSError) as error:
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

    try:
        # `keras.distribution.initialize` has no arguments for the times.
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
        return RunError(f"Another process of the run was lost, and the run ends here; {_RESUME}")
    if code == -signal.SIGKILL:
        return RunError(
            f"The training process was killed, perhaps because memory ran out; {_RESUME}"
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
