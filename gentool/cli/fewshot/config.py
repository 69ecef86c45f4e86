"""What a vote of `gentool fewshot` is held with, and where its result goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.flags import open_model
from gentool.errors import Exit, GentoolError

if TYPE_CHECKING:
    from gentool.cli.console import Console
    from gentool.config.model import ModelConfig
    from gentool.generation.request import Request
    from gentool.generation.session import Model
    from gentool.voting.tally import Ballot


class VoteConfig(NamedTuple):
    """A vote on the prompts of `request`; the model as it is to be opened."""

    model: ModelConfig
    precision: str | None
    xla: bool | None
    threads: int | None
    request: Request
    ballot: Ballot

    def open_model(self, console: Console) -> Model:
        """Opens the model."""
        return open_model(console, self.model, self.precision, self.xla, self.threads)

    @property
    def limit_flag(self) -> str:
        """The flag that lets an open vote go on."""
        return "--budget" if self.ballot.exact else "--n"


class Output(NamedTuple):
    """What is printed, and where; `path` None is standard output. With `compare` labelled rows
    also get their greedy and their exact answer."""

    json: bool
    path: str | None
    plot: Path | None
    explain: bool
    require_certificate: bool
    compare: bool = False


class UndecidedError(GentoolError):
    """A vote that has to be certain is not."""

    exit_code = Exit.UNDECIDED
