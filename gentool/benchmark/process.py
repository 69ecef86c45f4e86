"""Cold starts: how long a fresh process takes to its first character."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from gentool.benchmark.measure import Measurement, Result, repeated, result, skipped
from gentool.config.model import ModelConfig
from gentool.errors import GentoolError

PROMPT = "今天天气不错"
SEED = 1


def cold_start(
    config: ModelConfig, options: Sequence[str], repeat: int
) -> Measurement[list[Result]]:
    """Seconds from the start of `gentool complete` to its first character, and from the start of
    Python to the end of `import tensorflow` (with Keras, which gentool does not import). The two
    alternate, so that both meet the same load. The exit of a process does not count."""
    if config.tokenizer is None:
        return skipped("cold_start", "s", f"{config.name} has no tokenizer")
    complete = ["-m", "gentool", "complete", PROMPT, "--max-tokens", "1", "--seed", str(SEED)]
    imports = ["-c", "import tensorflow; print(flush=True)"]

    def pair() -> tuple[float, float]:
        return first_character([*complete, *options]), first_character(imports)

    try:
        pairs = yield from repeated("cold start", repeat, pair)
    except GentoolError as e:
        return skipped("cold_start", "s", e.message)
    return [
        result("cold_start", "s", [command for command, _ in pairs]),
        result("import_tensorflow", "s", [imported for _, imported in pairs]),
        result("cold_start_ratio", "x", [command / imported for command, imported in pairs]),
    ]


def first_character(arguments: Sequence[str]) -> float:
    """Seconds from the start of Python to the first byte on its stdout.

    Raises GentoolError if the process fails or prints nothing.
    """
    # `arguments` already contains what GENTOOL_ variables set
    env = {key: value for key, value in os.environ.items() if not key.startswith("GENTOOL_")}
    with tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
        ) as process:
            try:
                assert process.stdout
                first = process.stdout.read(1)
                duration = time.perf_counter() - start
                process.stdout.read()
            except BaseException:
                process.kill()
                raise
        if process.returncode or not first:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").splitlines() or ["no message"]
            errors = [line for line in lines if line.startswith("error: ")]
            reason = errors[0].removeprefix("error: ") if errors else lines[-1]
            raise GentoolError(
                f"a fresh process failed: {reason}", "run gentool complete to see its messages"
            )
    return duration
