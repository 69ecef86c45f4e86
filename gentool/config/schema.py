"""YAML files as frozen data of a closed set of keys. An unknown key, a wrong type or an impossible
number is an error that names key and value.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from gentool.errors import GentoolError, UsageError, nearest

# what the YAML library raises for files that are none: tags whose content does not fit included
NOT_YAML = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)


MAX_BYTES = 1 << 20  # of a file that is read
MAX_DEPTH = 100  # collections in each other
MAX_DIGITS = 100  # characters of a number


class Strict(BaseModel):
    """Frozen data with a closed set of keys; a number is never read from a string."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# libyaml reads a file 20 times as fast where the library was built with it
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """YAML's plain types, but 1e-5 is a number, 1:40 is text (not 100), and a key given twice and
    merge keys (which can make a file of 300 bytes take minutes) are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                problem = f"{key.value} is given twice" if key.value in seen else ""
                problem = "the key << is not understood" if key.value == "<<" else problem
                if problem:
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} characters", node.start_mark
            )
        number: int = super().construct_yaml_int(node)
        return number


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("+-0123456789")
)
BASE_60 = re.compile(r"[-+]?[\d_]+(:[0-5]?\d)+(\.[\d_]*)?$")
for _resolvers in map(_Loader.yaml_implicit_resolvers.__getitem__, "+-0123456789"):
    _resolvers.insert(0, ("tag:yaml.org,2002:str", BASE_60))


def from_yaml(text: str) -> Any:
    """What a YAML text says. Its nesting is measured first, without recursion: libyaml follows any,
    and ends the process."""
    depth = 0
    for event in yaml.parse(text, _SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise yaml.constructor.ConstructorError(
                problem=f"more than {MAX_DEPTH} collections in each other"
            )
    return yaml.load(text, _Loader)


class _Dumper(yaml.SafeDumper):
    """Quotes what `from_yaml` would read as a number, as the name 1e5."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        odd = any(c in data for c in "\x85\u2028\u2029")  # read as newlines unless escaped
        return self.represent_scalar("tag:yaml.org,2002:str", data, '"' if odd else None)


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
_Dumper.add_representer(str, _Dumper.represent_str)


def to_yaml(data: Mapping[str, Any], flow: bool | None) -> str:
    """`data` as `from_yaml` reads it; `flow` None puts the innermost collections on one line."""
    return yaml.dump(
        dict(data),
        Dumper=_Dumper,
        default_flow_style=flow,
        allow_unicode=True,
        sort_keys=False,
        width=100,
    )


def read_yaml(path: Path, error: type[GentoolError] = UsageError) -> dict[str, Any]:
    """The mapping in a YAML file, read safely."""
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size > MAX_BYTES or not (path.is_file() or not path.exists()):
            raise error(f"{path} is no YAML file ({size} bytes)", "name a model's own")
        data = from_yaml(path.read_text("utf-8"))
    except OSError as e:
        raise error(
            f"cannot read {path}: {e.strerror}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError as e:
        raise error(f"{path} is not UTF-8 (byte {e.start})", "save the file as UTF-8") from None
    except NOT_YAML as e:
        mark = getattr(e, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise error(
            f"{path}{where} is not YAML: {getattr(e, 'problem', e)}", "check indent and quotes"
        ) from None
    if not isinstance(data, dict):
        raise error(
            f"{path} holds {type(data).__name__}, not a mapping", "write `key: value` lines"
        )
    return data


Schema = TypeVar("Schema")  # a Strict, or a dataclass that tells pydantic its limits
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def parse(
    schema: type[Schema],
    data: Mapping[str, Any],
    source: str,
    error: type[GentoolError] = UsageError,
    overrides: Collection[str] = (),
) -> Schema:
    """`data` as a `schema`; the first thing wrong with it is an error naming key and value.
    `overrides` are the dotted keys that came from --set and not from `source`."""
    try:
        return TypeAdapter(schema).validate_python(data)
    except ValidationError as failure:
        # a misspelt key is also a missing one: say that it is misspelt
        first = min(failure.errors(), key=lambda e: e["type"] not in UNKNOWN)
    key = ".".join(str(part) for part in first["loc"])
    for name in overrides:
        if f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}."):
            source, error = f"{source} with --set {name}", UsageError
    reason = first["msg"].replace("Input should be", "it should be").replace("valid tuple", "list")
    match first["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            known = _keys_at(schema, first["loc"][:-1])
            hint = nearest(str(first["loc"][-1]), known, "known keys")
            raise error(f"{source}: unknown key {key}", hint)
        case "missing":
            raise error(
                f"{source}: {key} is missing", f"add {key}: …, or give it with --set {key}=…"
            )
        case "value_error":
            what = ": ".join(filter(None, [source, key, str(first["ctx"]["error"])]))
            raise error(what, "change one of them")
        case "literal_error":
            reason = nearest(
                _SHORT.repr(first["input"]).strip("'"), re.findall("'(.+?)'", reason), key
            )
    raise error(f"{source}: {key} is {_SHORT.repr(first['input'])}", reason)


_SHORT = reprlib.Repr()  # a few bytes of YAML can hold a billion values
_SHORT.maxstring = 80
_SHORT.maxlevel = 2


def _keys_at(schema: Any, path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where `path` leads from `schema`."""
    for part in path:
        inner = schema.model_fields[str(part)].annotation
        options = [inner, *getattr(inner, "__args__", ())]
        schema = next(o for o in options if hasattr(o, "model_fields") or is_dataclass(o))
    keys = fields(schema) if is_dataclass(schema) else ()
    return [key.name for key in keys] or list(schema.model_fields)
