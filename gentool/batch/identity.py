"""Which model computes: the hash of its numbers and files."""

from __future__ import annotations

import hashlib
import json
import platform

from gentool import cache, registry
from gentool.config.model import ModelConfig
from gentool.runtimes.litert.identity import recorded_sha256


def model_sum(config: ModelConfig) -> str:
    """The SHA-256 of a model's numbers, tokenizer and weights; each file is read once, until it
    changes."""
    numbers = config.model_dump(mode="json", exclude={"folder", "name", "sampling", "sha256"})
    files = [recorded_sha256(path) for path in registry.model_files(config)]
    return hashlib.sha256(json.dumps([numbers, files], sort_keys=True).encode()).hexdigest()


def processor() -> str:
    """The name of this processor: on another, sums may be rounded in another way."""
    lines = cache.processor().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
