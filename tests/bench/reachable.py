"""How long `gentool inspect --only reachable` takes for the head of a large model. The head is
random (normal rows of many lengths and a part in common) with some rows planted inside the hull of
the others, which linear programs must prove impossible.

    python tests/bench/reachable.py                     30,000 rows of 768, RMS norm
    python tests/bench/reachable.py --norm layer        layer norm with a shift
    python tests/bench/reachable.py --rows 150000 --width 2048 --inside 0

A line a phase: tokens decided so far, seconds since the start.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

from gentool.inspection import reachable
from gentool.inspection.output_layer import OutputLayer

SPREAD = 0.25  # of the logarithm of a row's length
COMMON = 0.5  # of a direction that all rows have in common
SHIFT = 0.2  # of a layer norm's shift, where its gain is 1
SHRINK = 0.05  # of the rows planted inside


def head(rows: int, width: int, inside: int, norm: str, seed: int) -> OutputLayer:
    """A random head; its last `inside` rows are near the mean row."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, width), np.float32)
    weight *= np.exp(SPREAD * rng.standard_normal((rows, 1), np.float32))
    weight[rows - inside :] *= SHRINK
    weight += COMMON * rng.standard_normal((1, width), np.float32)
    gain = np.exp(SPREAD * rng.standard_normal(width)).astype(np.float32).astype(np.float64)
    shift = SHIFT * rng.standard_normal(width) * (norm == "layer")
    return OutputLayer(weight, np.zeros(rows), gain, shift, norm, 1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=30000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--inside", type=int, default=3)
    parser.add_argument("--norm", choices=("rms", "layer"), default="rms")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    layer = head(options.rows, options.width, options.inside, options.norm, options.seed)
    start, last = time.perf_counter(), ("", 0, 0.0)

    def show(done: int, steps: int, left: float, phase: str) -> None:
        nonlocal last
        if last[0] and phase != last[0]:
            print(f"{last[0]:16}  {last[1]:7} tokens  {last[2]:7.1f} s", flush=True)
        last = phase, done, time.perf_counter() - start

    found = reachable.verdicts(reachable.proofs(layer, options.seconds, show), len(layer.weight))
    show(last[1], options.rows, 0.0, "")
    print(
        f"{options.rows} x {options.width}, {options.norm} norm, {os.cpu_count()} cores,"
        f" load {os.getloadavg()[0]:.1f}: {found.possible} possible,"
        f" {len(found.impossible)} impossible, {len(found.unknown)} unknown,"
        f" {time.perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    main()
