"""The only code that touches process-wide TensorFlow state: settings that must precede the first
import, and the redirection of stderr during it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from gentool import cache
from gentool.runtimes import memory
from gentool.stderr import redirected_stderr

CACHE_FLAG = "--tf_xla_persistent_cache_directory"

MIN_ADDRESS_SPACE = 4_000_000_000  # bytes: most of it is never touched
FLAG_VARIABLES = ("TF_XLA_FLAGS", "XLA_FLAGS")

LOG = logging.getLogger(__name__)
_program_folders: list[Path] = []  # that TensorFlow was given; at most one


def setup() -> None:
    """Imports TensorFlow without its log, and sets the folder for compiled programs. The C++ log
    writes to file descriptor 2 before any Python setting reaches it, so that descriptor is
    redirected meanwhile; a failed import prints what was written. TensorFlow ends the process where
    it does not know a flag of the user's."""
    if "tensorflow" in sys.modules:
        return
    _check_address_space()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    given = _given()
    _set_program_cache()
    end = functools.partial(_ended, given) if given else None
    with redirected_stderr(show=True, at_exit=end), _without_keras():
        import tensorflow as tf

        if given:  # their flags are read when the first program is compiled
            tf.function(tf.identity, jit_compile=True, autograph=False)(tf.constant(0))
        for gpu in tf.config.list_physical_devices("GPU"):  # starts the GPU runtime, which logs too
            tf.config.experimental.set_memory_growth(gpu, True)  # share it with other programs
    tf.get_logger().setLevel("ERROR")


def _check_address_space() -> None:
    """Raises MemoryError where TensorFlow would end in a segmentation fault at the limit of this
    process (ulimit -v)."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        needed, given = MIN_ADDRESS_SPACE / 1e9, limit / 1e9
        raise MemoryError(
            f"TensorFlow needs {needed:.0f} GB of address space, the limit is {given:.1f}"
        )


def _given() -> list[str]:
    """The variables in which the user gave flags of TensorFlow, other than the cache's folder."""
    flags = {name: os.environ.get(name, "").split() for name in FLAG_VARIABLES}
    return [n for n, words in flags.items() if any(not w.startswith(CACHE_FLAG) for w in words)]


def _ended(given: list[str], last: str) -> str:
    """The error where TensorFlow ended the process with this line of its log."""
    reason = last.rpartition("] ")[2][:200] or "TensorFlow ended"
    return f"error: {reason}\nhint: correct {' and '.join(given)}, or unset it\n"


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
        _program_folders.append(path)


def remove_programs() -> bool:
    """Removes the compiled programs that TensorFlow was given, after one of them failed; whether
    there were any."""
    removed = [path for path in _program_folders if cache.remove_programs(path)]
    for path in removed:
        LOG.warning("a compiled program in %s could not be used: all are compiled anew", path)
    return bool(removed)


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
    return memory.free_bytes()


def describe() -> str:
    """The device that a model runs on, as a phrase."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"CPU, {os.cpu_count()} cores"
