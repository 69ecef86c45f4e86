"""Greedy accuracy on the held-out few-shot prompts of gentool.training.synthetic: ten pairs of
numbers never added in training, orders and formats of capitals never seen."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import gentool
from gentool.session import Model
from gentool.training import synthetic

STOPS = ["\n", "。", "，"]  # what follows an answer


def accuracy(model: Model, prompts: Sequence[tuple[str, str]]) -> tuple[int, list[str]]:
    """How many answers are right, and what was said instead of the others."""
    right, wrong = 0, []
    for prompt, answer in prompts:
        said = model.complete(prompt, temperature=0, max_tokens=12, stop=STOPS)[0].text.strip()
        if said == answer:
            right += 1
        else:
            wrong.append(f"{prompt.splitlines()[-1]} {said} ({answer})")
    return right, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny-zh")
    model = gentool.load(parser.parse_args().model)
    tasks = {
        "additions": synthetic.held_out_addition_prompts(),
        "capitals": synthetic.held_out_capital_prompts(),
    }
    for name, prompts in tasks.items():
        right, wrong = accuracy(model, prompts)
        print(
            json.dumps(
                {"task": name, "right": right, "of": len(prompts), "wrong": wrong},
                ensure_ascii=False,
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
