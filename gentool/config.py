"""A model's YAML file as one frozen `ModelConfig`, checked before TensorFlow is imported: an unknown
key, a wrong type, an impossible number or a missing file is an error naming key and value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gentool.errors import GentoolError, UsageError, nearest

Positive = Annotated[int, Field(gt=0)]


class Strict(BaseModel):
    """Frozen data with a closed set of keys; a number is never read from a string."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Arch(Strict):
    """The numbers of an architecture. A different structure is a different family, not a switch."""

    n_layer: Positive
    n_head: Positive
    n_kv_head: Positive
    d_model: Positive
    d_head: Positive
    d_ff: Positive
    n_vocab: Positive
    n_ctx: Positive
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rope_theta: Annotated[float, Field(gt=0)] = 10000.0
    tied_head: bool = True

    @model_validator(mode="after")
    def _heads(self) -> Arch:
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}"
            )
        if self.d_head % 2:
            raise ValueError(f"d_head {self.d_head} is odd, rotary positions need pairs")
        return self


Schema = TypeVar("Schema", bound=BaseModel)


def read_yaml(path: Path, error: type[GentoolError] = UsageError) -> dict[str, Any]:
    """The mapping in a YAML file, read safely."""
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as e:
        raise error(
            f"cannot read {path}: {e.strerror}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError as e:
        raise error(f"{path} is not UTF-8 (byte {e.start})", "save the file as UTF-8") from None
    except yaml.YAMLError as e:
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


def parse(
    schema: type[Schema], data: dict[str, Any], source: str, error: type[GentoolError] = UsageError
) -> Schema:
    """`data` as a `schema`; the first thing wrong with it is an error naming key and value."""
    try:
        return schema.model_validate(data)
    except ValidationError as failure:
        first = failure.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(schema, first["loc"][:-1])
        raise error(
            f"{source}: unknown key {key}", nearest(str(first["loc"][-1]), known, "known keys")
        )
    if first["type"] == "missing":
        raise error(f"{source}: {key} is missing", f"add {key}: …")
    reason = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], dict) else f" {first['input']!r}"
    raise error(f"{source}: {key}{value}: {reason}".replace(": :", ":"), "correct that value")


def _keys_at(schema: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where `path` leads from `schema`."""
    for part in path:
        inner = schema.model_fields[str(part)].annotation
        options = [inner, *getattr(inner, "__args__", ())]
        schema = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(schema.model_fields)
