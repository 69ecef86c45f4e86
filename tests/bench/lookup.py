"""What --lookup N gains where a text copies, and costs where it does not: seconds with and without
it, in turns, and how far apart they are. Prints a line a task.

    python tests/bench/lookup.py [-m MODEL] [--lookup 8] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import gentool
from gentool.request import Draw

LINES = (
    "小红昨天去图书馆还书\n爷爷每天早上在院子里浇花\n那只黑猫跳上了屋顶\n"
    "今天下午王老师带我们参观了工厂\n妈妈在厨房里做饭\n"
)
PATTERN = "春天来了，花开了，鸟儿在树上唱歌，孩子们在草地上跑来跑去。"  # 21 tokens of tiny-zh

TASKS = {  # prompt, temperature, tokens
    "a 200-token pattern goes on": (PATTERN * 10, 0.0, 100),
    "lines are extracted": (LINES + LINES + "小红昨天", 0.0, 40),
    "a story, greedy": ("从前有一个小村庄，", 0.0, 200),
    "a story, drawn": ("从前有一个小村庄，", 1.0, 200),
    "news, drawn": ("今天天气不错", 1.0, 100),
}


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny-zh")
    parser.add_argument("--precision")
    parser.add_argument("--lookup", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    model = gentool.load(given.model, precision=given.precision)
    for title, (prompt, temperature, tokens) in TASKS.items():

        def once(
            lookup: int, prompt: str = prompt, temperature: float = temperature, most: int = tokens
        ) -> str:
            (done,) = model.complete(
                prompt,
                temperature=temperature,
                max_tokens=most,
                eos=None,
                seed=1,
                search=Draw(False, lookup),
            )
            return done.text

        same = once(0) == once(given.lookup)
        took = [
            (seconds(lambda: once(0)), seconds(lambda: once(given.lookup)))
            for _ in range(given.rounds)
        ]
        gains = [without / within for without, within in took]
        without, within = map(statistics.median, zip(*took, strict=True))
        print(
            f"{title}: {without / tokens * 1e3:.2f} ms a token, with drafts"
            f" {within / tokens * 1e3:.2f}, {statistics.median(gains):.2f}x"
            f"{'' if same else ', another text'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
