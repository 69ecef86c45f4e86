"""A checkpoint of CPM-LM's shape (2.6 billion parameters, float16, two ranks, random), and what
opening it costs: seconds from `load()` to first logits, and memory against the size of its files.

    python tests/bench/large.py make FOLDER        5.2 GB
    gentool convert FOLDER CONVERTED --set arch.n_head=32
    python tests/bench/large.py measure FOLDER CONVERTED
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from torch_writer import write_zip

LAYERS, WIDTH, VOCABULARY, CONTEXT, RANKS = 32, 2560, 30000, 1024, 2
SHOWN = ("VmHWM", "RssAnon", "RssFile")  # of /proc/self/status

IN_A_PROCESS = """
import json, sys, time
import gentool
start = time.perf_counter()
model = gentool.load(sys.argv[1], precision=sys.argv[2])
loaded = time.perf_counter()
logits = model.logits(list(range(100, 116)))
first = time.perf_counter()
steps = model.complete(list(range(100, 116)), temperature=0, max_tokens=5, eos=None)
start_steps = time.perf_counter()
steps = model.complete(list(range(100, 116)), temperature=0, max_tokens=5, eos=None)
step = (time.perf_counter() - start_steps) / 5
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
memory = {key: int(status[key].split()[0]) * 1024 for key in json.loads(sys.argv[3])}
print(json.dumps({"load": loaded - start, "logits": first - start, "step": step, **memory}))
"""


def shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of one rank."""
    tensors: dict[str, tuple[int, ...]] = {
        "word_embeddings.weight": (VOCABULARY // RANKS, WIDTH),
        "position_embeddings.weight": (CONTEXT, WIDTH),
    }
    part = WIDTH // RANKS
    for i in range(LAYERS):
        layer = f"transformer.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors |= {f"{layer}{norm}.weight": (WIDTH,), f"{layer}{norm}.bias": (WIDTH,)}
        for name, out, into in (
            ("attention.query_key_value", 3 * part, WIDTH),
            ("attention.dense", WIDTH, part),
            ("mlp.dense_h_to_4h", 4 * part, WIDTH),
            ("mlp.dense_4h_to_h", WIDTH, 4 * part),
        ):
            tensors |= {f"{layer}{name}.weight": (out, into), f"{layer}{name}.bias": (out,)}
    ends = ("transformer.final_layernorm.weight", "transformer.final_layernorm.bias")
    return tensors | dict.fromkeys(ends, (WIDTH,))


def make(folder: Path) -> None:
    """The directory of a checkpoint as CPM-LM was published."""
    inner = folder / "80000"
    inner.mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("80000\n")
    for rank in range(RANKS):
        rng = np.random.default_rng(rank)
        module = {}
        for name, shape in shapes().items():
            values = rng.standard_normal(shape, np.float32) * 0.02
            module[name] = (values + ("norm.weight" in name)).astype(np.float16)
        write_zip(inner / f"mp_rank_{rank:02}_model_states.pt", {"module": module})


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def measure(path: Path, precision: str) -> dict[str, float]:
    command = [sys.executable, "-c", IN_A_PROCESS, str(path), precision, json.dumps(SHOWN)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("do", choices=["make", "measure"])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--precision", nargs="+", default=["fp16", "fp32", "bf16"])
    options = parser.parse_args()
    if options.do == "make":
        make(options.folders[0])
        return
    for folder in options.folders:
        for path in folder.rglob("*"):  # warm pages
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(1 << 24):
                        pass
        for precision in options.precision:
            figures = measure(folder, precision)
            ratio = figures["VmHWM"] / size(folder)
            print(
                f"{folder} {precision}: load {figures['load']:.2f} s, first logits"
                f" {figures['logits']:.2f} s, step {figures['step']:.2f} s, peak"
                f" {figures['VmHWM'] / 1e9:.2f} GB = {ratio:.2f} x files; now anonymous"
                f" {figures['RssAnon'] / 1e9:.2f}, of files {figures['RssFile'] / 1e9:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
