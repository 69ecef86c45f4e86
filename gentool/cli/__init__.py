"""The program: a literal table of commands, each imported when it is called, and `main`, the only
place where an exception becomes two lines on stderr and an exit code.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from click import exceptions

from gentool import __version__
from gentool.cli.console import Console
from gentool.cli.options import HELP, Group
from gentool.cli.signals import end_quietly
from gentool.cli.values import given_name
from gentool.errors import Exit, GentoolError, UsageError, nearest, slip

COMMANDS = {
    "complete": ("gentool.cli.complete:command", "continue a prompt"),
    "fewshot": ("gentool.cli.fewshot:command", "answer a few-shot prompt by vote"),
    "chat": ("gentool.cli.chat:command", "converse through the model's chat template"),
    "score": ("gentool.cli.score:command", "log-probability and perplexity of a text"),
    "choose": ("gentool.cli.choose:command", "probability of each given continuation"),
    "batch": ("gentool.cli.batch:command", "answer a file of prompts, a row each"),
    "models": ("gentool.cli.models:command", "list, show, add, remove or verify models"),
    "convert": ("gentool.cli.convert:command", "write a model as a folder that opens at once"),
    "inspect": ("gentool.cli.inspect:command", "what a model is, from its files"),
    "bench": ("gentool.cli.bench:command", "how fast a model is here"),
    "finetune": ("gentool.cli.finetune:command", "adapt a model to your own texts"),
    "train": ("gentool.cli.train:command", "train a model from nothing"),
}

EXAMPLES = r"""
gentool complete "今天天气不错"
cat questions.txt | gentool complete - --lines --max-tokens 40 --stop '\n'
gentool fewshot prompt.txt --n 300
gentool complete --help
"""

EPILOG = """\
Every option can be set in the environment, --top-k as GENTOOL_TOP_K.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 model missing or corrupt, 4 some lines
failed, 5 undecided, 130 interrupted, 141 broken pipe, 143 terminated.
"""


class Program(Group):
    """Ends its help with what holds for every command."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        formatter.write("\n" + EPILOG)


def _show_version(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value:
        ctx.obj.write(f"gentool {__version__}\n")
        ctx.exit()


VERSION = click.Option(
    ["--version"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="show the version and exit",
)

program = Program(
    "gentool", "Chinese-first text generation on TensorFlow.", EXAMPLES, COMMANDS, [VERSION, HELP]
)


def main() -> int:
    """Runs the command line of this process; returns its exit code."""
    console = Console()
    console.signals.listen()
    try:
        with program.make_context("gentool", sys.argv[1:], obj=console) as context:
            program.invoke(context)
        console.close()
        return Exit.OK
    except exceptions.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        return Exit.BROKEN_PIPE
    except BaseException as failure:
        end_quietly()
        console.end_line()
        received = console.signals.received
        return received[0] if received else _explain(failure, console)
    finally:
        end_quietly()
        console.release()


def _explain(failure: BaseException, console: Console) -> int:
    """Says what went wrong and what to do; returns the exit code."""
    if isinstance(failure, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(failure, SystemExit):
        return failure.code if isinstance(failure.code, int) else Exit.RUNTIME
    if isinstance(failure, exceptions.NoArgsIsHelpError):
        command = failure.ctx.command_path if failure.ctx else "gentool"
        hint = 'try gentool complete "今天天气不错" or gentool --help'
        failure = UsageError(
            "no command", hint if command == "gentool" else f"see {command} --help"
        )
    if isinstance(failure, exceptions.UsageError):
        failure = _usage(failure)
    if is_out_of_memory(failure):
        from gentool.runtimes.memory import NotEnoughMemory

        sized = isinstance(failure, NotEnoughMemory) or str(failure).startswith("TensorFlow needs")
        needed = str(failure) if sized else ""
        failure = GentoolError(
            needed or "there is not enough memory", "ask for less, or close other programs"
        )
    if isinstance(failure, GentoolError):
        console.error(failure.message, failure.hint)
    else:
        first = str(failure).strip().partition("\n")[0]
        console.error(
            f"{type(failure).__name__}: {first}",
            "run again with --debug for the traceback, and please report it",
        )
    if console.debug:
        console.traceback(failure)
    return failure.exit_code if isinstance(failure, GentoolError) else Exit.RUNTIME


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether memory ran out: said by Python, by a C++ library or by TensorFlow."""
    words = ("bad_alloc", "Cannot allocate memory", "OOM when allocating", "failed to map segment")
    named = isinstance(failure, MemoryError) or type(failure).__name__ == "ResourceExhaustedError"
    return named or (
        not isinstance(failure, GentoolError) and any(w in str(failure) for w in words)
    )


def _usage(failure: exceptions.UsageError) -> UsageError:
    """click's own errors in our words."""
    command = failure.ctx.command_path if failure.ctx else "gentool"
    hint = f"see {command} --help"
    match failure:
        case exceptions.NoSuchOption(option_name=name, possibilities=options):
            if close := slip(name, options or ()):
                hint = f"did you mean {close}?"
            elif command == "gentool":
                hint += "; options go after the name of the command"
            else:
                hint += "; put -- before a prompt that begins with a dash"
            return UsageError(f"no option {name}", hint)
        case exceptions.NoSuchCommand(command_name=name):
            group = failure.ctx.command if failure.ctx else program
            known = group.table if isinstance(group, Group) else COMMANDS
            if known is COMMANDS and not name.isascii():
                hint = f'to continue a text: gentool complete "{name}"'
                return UsageError(f"no command {name}", hint)
            return UsageError(f"no command {name}", nearest(name, known, "commands"))
        case exceptions.MissingParameter(param=param):
            return UsageError(f"{given_name(param, failure.ctx)} is missing", hint)
        case exceptions.BadParameter(param=param):  # a switch in the environment
            what = failure.message.partition(".")[0]
            return UsageError(f"{given_name(param, failure.ctx)}: {what}", "give 1 or 0")
        case exceptions.BadOptionUsage(option_name=name):
            return UsageError(f"{name} needs a value", hint)
    params = failure.ctx.command.params if failure.ctx else []
    takes_text = any(isinstance(param, click.Argument) for param in params)
    more = "text with blanks needs quotes" if takes_text else "a model goes after -m"
    return UsageError(failure.message, f"{hint}; {more}")
