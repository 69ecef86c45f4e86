"""The only code that touches process-wide TensorFlow state: settings that must precede the first
import, and the redirection of stderr during it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gentool import cache
from gentool.runtimes.stderr import redirected_stderr

CACHE_FLAG = "--tf_xla_persistent_cache_directory"

LOG = logging.getLogger(__name__)


def setup() -> None:
    """Imports TensorFlow without its log, and sets the folder for compiled programs. The C++ log
    writes to file descriptor 2 before any Python setting reaches it, so that descriptor is
    redirected meanwhile; a failed import prints what was written."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _set_program_cache()
    with redirected_stderr(), _without_keras():
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):  # starts the GPU runtime, which logs too
            tf.config.experimental.set_memory_growth(gpu, True)  # share it with other programs
    tf.get_logger().setLevel("ERROR")


def _set_program_cache() -> None:
    """Has XLA keep compiled programs in gentool's cache folder, unless the user set another."""
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if CACHE_FLAG in flags or (flags and not flags.startswith("--")):  # the latter is a file name
        return
    path, problem = cache.programs()
    if problem:
        LOG.warning("%s", problem)
    if path and " " not in str(path):  # TensorFlow ends a flag at a blank
        os.environ["TF_XLA_FLAGS"] = f"{flags} {CACHE_FLAG}={path}".strip()
        atexit.register(cache.record, path)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Makes the import of Keras fail, in all threads, while TensorFlow is imported. Its last step
    is to import all of Keras, which takes a quarter of the time, gentool does not need, and may
    fail. A later import of Keras succeeds."""
    module = "keras.src.optimizers"
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


def kind() -> Literal["CPU", "GPU"]:
    """The kind of device that a model runs on."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def free_memory() -> int | None:
    """Bytes that are free on the device that a model runs on; None where nobody says."""
    if kind() == "GPU":
        from tensorflow.python.client import device_lib

        devices = device_lib.list_local_devices()
        return next((int(d.memory_limit) for d in devices if d.device_type == "GPU"), None)
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:  # not on Linux
        return None
    sizes = dict(line.split(":") for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def describe() -> str:
    """The device that a model runs on, as a phrase."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"CPU, {os.cpu_count()} cores"
