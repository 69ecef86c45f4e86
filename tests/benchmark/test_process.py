"""Time to the first character of real processes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gentool.benchmark.measure import Result
from gentool.benchmark.process import cold_start, first_character
from gentool.config import lookup
from gentool.errors import GentoolError


def test_the_exit_of_a_process_does_not_count() -> None:
    program = "import time; print('a', flush=True); time.sleep({})"
    assert first_character(["-c", program.format(2)]) < 2


def test_a_process_that_fails_is_an_error_with_its_reason() -> None:
    with pytest.raises(GentoolError, match="a fresh process failed: ValueError: no"):
        first_character(["-c", "raise ValueError('no')"])
    with pytest.raises(GentoolError, match="failed: it is gone$"):
        shown = "import sys; sys.stderr.write('error: it is gone\\nhint: look\\n'); sys.exit(3)"
        first_character(["-c", shown])


def test_a_cold_start_that_fails_is_skipped_with_the_reason(
    monkeypatch, tmp_path: Path, finish
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "raise SystemExit(\\"error: no\\")"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    _, results = finish(cold_start(lookup.load("tiny-zh"), [], 1))
    assert results == [Result("cold_start", "s", (), skipped="a fresh process failed: no")]
