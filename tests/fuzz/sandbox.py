"""Runs of gentool in forked children with limits of time and memory, and the law that each is held
to. A crash of a native library ends the child, not the fuzzer.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, NamedTuple

SECONDS = 20.0  # of the processor, that a run may take; then it gets SIGTERM
GRACE = 5.0  # seconds of the processor in which a run that got SIGTERM ends
PATIENCE = 4  # times as long on the clock, on a machine that has other work
MEMORY = 3 << 30  # bytes of address space beside what the fuzzer has
FILE_BYTES = 1 << 30  # of a file that a run writes
SHOWN = 400  # characters of a stream in a report

# a usage error that any tokenizer can make of a prompt
ABOUT_PROMPT = re.compile(r"^error: the (prompt|text) (has|is) ", re.MULTILINE)

# modules whose import takes most of a run; none of them starts a thread
WARM = """gentool.cli gentool.cli.complete gentool.cli.fewshot gentool.cli.score gentool.cli.choose
gentool.cli.models gentool.cli.convert gentool.cli.bench gentool.cli.train gentool.convert
gentool.generation.opening gentool.generation.search gentool.training.recipe
gentool.runtimes.litert.runtime gentool.tokenizers.huggingface gentool.tokenizers.cpm
gentool.tokenizers.sentencepiece gentool.tokenizers.wordpiece gentool.checkpoints.safetensors
gentool.checkpoints.shards gentool.checkpoints.megatron gentool.checkpoints.tf_bundle
gentool.checkpoints.torch_file gentool.models.gpt2 gentool.models.llama gentool.registry
ai_edge_litert.compiled_model ai_edge_litert.environment rich.console rich.text jieba
gentool.cli.fewshot.single gentool.cli.fewshot.rows llguidance"""


class Outcome(NamedTuple):
    """How a run ended; `code` is negative for a signal."""

    code: int
    out: bytes
    err: str
    seconds: float
    asked: bool  # to end, by SIGTERM, since its time was over


def warm() -> None:
    """Imports what runs import, so that a fork has it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in WARM.split():
            import_module(module)


def run(
    body: Callable[[], int],
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    folder: Path = Path("/"),
) -> Outcome:
    """What `body`, which gives an exit code, does in a child of its own, in a `folder`."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
        given.write(stdin)
        given.seek(0)
        with tempfile.TemporaryFile() as err:
            begin = time.monotonic()
            pid = os.fork()
            if not pid:
                _child(body, (given, out, err), env or {}, seconds, folder)
            code, asked = _wait(pid, seconds)
            seconds = time.monotonic() - begin
            out.seek(0)
            err.seek(0)
            return Outcome(code, out.read(), err.read().decode("utf-8", "replace"), seconds, asked)


def gentool(*arguments: str) -> Callable[[], int]:
    """The program itself, as `body` of a run."""

    def body() -> int:
        from gentool import __main__

        sys.argv = ["gentool", *arguments]
        return __main__.main()

    return body


def _child(
    body: Callable[[], int],
    streams: tuple[BinaryIO, BinaryIO, BinaryIO],
    env: Mapping[str, str],
    seconds: float,
    folder: Path,
) -> None:
    """Never returns."""
    code = 97
    try:
        os.chdir(folder)  # a random argument may be the name of what is written
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(number, mode, closefd=False), write_through=mode == "w")
            for number, mode in enumerate("rww")
        )
        for name in [name for name in os.environ if name.startswith("GENTOOL_")]:
            del os.environ[name]
        os.environ.update(env)
        os.setsid()
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, used + MEMORY)
        _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, int(4 * (seconds + GRACE)))
        atexit._clear()  # the fuzzer's own
        code = int(body())
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        with contextlib.suppress(Exception):
            traceback.print_exc()
        code = 98
    finally:
        os._exit(code)


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


def _wait(pid: int, seconds: float) -> tuple[int, bool]:
    """The exit code of a child, and whether it had to be asked to end: after so much time of the
    processor, or where it computes nothing, after `PATIENCE` times as long."""
    asked, end = 0, time.monotonic() + PATIENCE * seconds
    handle = os.pidfd_open(pid)
    try:
        while not select.select([handle], [], [], 0.2)[0]:
            used, now = _processor_seconds(pid), time.monotonic()
            if used > seconds or now > end:
                os.kill(pid, signal.SIGKILL if asked else signal.SIGTERM)
                asked, seconds, end = asked + 1, used + GRACE, now + PATIENCE * GRACE
    finally:
        os.close(handle)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), asked > 0


def _processor_seconds(pid: int) -> float:
    """What a child has used of the processors."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def problem(
    outcome: Outcome, codes: tuple[int, ...], slow: bool = False, debug: bool = False
) -> str:
    """What an outcome does that it may not, or nothing. `slow`: the run was asked for much, and may
    be ended by SIGTERM; `debug`: it may show a traceback."""
    code, _, err, _, asked = outcome
    lines = err.rstrip("\n").split("\n") if err else []
    if asked and code == -signal.SIGKILL:
        return f"hangs, and SIGTERM does not end it within {GRACE:.0f} s"
    if asked and not slow:
        return f"takes more than {SECONDS:.0f} s"
    if asked and code in (143, -signal.SIGTERM):
        return ""
    if code < 0:
        return f"is ended by {signal.Signals(-code).name}"
    if code not in codes and not (code == 2 and ABOUT_PROMPT.search(err)):
        return f"exits with {code}"
    if "please report it" in err or "panicked" in err:
        return "prints an error that is not its own"
    if debug:
        return ""
    if "Traceback" in err or "Warning:" in err:
        return "prints a traceback or a warning of a library"
    if code in (1, 2, 3):
        starts = [line.partition(" ")[0] for line in lines]
        if starts[-2:] != ["error:", "hint:"] or starts.count("error:") != 1:
            return "does not end in an error and a hint"
        if max(map(len, lines)) > 4000:
            return "prints an error of more than 4000 characters"
    known = ("error:", "hint:", "warning:", "note:", "gentool:")
    strange = [line for line in lines if not line.startswith(known)]
    if code == 3 and strange:
        return f"prints {strange[0][:80]!r}"
    return ""


def shown(outcome: Outcome) -> str:
    """An outcome in a few lines, for a report."""
    return (
        f"exit {outcome.code} after {outcome.seconds:.1f} s\n"
        f"stdout: {outcome.out[:SHOWN]!r}\nstderr:\n{outcome.err[: 4 * SHOWN]}"
    )
