"""What this machine can run a model on, without importing a runtime."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

NVIDIA = Path("/dev/nvidiactl")  # exists where a driver is loaded


def has_gpu() -> bool:
    """Whether TensorFlow finds a GPU, which it is asked only where a driver is loaded."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not NVIDIA.exists():
        return False
    from gentool.runtimes.xla import device

    device.setup()
    return device.kind() == "GPU"


def has_litert() -> bool:
    """Whether LiteRT is installed."""
    return find_spec("ai_edge_litert") is not None
