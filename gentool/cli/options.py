"""Options, commands and help screens, for click. The flags of a command are a frozen dataclass of
its arguments and its option groups; an option group is a frozen dataclass of options. What was not
given is None. The environment variable of a flag is GENTOOL_<OPTION> in every command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import cleandoc
from typing import Any, NamedTuple

import click

from gentool.cli.values import HIDDEN_NAMES, Value, bias, number, one_of, unescaped
from gentool.config.sampling import Parameter, Stage, parameters

Rows = Sequence[tuple[str, str]]


def option(
    names: str,
    metavar: str | None,
    help: str,
    default: str = "",
    type: Value | None = None,
    *,
    required: bool = False,
    multiple: bool = False,
    without: str | None = None,
) -> click.Option:
    """An option whose help line says `default`; without a metavar it is on, off or None. `without`
    is the value of an option that may be given without one."""
    kind: dict[str, Any] = {"is_flag": None if metavar else True}
    if without is not None:
        kind = {"is_flag": False, "flag_value": without}
    created = click.Option(
        names.split(),
        metavar=metavar,
        help=help,
        show_default=default,
        type=type,
        required=required,
        multiple=multiple,
        **kind,
    )
    if multiple or not metavar:
        created.default = () if multiple else None  # neither on nor off was given
    created.envvar = f"GENTOOL_{created.name}".upper()
    return created


def flag(
    names: str,
    metavar: str,
    help: str,
    default: str = "",
    type: Value | None = None,
    required: bool = False,
    without: str | None = None,
) -> Any:
    """A field of an option group: an option with a value."""
    return _field(option(names, metavar, help, default, type, required=required, without=without))


def switch(names: str, help: str, default: str = "") -> Any:
    """A field of an option group: on, off where the names have a slash, or None."""
    return _field(option(names, None, help, default))


def repeated(names: str, metavar: str, help: str, type: Value) -> Any:
    """A field of an option group: an option that may be given several times, a tuple."""
    return _field(option(names, metavar, help, type=type, multiple=True))


def _field(created: click.Option) -> Any:
    default = () if created.multiple else None
    return dataclasses.field(default=default, metadata={"option": created})


class OptionGroup(NamedTuple):
    """Options that stand together in the help screen, and what their values become."""

    heading: str
    options: Sequence[click.Option]
    build: Callable[..., Any]


def argument(name: str, metavar: str, required: bool = True) -> Any:
    """A field of a command's flags: what is typed without a flag."""
    created = click.Argument([name], required=required, metavar=metavar)
    return dataclasses.field(metadata={"argument": created})


def group(heading: str, record: type[Any], without: Sequence[str] = ()) -> Any:
    """A field of a command's flags: an option group."""
    fields = [field for field in dataclasses.fields(record) if field.name not in without]
    options = [field.metadata["option"] for field in fields]
    return dataclasses.field(metadata={"group": OptionGroup(heading, options, record)})


def sampling_group(
    heading: str,
    *stages: Stage,
    changed: Mapping[str, tuple[str, str]] | None = None,
    without: Sequence[str] = (),
) -> Any:
    """A field of a command's flags: the sampling parameters of these stages that were given, by
    name. `changed` has the line of help and the default of those that are different here."""
    chosen = [parameter for parameter in parameters() if parameter.flag.stage in stages]
    chosen = [parameter for parameter in chosen if parameter.name not in without]
    options = [
        sampling_option(parameter, *(changed or {}).get(parameter.name, ())) for parameter in chosen
    ]
    return dataclasses.field(metadata={"group": OptionGroup(heading, options, _given)})


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, ())}


def sampling_option(parameter: Parameter, help: str = "", default: str = "") -> click.Option:
    """The option of a sampling parameter; its type says how its text is read."""
    names, metavar, line, _ = parameter.flag
    if isinstance(parameter.default, tuple | dict):
        read = Value(unescaped if isinstance(parameter.default, tuple) else bias)
        return option(names, metavar, help or line, type=read, multiple=True)
    shown = f"{parameter.default:g}" if metavar else "off"
    type = number(parameter.type, *parameter.range) if metavar else None
    return option(names, metavar, help or line, default or f"the model's, else {shown}", type)


def _console_option(created: click.Option) -> click.Option:
    """An option that sets an attribute of the console before the others are read, so that errors
    heed it too."""

    def set_attribute(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.obj, str(param.name), value)

    created.is_eager, created.expose_value, created.callback = True, False, set_attribute
    return created


