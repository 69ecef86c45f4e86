"""Accuracy on the held-out few-shot prompts of gentool.training.synthetic, by vote,
greedy and exact: ten pairs of numbers never added in training, orders and formats of capitals
never seen."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

import gentool
from gentool.generation.request import Request
from gentool.generation.session import Model
from gentool.training.synthetic import held_out_prompts
from gentool.voting.accuracy import Proportion, accuracy
from gentool.voting.answers import AnswerRule, answer
from gentool.voting.tally import Ballot

# the text of an answer, not what follows it: a full stop, a comma
RULE = AnswerRule(r"^[^。，；]*")
BALLOTS = [Ballot(300, rule=RULE), Ballot(1, greedy=True, rule=RULE), Ballot(exact=True, rule=RULE)]


def accuracies(
    model: Model, prompts: Sequence[tuple[str, str]]
) -> tuple[dict[str, Proportion], list]:
    """The accuracy of each way, and the wrong answers."""
    answers = {"stop": ("\n",), "max_tokens": 16}
    sampling = dataclasses.replace(model.config.sampling, **answers)
    texts = tuple(prompt for prompt, _ in prompts)
    request = Request(texts, tuple(range(len(texts))), 300, sampling, seed=1)
    pairs, wrong = defaultdict(list), []
    for tally in model.votes(request, BALLOTS):
        if tally.verdict == "running":
            continue
        prompt, label = prompts[tally.prompt]
        winner = tally.winner.answer if tally.winner else None
        pairs[tally.way].append((str(answer(label, AnswerRule())), winner))
        if winner != answer(label, AnswerRule()):
            wrong.append(f"{tally.way}: {prompt.splitlines()[-1]}{winner} ({label})")
    return {way: accuracy(of_way).all for way, of_way in pairs.items()}, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="tiny-zh")
    parser.add_argument("--precision", default="auto")
    flags = parser.parse_args()
    model = gentool.load(flags.model, precision=flags.precision)
    tasks = {
        "additions": held_out_prompts.held_out_addition_prompts(),
        "capitals": held_out_prompts.held_out_capital_prompts(),
    }
    for name, prompts in tasks.items():
        parts, wrong = accuracies(model, prompts)
        result = {"task": name, "wrong": wrong} | {way: asdict(p) for way, p in parts.items()}
        print(json.dumps(result, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
