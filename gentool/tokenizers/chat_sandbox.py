"""Runs a chat template in jinja2's sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gentool.errors import GentoolError, UsageError


class Refused(Exception):
    """A template called raise_exception."""


def run(template: str, variables: Mapping[str, Any]) -> str:
    """The text that a template makes of its variables."""
    try:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise GentoolError(
            "chat templates need jinja2, which is not installed", 'pip install "gentool[chat]"'
        ) from None

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    def refuse(message: str) -> None:
        raise Refused(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(**variables)
    except Refused as reason:
        raise UsageError(
            f"the chat template refuses these messages: {reason}", "change them"
        ) from None
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as e:
        raise UsageError(
            f"the chat template fails: {e}", "give --chat-template FILE|NAME"
        ) from None


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