def _show_help(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj.write(ctx.get_help() + "\n")
        ctx.exit()


HELP = click.Option(
    ["-h", "--help"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_help,
    help="show this and exit",
)


GENERAL = (
    _console_option(option("-q --quiet", None, "print nothing but errors on stderr")),
    _console_option(option("-v --verbose", None, "print on stderr what is done, and how fast")),
    _console_option(
        option(
            "--color",
            "WHEN",
            "colour stderr: auto, always or never",
            "auto",
            one_of("auto", "always", "never"),
        )
    ),
    _console_option(option("--debug", None, "show the traceback of an error")),
    HELP,
)


class Command(click.Command):
    """A command whose help shows examples first, then its options under headings, then the rest
    of its docstring. `run` gets the console and `flags`, a dataclass of arguments and groups."""

    def __init__(
        self, run: Callable[[Any, Any], None], flags: type[Any], examples: str, name: str = ""
    ) -> None:
        summary, _, details = cleandoc(run.__doc__ or "").partition("\n\n")
        notes = {field.name: field.metadata for field in dataclasses.fields(flags)}
        self.arguments = {n: note["argument"] for n, note in notes.items() if "argument" in note}
        self.groups = {n: note["group"] for n, note in notes.items() if "group" in note}
        options = [option for group in self.groups.values() for option in group.options]
        super().__init__(
            name or run.__name__,
            params=[*self.arguments.values(), *options, *GENERAL],
            help=summary,
            epilog=details,
            add_help_option=False,
        )
        self.run, self.flags, self.examples = run, flags, examples

    def invoke(self, ctx: click.Context) -> None:
        with ctx.obj.log_as_notes():
            self.run(ctx.obj, self.read(ctx.params))

    def read(self, values: Mapping[str, Any]) -> Any:
        """The values of arguments and options as the flags of this command."""
        groups = {
            name: group.build(**{str(o.name): values[str(o.name)] for o in group.options})
            for name, group in self.groups.items()
        }
        return self.flags(**{name: values[name] for name in self.arguments}, **groups)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        tables: dict[str, Rows] = {}
        for group in (*self.groups.values(), OptionGroup("General", GENERAL, dict)):
            tables[group.heading] = [*tables.get(group.heading, []), *help_rows(group.options)]
        write_help(formatter, self.examples, tables)


class Group(click.Group):
    """A command with subcommands: a table from their names to their module and one line of help.
    Only the subcommand that runs is imported."""

    def __init__(
        self,
        name: str,
        help: str,
        examples: str,
        table: Mapping[str, tuple[str, str]],
        params: Sequence[click.Option],
        default: str = "",
    ) -> None:
        """`default` is the command that runs where none is named."""
        super().__init__(name, help=help, params=list(params), add_help_option=False)
        self.examples, self.table, self.default = examples, table, default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ([self.default] if self.default else []))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.table:
            return None
        module, attribute = self.table[name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, line) for name, (_, line) in self.table.items()]
        options = [param for param in self.params if isinstance(param, click.Option)]
        write_help(formatter, self.examples, {"Commands": commands, "Options": help_rows(options)})


def help_rows(options: Sequence[click.Option]) -> Rows:
    return [(_help_names(option), _help_line(option)) for option in options]


def write_help(formatter: click.HelpFormatter, examples: str, tables: Mapping[str, Rows]) -> None:
    """Examples as they are typed, then one line a row, all in one column."""
    with formatter.section("Examples"):
        for line in examples.strip().splitlines():
            formatter.write(f"  {line}\n")
    widest = max(len(name) for rows in tables.values() for name, _ in rows)
    for heading, rows in tables.items():
        with formatter.section(heading):
            for name, text in rows:
                formatter.write(f"  {name:{widest}}  {text}\n")


def _help_names(option: click.Option) -> str:
    shown = [name for name in option.opts if name not in HIDDEN_NAMES]
    if option.secondary_opts:
        shown = [name.replace("--", "--[no-]", 1) for name in shown]
    return ", ".join(shown) + (f" {option.metavar}" if option.metavar else "")


def _help_line(option: click.Option) -> str:
    """The help of an option with its facts: `[repeatable; default: 1; >= 1]`."""
    parts = [
        "repeatable" if option.multiple else "",
        f"default: {option.show_default}" if option.show_default else "",
        option.type.limits if isinstance(option.type, Value) else "",
    ]
    facts = "; ".join(filter(None, parts))
    return f"{option.help}  [{facts}]" if facts else str(option.help)
