"""The only code that touches process-wide TensorFlow state: what must be set before its first
import, and the silence during it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, Literal

from gentool import cache

CACHE_FLAG = "--tf_xla_persistent_cache_directory"

LOG = logging.getLogger(__name__)


def setup() -> None:
    """Imports TensorFlow quietly, told where to keep the programs it compiles. Its C++ log writes
    to file descriptor 2 before any Python setting reaches it, so that descriptor is set aside
    meanwhile; a failed import shows it."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    _keep_programs()
    with _stderr_aside(), _keras_later():
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):  # starts the runtime: its chatter, too
            tf.config.experimental.set_memory_growth(gpu, True)  # others may run there
    tf.get_logger().setLevel("ERROR")


def _keep_programs() -> None:
    """Has XLA look for compiled programs in gentool's cache folder, unless the user said where."""
    said = os.environ.get("TF_XLA_FLAGS", "")
    if CACHE_FLAG in said or (said and not said.startswith("--")):  # the latter names a file
        return
    path, problem = cache.programs()
    if problem:
        LOG.warning("%s", problem)
    if path and " " not in str(path):  # where TensorFlow would end the flag
        os.environ["TF_XLA_FLAGS"] = f"{said} {CACHE_FLAG}={path}".strip()
        atexit.register(cache.record, path)


@contextlib.contextmanager
def _keras_later() -> Iterator[None]:
    """Nothing here needs Keras, all of which `import tensorflow` imports at its end, where it goes
    on without if it must: a quarter of the time. Who imports it later gets it; while this lasts,
    nobody does, in no thread."""
    eager = "keras.src.optimizers"
    if eager in sys.modules:
        yield
        return
    sys.modules[eager] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[eager]


@contextlib.contextmanager
def _stderr_aside() -> Iterator[None]:
    """File descriptor 2 into a file for a while; what it said is shown only if the block fails."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed: nothing to set aside
        yield
        return
    try:
        aside: BinaryIO = tempfile.TemporaryFile()
    except OSError:  # no folder may be written
        aside = open(os.devnull, "w+b")
    with aside:
        sys.stderr.flush()
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except Exception:
            aside.seek(0)
            os.write(kept, aside.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def kind() -> Literal["CPU", "GPU"]:
    """What a model runs on."""
    import tensorflow as tf

    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def describe() -> str:
    """The device a model runs on, in words."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"CPU, {os.cpu_count()} cores"
