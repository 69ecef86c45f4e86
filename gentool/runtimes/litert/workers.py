"""Threads for numpy, which lets go of Python's lock while it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

PARALLEL = 1 << 16  # numbers to compute, from which a second thread is faster


class Workers:
    """`threads` threads, including the caller's; the others start when they are first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Runs all tasks, which may be run at the same time; each thread takes every n-th."""
        shares = [tasks[start :: self.threads] for start in range(self.threads)]
        others = [share for share in shares[1:] if share]
        if others and self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, "gentool-attention")
        futures = [self._pool.submit(_run, share) for share in others] if self._pool else []
        try:
            _run(shares[0])
        finally:
            for future in futures:
                future.result()

    def parts(self, length: int, numbers: int) -> list[slice]:
        """Slices of an axis of `length`, one for each thread; a single slice if `numbers`, the
        count of numbers to compute, is below PARALLEL."""
        count = min(self.threads, length) if numbers >= PARALLEL else 1
        ends = [length * part // count for part in range(count + 1)]
        return [slice(start, end) for start, end in zip(ends, ends[1:], strict=False)]


def _run(tasks: Sequence[Callable[[], None]]) -> None:
    for task in tasks:
        task()
