"""The processes of peers.py: a peer's tasks and its command, their time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from peers_report import Round
from peers_runner import COMMAND_TOKENS, SHORT, THREADS, character, prompt

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / ".runs/peers"
PEERS_PYTHON = HERE.parents[1] / ".venv-peers/bin/python"
GENTOOL = "gentool"
POLL_SECONDS = 0.02


class PeerFile(NamedTuple):
    """A peer's script, what it reads, and the precisions it is measured in."""

    script: str
    format: str
    precisions: tuple[str, ...]


PEERS = {
    GENTOOL: PeerFile("peers_gentool.py", "hf-16", ("fp32", "bf16", "int8", "int4")),
    "llama.cpp": PeerFile("peers_llama_cpp.py", "gguf", ("fp32", "fp16", "bf16", "int8", "int4")),
    "CTranslate2": PeerFile("peers_ctranslate2.py", "ct2", ("fp32", "int8")),
    "transformers": PeerFile("peers_transformers.py", "hf", ("fp32", "fp16", "bf16")),
    "KerasHub": PeerFile("peers_keras_hub.py", "hf", ("fp32", "fp16", "bf16")),
}


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def environment() -> dict[str, str]:
    """Two threads, and caches of our own, which are removed with the weights."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS))
    return os.environ | threads | {"XDG_CACHE_HOME": str(RUNS / "cache")}


def python_of(peer: str) -> str:
    return sys.executable if peer == GENTOOL else str(PEERS_PYTHON)


def first_to_die() -> None:
    """In the process of a peer: the kernel ends it, not others, when memory runs out."""
    Path("/proc/self/oom_score_adj").write_text("1000")


class Memory:
    """The peaks of a process's anonymous and mapped memory since `take`, in bytes."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._peaks = {"RssAnon": 0, "RssFile": 0}
        self._stopped = threading.Event()
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            try:
                lines = self._status.read_text().splitlines()
            except OSError:  # it has ended
                return
            for line in lines:
                name, _, value = line.partition(":")
                if name in self._peaks:
                    size = int(value.split()[0]) * 1024
                    self._peaks[name] = max(self._peaks[name], size)

    def take(self) -> dict[str, float]:
        peaks, self._peaks = self._peaks, {"RssAnon": 0, "RssFile": 0}
        return {"anonymous": float(peaks["RssAnon"]), "mapped": float(peaks["RssFile"])}

    def stop(self) -> None:
        self._stopped.set()


def run_tasks(peer: str, job: Round, limit: float) -> Round:
    """The results of a peer's process; `failed` says why there are no more."""
    results: Round = {}
    errors: list[str] = []
    with subprocess.Popen(
        [python_of(peer), str(HERE / PEERS[peer].script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=first_to_die,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        stderr, memory = process.stderr, Memory(process.pid)
        killer = threading.Timer(limit, process.kill)
        reader = threading.Thread(target=lambda: errors.append(stderr.read()))
        killer.start()
        reader.start()
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(job))
        for line in process.stdout:
            fields = json.loads(line)
            suffix = "_samples" if "samples" in fields else ""
            for name, size in memory.take().items():
                key = f"{name}{suffix}"
                results[key] = max(size, results.get(key, 0.0))
            results |= fields
        status = process.wait()
        late = not killer.is_alive()
        killer.cancel()
        memory.stop()
        reader.join()
    if late:
        return results | {"failed": f"stopped after {limit:g} s"}
    if "unsupported" in results:
        return {"failed": results["unsupported"]}
    if status:
        return results | {"failed": f"status {status}: {last_line(''.join(errors))}"}
    return results


def run_command(peer: str, job: Round, limit: float) -> Round:
    """Seconds from the start of a peer's smallest program, on a terminal, to its first character,
    to its end, and between its last character and its end."""
    if peer == GENTOOL:
        text = "".join(map(character, prompt(SHORT, job["n_vocab"], job["seed"])))
        options = ["--max-tokens", str(COMMAND_TOKENS), "--temperature", "0"]
        model = ["-m", job["weights"], "--precision", job["precision"], "--threads", str(THREADS)]
        command = [python_of(peer), "-m", "gentool", "complete", text, *model, *options]
    else:
        script = str(HERE / PEERS[peer].script)
        command = [python_of(peer), script, "--command", json.dumps(job)]
    master, slave = pty.openpty()
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=environment(),
        preexec_fn=first_to_die,
    ) as process:
        os.close(slave)
        killer = threading.Timer(limit, process.kill)
        killer.start()
        first = last = 0.0
        try:
            while os.read(master, 65536):
                last = time.perf_counter()
                first = first or last
        except OSError:  # the other end of the terminal is closed
            pass
        status = process.wait()
        end = time.perf_counter()
        killer.cancel()
    os.close(master)
    if status or not first:
        return {"failed": f"its command gives status {status}"}
    return {"first_character": first - start, "command": end - start, "exit": end - last}


def beside(run: Callable[[], Round]) -> Round:
    """The results of `run`, and the share of the machine that `others` took meanwhile."""
    start, before = time.monotonic(), busy() - own()
    results = run()
    available = (time.monotonic() - start) * (os.cpu_count() or 1)
    return results | {"others": max(0.0, busy() - own() - before) / available}


def busy() -> float:
    """Seconds that the processors have worked for anyone."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").open().readline().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Seconds that they have worked for peers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
