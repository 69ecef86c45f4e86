"""What TensorFlow's import is told, in processes that have not imported it."""

from __future__ import annotations

import subprocess
import sys


def said(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_keras_is_imported_on_demand_only() -> None:
    lines = said(
        "import sys\n"
        "from gentool.runtimes.xla import device\n"
        "device.setup()\n"
        "print('keras' in sys.modules)\n"
        "import tensorflow as tf\n"
        "print(tf.keras.layers.Dense(2)(tf.ones([1, 3])).shape)\n"
        "import keras.src.optimizers\n"
    )
    assert lines == ["False", "(1, 2)"]
