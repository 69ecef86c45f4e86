"""The only code that touches process-wide TensorFlow state: what must be set before its first
import, and the silence during it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO


def setup() -> None:
    """Imports TensorFlow quietly. Its C++ log writes to file descriptor 2 before any Python
    setting reaches it, so that descriptor is set aside meanwhile; a failed import shows it."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_aside():
        import tensorflow as tf

        tf.config.list_physical_devices()  # starts the runtime, whose chatter belongs in here too
    tf.get_logger().setLevel("ERROR")


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


def describe() -> str:
    """The device a model runs on, in words."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return f"{len(gpus)} GPU" if gpus else f"CPU, {os.cpu_count()} cores"
