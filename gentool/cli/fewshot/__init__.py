"""`gentool fewshot`: a few-shot prompt in, the answer that most samples give out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gentool.cli import flags as tables
from gentool.cli import options
from gentool.cli.console import Console
from gentool.cli.prompts import read, whole
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.voting.examples import FewShotPrompt

EXAMPLES = r"""
gentool fewshot prompt.txt
gentool fewshot prompt.txt --confidence 0.95 --require-certificate
gentool fewshot template.txt --input 大 --exact
gentool fewshot template.txt --data questions.csv --json -o answers.jsonl
"""


PROMPT = [
    options.option("--input", "TEXT", "put TEXT where the file has {input}"),
    options.option("--data", "FILE", "a vote for each row of a .jsonl, .csv or .tsv"),
    options.option(
        "--label", "COLUMN", "with --data: the right answers, if there are any", "label"
    ),
]

VOTE = [
    options.option("-n --n", "N", "samples of each prompt", "300", tables.COUNT),
    options.switch("--curtail/--no-curtail", "stop when the winner of all N is sure", "on"),
    options.option("--confidence", "P", "certify the answer, by up to N", "off", tables.CERTAIN),
    options.switch("--exact", "sum probabilities instead of drawing samples"),
    options.option("--budget", "N", "with --exact: prefixes to compute", "1000", tables.COUNT),
    options.switch("--require-certificate", "exit with 5 if the answer is not certain"),
    tables.STRATIFIED,
    options.option("--answer-regex", "REGEX", "an answer is its first group, or its match"),
    options.switch("--simplified", "compare answers in simplified characters"),
    options.switch("--explain", "how examples, left out or reordered, move the answer"),
]

LENGTH = [
    options.option("--max-tokens --max-new-tokens", "N", "longer is no answer", "32", tables.COUNT),
    tables.MIN_TOKENS,
    options.repeated(
        "--stop",
        "TEXT",
        r"ends an answer, in place of what parts the examples; \n \t … work",
        options.Value(options.unescaped),
    ),
]

OUTPUT = [
    options.switch("--json", "print one object with all that is known; with --data, one a row"),
    options.option("--plot", "FILE", "draw the vote, as .png or .svg"),
    options.option("-o --output", "FILE", "write the result to a file", "stdout"),
]


@dataclass(frozen=True)
class Flags:
    """What the command line and the environment said; None is nothing."""

    file: str
    input: str | None
    data: str | None
    label: str | None
    n: int | None
    curtail: bool | None
    confidence: float | None
    exact: bool | None
    budget: int | None
    require_certificate: bool | None
    stratified: bool | None
    answer_regex: str | None
    simplified: bool | None
    explain: bool | None
    model: str | None
    set: tuple[tuple[str, str], ...]
    precision: str | None
    xla: bool | None
    batch_invariant: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    logit_bias: tuple[tuple[int, float], ...]
    ban: tuple[str, ...]
    seed: int | None
    regex: str | None
    json_schema: str | None
    max_tokens: int | None
    min_tokens: int | None
    stop: tuple[str, ...]
    json: bool | None
    plot: str | None
    output: str | None


def fewshot(console: Console, flags: Flags) -> None:
    """Answers a few-shot prompt: what does the model say most often?

    FILE, or - for standard input, is a prompt as it is: examples, then the open question. What
    parts the examples ends an answer; --stop says otherwise, -v shows it. Answers are compared
    without regard to width, outer punctuation, and Chinese or Arabic numerals; the commonest
    spelling is printed. Those that do not end, or do not match, are counted but never win.

    A vote draws N samples, and stops when the rest cannot change the winner. --confidence stops as
    soon as the answer is certified to be the model's most probable one: the chance to certify a
    wrong one is at most 1 - P. --exact draws nothing: it sums the probability of every text until
    no other answer can have more. Ties: higher summed probability, then the lower sample.

    --data answers each row, filling {column} from its columns. Where there is a column of labels,
    the vote, the greedy and the exact answer are compared with it. With --json -o FILE, a run that
    was interrupted goes on where it stopped.
    """
    from gentool.cli.fewshot import rows
    from gentool.cli.fewshot import single as vote
    from gentool.config import lookup
    from gentool.voting import answers, tally

    template = whole(read(None, flags.file, to="fewshot"))
    check(flags)
    prompt = filled(template, flags)
    table = rows.read(template, flags) if flags.data else rows.Table([], labelled=False)
    prompt = next((row.prompt for row in table.rows if not row.problem), prompt)
    found = shots(prompt, flags)
    stop = flags.stop or ((found.stop,) if found else ())
    chosen = lookup.load(flags.model or tables.DEFAULT_MODEL, dict(flags.set))
    law = tables.sampling(chosen, replace(flags, max_tokens=flags.max_tokens or 32, stop=stop))
    law = law.model_copy(update={"include_stop": False})
    tables.check_grammars(flags)
    rule = answers.Rule(flags.answer_regex or "", bool(flags.simplified))
    answers.answer("1", rule)  # a wrong regex is told before a model is opened
    ballot = tally.Ballot(
        n=flags.n or 300,
        curtail=flags.curtail is not False,
        confidence=flags.confidence,
        exact=bool(flags.exact),
        budget=flags.budget or tally.BUDGET,
        rule=rule,
    )
    if law.temperature == 0 and ballot.n > 1 and not ballot.exact:
        raise UsageError(
            f"--temperature is 0, of {ballot.n} samples: every vote would be the same",
            "give a higher temperature, --n 1, or --exact",
        )
    if found:
        count = f"{len(found.examples)} example{'s' if len(found.examples) > 1 else ''}"
        ends = " or ".join(map(repr, stop))
        console.detail(f"{count}, separator {found.separator!r}; an answer ends before {ends}")
    setting = vote.Setting(chosen, law, ballot)
    if flags.data:
        rows.hold(console, flags, setting, template, table)
        return
    if flags.output not in (None, "-"):
        console.redirect(flags.output)
    vote.single(console, flags, setting, prompt, found)


def check(flags: Flags) -> None:
    """Flags that do not go together."""
    if flags.input is not None and flags.data:
        raise UsageError(f"both --input ('{flags.input}') and --data are given", "drop one")
    if flags.confidence is not None and flags.exact:
        raise UsageError("--confidence and --exact are two kinds of vote", "drop one")
    if flags.budget is not None and not (flags.exact or flags.data):
        raise UsageError(f"--budget is {flags.budget}, which is for --exact", "add --exact")
    if flags.stratified and flags.confidence is not None:
        raise UsageError(
            "--stratified samples depend on each other, so --confidence cannot be kept", "drop one"
        )
    if flags.require_certificate and flags.confidence is None and not flags.exact:
        raise UsageError(
            "--require-certificate, and nothing certifies", "add --confidence 0.95 or --exact"
        )
    for name in ("plot", "explain"):
        if flags.data and getattr(flags, name):
            raise UsageError(f"--{name} is for one vote, --data holds many", "drop one")
    if flags.label is not None and not flags.data:
        raise UsageError(f"--label is '{flags.label}', without --data", "add --data FILE")
    if flags.plot and not flags.plot.endswith((".png", ".svg")):
        raise UsageError(f"--plot is '{flags.plot}'", "end its name in .png or .svg")
    if flags.plot and not Path(flags.plot).parent.is_dir():  # said before a long vote, not after
        raise UsageError(f"--plot is '{flags.plot}', in no folder", "make the folder")


def named(flags: Flags) -> str:
    """The prompt file in words."""
    return "standard input" if flags.file == "-" else flags.file


def filled(template: str, flags: Flags) -> str:
    """The prompt of one vote; of --data, the template."""
    from gentool.voting import examples

    names = examples.placeholders(template)
    if flags.data and not names:
        raise UsageError(
            f"{named(flags)} has no {{input}} for the rows of {flags.data} to fill",
            "write {input}, or the name of another column, where a row's text goes",
        )
    if flags.data:
        return template
    if flags.input is not None:
        if "input" not in names:
            raise UsageError(
                f"--input is '{flags.input}', {named(flags)} has no {{input}}", "write it there"
            )
        return examples.fill(template, {"input": flags.input})
    if "input" in names:
        raise UsageError(
            f"{named(flags)} has {{input}}", "fill it with --input TEXT or --data FILE"
        )
    return template


def shots(prompt: str, flags: Flags) -> FewShotPrompt | None:
    """The examples of a prompt. Without any, nothing says what ends an answer."""
    from gentool.voting import examples

    found = examples.parse_few_shot(prompt)
    if found is None and not flags.stop:
        raise UsageError(
            f"{named(flags)} has no examples that end as its last line does",
            r"give an example a line, then the open question; or --stop '\n'",
        )
    if found is None and flags.explain:
        raise UsageError(f"--explain, and {named(flags)} has no examples", "drop it")
    return found


command = options.Command(
    fewshot,
    Flags,
    EXAMPLES,
    arguments=[click.Argument(["file"], metavar="FILE|-")],
    groups={
        "Prompt": PROMPT,
        "Vote": VOTE,
        "Model": tables.MODEL,
        "Sampling": [*tables.SAMPLING, *tables.GRAMMAR],
        "Length": LENGTH,
        "Output": OUTPUT,
        "General": tables.GENERAL,
    },
)
