"""One vote of `gentool fewshot`: shown while it grows, and its result."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from gentool.cli.console import Console
from gentool.cli.fewshot import report
from gentool.cli.fewshot.config import Output, UndecidedError, VoteConfig
from gentool.errors import GentoolError

if TYPE_CHECKING:
    from gentool.generation.request import Request
    from gentool.generation.session import Model
    from gentool.voting.examples import FewShotPrompt
    from gentool.voting.tally import Answer, Ballot, Tally

EXPLAIN_BUDGET = 200  # prefixes that --explain computes of each prompt
EXPLAIN_WITHIN = 0.01  # and how much of the probability it may leave unseen before
NO_ANSWER = "raise --max-tokens, or give the --stop that ends an answer"
LOOK = "; gentool complete shows what the model writes"


def vote(
    console: Console, config: VoteConfig, output: Output, few_shot: FewShotPrompt | None
) -> None:
    """Holds the vote and prints its result."""
    from gentool.voting import plot

    if output.plot:
        plot.check()
    model = config.open_model(console)
    request = config.request
    console.overwrite()
    console.detail(f"{model.describe()}, seed {request.seed}")
    tally, interrupted = watch(console, model.votes(request, [config.ballot]))
    if tally is None:
        raise KeyboardInterrupt
    verdict = report.verdict(tally)
    failed = tally.winner is None and not interrupted  # the error below says it
    console.board(report.board(tally, "" if failed else verdict))
    changes: list[report.Change] = []
    if output.explain and few_shot and tally.winner and not interrupted:
        changes = explain(model, request, few_shot, config.ballot, tally.winner)
        console.board(report.explained(changes, tally.winner.text))
    if output.json:
        console.write(json.dumps(record(config, model, tally, changes), ensure_ascii=False) + "\n")
    if interrupted:
        raise KeyboardInterrupt
    if tally.winner and not output.json:
        console.write(tally.winner.text + "\n")
    if output.plot and (drawn := plot.save(tally, verdict, output.plot)) != output.plot:
        console.note(f"no font here has every character of {output.plot}: drawn as {drawn}")
    if tally.winner is None:
        other = ", or change --answer-regex" if config.ballot.rule.regex else ""
        raise GentoolError(verdict, NO_ANSWER + other + LOOK)
    if output.require_certificate and not tally.certain:
        raise UndecidedError("the answer is not certain", f"raise {config.limit_flag}")


def record(
    config: VoteConfig, model: Model, tally: Tally, changes: list[report.Change]
) -> dict[str, object]:
    """The vote as JSON has it."""
    request = config.request
    keys = {
        "prompt": request.prompts[0],
        "model": config.model.name,
        "precision": model.precision,
        "law": asdict(request.sampling),
    }
    explained = {"explain": [change._asdict() for change in changes]} if changes else {}
    return {**keys, **report.record(tally), **explained}


def explain(
    model: Model, request: Request, few_shot: FewShotPrompt, ballot: Ballot, winner: Answer
) -> list[report.Change]:
    """How probable the winner is, without each example and in other orders, all in one run."""
    from gentool.voting.variants import variants

    changed = variants(few_shot, request.seed)
    prompts = (request.prompts[0], *(variant.prompt for variant in changed))
    request = replace(request, prompts=prompts, rows=tuple(range(len(prompts))))
    ballot = replace(
        ballot, exact=True, confidence=None, budget=EXPLAIN_BUDGET, within=EXPLAIN_WITHIN
    )
    last = {tally.prompt: tally for tally in model.votes(request, [ballot])}
    names = ["as it is", *(variant.name for variant in changed)]
    return [
        report.Change(name, *last[index].mass(winner.answer)) for index, name in enumerate(names)
    ]


def watch(console: Console, tallies: Iterator[Tally]) -> tuple[Tally | None, bool]:
    """The last tally of a vote, shown while it grows; and whether Ctrl-C ended it."""
    tally, began = None, time.monotonic()
    try:
        with console.live() as show:
            for tally in tallies:
                footer = report.progress(tally, time.monotonic() - began)
                show(report.board(tally, footer))
    except BaseException as failure:
        if not console.signals.interrupted(failure):
            raise
        return tally, True
    return tally, False
