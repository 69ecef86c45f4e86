"""What --lookup N gains where a text copies, and costs where it does not: seconds with and without
it, in turns, and how far apart they are. Prints a line a task. tiny-zh copies no lines by itself:
there its logits are raised for the next token of the copy, as a model's would be that can.

    python tests/bench/lookup.py [-m MODEL] [--lookup 8] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gentool
from gentool.decoding.engine import Engine, Rows
from gentool.generation.request import Sample, Sampled

LINES = (
    "小红昨天去图书馆还书\n爷爷每天早上在院子里浇花\n那只黑猫跳上了屋顶\n"
    "今天下午王老师带我们参观了工厂\n妈妈在厨房里做饭\n"
)
PATTERN = "春天来了，花开了，鸟儿在树上唱歌，孩子们在草地上跑来跑去。"  # 21 tokens of tiny-zh

TASKS = {  # prompt, temperature, tokens, what the text has to be
    "a 200-token pattern goes on": (PATTERN * 10, 0.0, 100, None),
    "lines are extracted": (LINES + "抄写：\n", 0.0, 60, LINES * 2),
    "a story, greedy": ("从前有一个小村庄，", 0.0, 200, None),
    "a story, drawn": ("从前有一个小村庄，", 1.0, 200, None),
    "other lines are written": (LINES + "改写：\n", 1.0, 100, None),
    "weather, drawn": ("今天天气不错", 1.0, 100, None),
}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def copying(engine: Engine, ids: Sequence[int]) -> Callable[..., Any]:
    """`engine.extend` of a model that writes these ids."""
    extend = engine.extend

    def extend_and_raise(*inputs: Any, **named: Any) -> tuple[Rows, np.ndarray]:
        rows, logits = extend(*inputs, **named)
        steps = logits.shape[1]
        after = int(rows.length[0]) - steps + 1 + np.arange(steps)
        raised = logits.copy()
        raised[0, np.arange(steps), np.take(ids, after, mode="wrap")] += 1000
        return rows, raised

    return extend_and_raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny-zh")
    parser.add_argument("--precision")
    parser.add_argument("--lookup", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = gentool.load(options.model, precision=options.precision)
    for title, (prompt, temperature, max_tokens, text) in TASKS.items():
        sampling = {"temperature": temperature, "max_tokens": max_tokens, "seed": 1}
        if text:
            model.engine.extend = copying(model.engine, model.tokenizer.encode(text))

        def complete(
            lookup: int, prompt: str = prompt, sampling: dict[str, Any] = sampling
        ) -> Sample:
            search = Sampled(False, lookup)
            (sample,) = model.complete(prompt, eos=None, search=search, **sampling)
            return sample

        plain, drafted = complete(0), complete(options.lookup)
        tokens = len(plain.ids)
        times = [
            (seconds(lambda: complete(0)), seconds(lambda: complete(options.lookup)))
            for _ in range(options.rounds)
        ]
        gains = [without / within for without, within in times]
        without, within = map(statistics.median, zip(*times, strict=True))
        print(
            f"{title}: {without / tokens * 1e3:.2f} ms a token, with drafts"
            f" {within / tokens * 1e3:.2f}, {statistics.median(gains):.2f}x"
            f"{'' if plain.ids == drafted.ids else ', another text'}",
            flush=True,
        )
        vars(model.engine).pop("extend", None)


if __name__ == "__main__":
    main()
