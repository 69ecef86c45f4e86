"""The rows of a batch on a Ray cluster: blocks of lines to workers, each of which has the model
open, and their answers back. Files stay with the driver.

Ray's own ActorPool does not take an actor back that has died, and waits for one that has no place;
so a block of a worker that is lost goes to the next free one, and a new worker joins when there is
room for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gentool.batch.answers import Origin
from gentool.batch.identity import model_sum, processor
from gentool.batch.lines import Line
from gentool.batch.local import compute_block
from gentool.batch.tasks import Settings
from gentool.config.model import ModelConfig
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from gentool.generation.session import Model

LOCAL = "local"  # the address of a cluster that is started for this run
CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.1  # between two looks at signals
MAX_LOST = 3  # times that a block may lose its worker


class Opening(NamedTuple):
    """How each worker opens the model: its files have to be at the same paths on every node."""

    config: ModelConfig
    sha256: str
    precision: str | None
    xla: bool | None
    threads: int | None


class Workers(NamedTuple):
    """The cluster's address, the number of workers (None: one a node), and a worker's GPUs."""

    address: str
    number: int | None
    gpus: float


class Worker:
    """An actor: a process with the model."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._model: Model | None = None

    def open(self) -> str:
        """Opens the model; gives what it runs on."""
        from gentool.generation import opening

        config, sha256, precision, xla, threads = self._opening
        if model_sum(config) != sha256:
            raise GentoolError(
                f"the files of {config.name} on {os.uname().nodename} are not those of the driver",
                "give every node the same files at the same paths",
            )
        self._model = opening.open_model(config, precision, xla, threads)
        return self._model.describe()

    def compute(self, settings: Settings, block: Sequence[Line]) -> list[bytes]:
        """The answers to a block of lines."""
        assert self._model
        name, precision = self._opening.config.name, self._model.precision
        origin = Origin(name, self._opening.sha256, precision, processor())
        return compute_block(self._model, settings, origin, block)


class _Job(NamedTuple):
    """A block that a worker computes; None while the worker opens the model."""

    worker: Any
    block: Sequence[Line] | None


class Pool:
    """Workers, those that compute and those that are free. Use it as a context: at its end they are
    gone, and so is a cluster that was started for them."""

    def __init__(self, workers: Workers, opening: Opening, settings: Settings) -> None:
        self._ray = _ray()
        self._opening, self._settings = opening, settings
        self._connect(workers.address)
        cores = self._cores(workers)
        self._options = {
            "num_cpus": min(opening.threads or min(cores), *cores),
            "num_gpus": workers.gpus,
            "scheduling_strategy": "SPREAD",
            "max_restarts": 0,
        }
        self.count = workers.number or len(cores)
        self._jobs: dict[Any, _Job] = {}  # by the reference to its result
        self._free: list[Any] = []
        self._again: deque[Sequence[Line]] = deque()
        self._lost: dict[int, int] = {}  # number of a block's first line -> workers it has lost
        self.ready = 0  # workers that have opened the model, so far
        for _ in range(self.count):
            self._start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self._ray.shutdown()

    @property
    def computing(self) -> bool:
        """Whether blocks are not done."""
        return bool(self._again) or any(job.block is not None for job in self._jobs.values())

    @property
    def wants(self) -> bool:
        """Whether a worker is free for a block."""
        return bool(self._free) and not self._again

    def submit(self, block: Sequence[Line]) -> None:
        """Gives a block to a worker that is free."""
        worker = self._free.pop()
        self._jobs[worker.compute.remote(self._settings, block)] = _Job(worker, block)

    def results(self) -> Iterator[tuple[Sequence[Line], list[bytes]]]:
        """Waits for POLL_SECONDS at most; yields the blocks that are done, and their answers."""
        while self._again and self._free:
            self.submit(self._again.popleft())
        if not self._jobs:
            time.sleep(POLL_SECONDS)
            return
        done, _ = self._ray.wait(list(self._jobs), timeout=POLL_SECONDS)
        for reference in done:
            job = self._jobs.pop(reference)
            try:
                answers = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as e:
                raise _error(e) from None
            except self._ray.exceptions.RayError:
                self._replace(job)
                continue
            self._free.append(job.worker)
            if job.block is None:
                self.ready += 1
            else:
                yield job.block, answers

    def _start(self) -> None:
        actor = self._ray.remote(Worker).options(**self._options).remote(self._opening)
        self._jobs[actor.open.remote()] = _Job(actor, None)

    def _replace(self, job: _Job) -> None:
        """A worker is lost, with its node perhaps: its block goes to another."""
        key = job.block[0].number if job.block else -1
        self._lost[key] = self._lost.get(key, 0) + 1
        if self._lost[key] > MAX_LOST:
            what = f"row {key} and the rows after it" if job.block else "the model"
            raise GentoolError(
                f"{MAX_LOST + 1} workers died over {what}",
                "perhaps their memory does not suffice: ray logs say why",
            )
        if job.block:
            self._again.append(job.block)
        self._start()

    def _cores(self, workers: Workers) -> list[int]:
        """The cores of each node that lends some. Raises UsageError where no worker can start."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        nodes = [node for node in alive if node.get("CPU", 0) >= 1]  # a head may lend none
        if not nodes:
            raise UsageError(
                f"no node of the Ray cluster at {workers.address} lends a CPU",
                "add one: ray start --address HOST:PORT --num-cpus N",
            )
        gpus = max(node.get("GPU", 0) for node in nodes)
        if workers.address == LOCAL and gpus < workers.gpus:  # another cluster may still grow
            raise UsageError(
                f"--gpus-per-worker is {workers.gpus:g}, and this machine has {gpus:g}",
                "give what it has, or the --ray HOST:PORT of a cluster that has more",
            )
        return [int(node["CPU"]) for node in nodes]

    def _connect(self, address: str) -> None:
        chatter: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            _reach(address)
            if address == LOCAL:
                self._ray.init(include_dashboard=False, **chatter)
            else:
                self._ray.init(address=address, **chatter)
        except (OSError, ValueError, RuntimeError) as e:
            reason = str(e).strip().partition("\n")[0]
            raise GentoolError(
                f"no Ray cluster at {address}: {reason}",
                "start one with ray start --head, or leave the address out",
            ) from None


def _reach(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError(
            "--ray needs the package ray", "install it: pip install 'gentool[ray]'"
        ) from None
    return ray


def _error(failure: Any) -> GentoolError:
    """What a worker raised, as it is if it is one of ours."""
    cause = getattr(failure, "cause", None)
    if isinstance(cause, GentoolError):
        return cause
    last = str(failure).strip().rpartition("\n")[2]
    return GentoolError(
        f"a worker failed: {last}", "ray logs say more; so does a run without --ray"
    )
