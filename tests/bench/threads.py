"""A step on one and on two threads: from which size on does a second thread help? The rule that
follows is in gentool/runtimes/litert/threads.py. Prints milliseconds, the lowest of three medians.

    python tests/bench/threads.py [MODEL …]
"""

from __future__ import annotations

import sys
import time

import numpy as np

import gentool
from gentool.decoding.engine import Engine
from gentool.runtimes.litert import threads

PROMPT, STEPS, TURNS = [1, 2, 3, 4, 5, 6], 40, 3


def step_ms(engine: Engine, rows: int) -> float:
    prefix, _ = engine.prefill(PROMPT)
    cache, times = None, []
    for step in range(STEPS):
        began = time.perf_counter()
        parents = np.arange(rows) if cache else np.full(rows, -1)
        tokens = np.full((rows, 1), 7 + step)
        cache, _ = engine.extend([prefix], cache, [0] * rows, parents, tokens, STEPS)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e3


def main(models: list[str]) -> None:
    threads.ROWS_ON_ONE.clear()  # the rule that is measured
    print("model precision rows one two")
    for name in models:
        for precision in ("fp32", "int8", "int4"):
            engines = [gentool.load(name, precision=precision, threads=n).engine for n in (1, 2)]
            for rows in (1, 4, 8, 32):
                turns = [[step_ms(engine, rows) for engine in engines] for _ in range(TURNS)]
                one, two = np.min(turns, axis=0)
                print(f"{name} {precision} {rows} {one:.2f} {two:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["tiny-zh"])
