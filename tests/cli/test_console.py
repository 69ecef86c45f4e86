"""What reaches stdout and stderr, in a pipe and on a terminal, and what does not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from cli.shell import CLEAN, Screen, gentool, seen
from hypothesis import given
from hypothesis import strategies as st

from gentool.cli.console import Console, colored
from gentool.cli.neutral import neutral
from gentool.cli.status import bar, clock
from gentool.errors import GentoolError, UsageError

WILD = "[bold]今天[/bold] :smile: \x1b[31m\x07\x7f\x9b \u202etxt\u2069\u200f 末"
TAME = r"[bold]今天[/bold] :smile: \u001b[31m\u0007\u007f\u009b \u202etxt\u2069\u200f 末"


def python(code: str, env: Mapping[str, str] | None = None, **streams: int) -> tuple[str, str]:
    """stdout and stderr of a program that has a console; None where a stream is not a pipe."""
    program = f"from gentool.cli.console import Console; console = Console()\n{code}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=CLEAN | (env or {}), check=True, timeout=60, **pipes)
    return (done.stdout or b"").decode(), (done.stderr or b"").decode()


@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1", "zh_CN.UTF-8"])
def test_a_pipe_gets_the_text_itself_in_utf8_whatever_the_locale(locale: str) -> None:
    env = {"LC_ALL": locale, "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    out, err = python(f"console.write({WILD!r} + chr(10)); console.note('今天')", env)
    assert (out, err) == (WILD + "\n", "今天\n")


def test_a_terminal_is_shown_what_it_would_obey() -> None:
    screen = Screen()
    python(f"console.write({WILD!r} + chr(9) + chr(10))", stdout=screen.slave)
    assert screen.read() == TAME + "\t\n"
    screen = Screen()
    python(f"console.error({WILD!r}, 'nothing')", {"NO_COLOR": "1"}, stderr=screen.slave)
    assert screen.read() == f"error: {TAME}\nhint: nothing\n"


def test_an_error_is_two_lines_however_long_and_whatever_it_quotes() -> None:
    _, err = python(f"console.error({'[/x] 长 ' * 300!r} + chr(10) + 'end', 'one\\ntwo')")
    assert err == f"error: {'[/x] 长 ' * 300} end\nhint: one two\n"


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert [colored("auto", terminal) for terminal in (True, False)] == [True, False]
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert not colored("auto", True)
            assert colored("always", False)
    assert not colored("never", True)


def test_colour_never_and_always_are_seen_in_the_bytes() -> None:
    say = "console.error('x', 'y')"
    assert "\x1b[" in python(f"console.color = 'always'; {say}")[1]
    for env, color in (({"NO_COLOR": "1"}, "auto"), ({"TERM": "dumb"}, "auto"), ({}, "never")):
        screen = Screen()
        python(f"console.color = {color!r}; {say}", env, stderr=screen.slave)
        assert screen.read() == "error: x\nhint: y\n"
    screen = Screen()
    python(say, stderr=screen.slave)
    assert "\x1b[1;31merror:\x1b[0m x" in screen.read()


def test_quiet_and_verbose() -> None:
    say = "console.note('note'); console.detail('detail'); console.error('e', 'h')"
    assert python(say)[1] == "note\nerror: e\nhint: h\n"
    assert python(f"console.quiet = True; {say}")[1] == "error: e\nhint: h\n"
    assert python(f"console.verbose = True; {say}")[1] == "note\ndetail\nerror: e\nhint: h\n"


def test_stdout_alone_imports_no_rich() -> None:
    _, err = python("console.write('x'); import sys; assert 'rich' not in sys.modules")
    assert err == ""


def test_a_cut_line_is_ended_once() -> None:
    assert python("console.write('今'); console.end_line(); console.end_line()")[0] == "今\n"
    assert python("console.write('今\\n'); console.end_line()")[0] == "今\n"
    assert python("console.end_line()")[0] == ""


def test_a_file_gets_the_result_raw(tmp_path: Path) -> None:
    path = tmp_path / "result"
    assert python(f"console.redirect({str(path)!r}); console.write({WILD!r})") == ("", "")
    assert path.read_text("utf-8") == WILD


def test_where_nothing_can_be_written() -> None:
    console = Console()
    with pytest.raises(UsageError, match="cannot write /nowhere/x: No such file"):
        console.redirect("/nowhere/x")
    console.redirect("/dev/full")
    with pytest.raises(GentoolError, match="cannot write /dev/full: No space left") as caught:
        console.write("今天")
    assert caught.value.exit_code == 1
    console.end_line()  # is silent about what was said already
    console.close()


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """A file opened where stderr was would receive TensorFlow's log."""
    path = tmp_path / "result"
    code = (
        "from gentool.cli.console import Console; console = Console(); import os;"
        f"console.redirect({str(path)!r}); os.write(2, b'log'); console.write('result');"
        "console.error('x', 'y')"
    )
    line = f'"{sys.executable}" -c "{code}" <&- 2>&-'
    subprocess.run(["bash", "-c", line], env=CLEAN, check=True)
    assert path.read_text() == "result"


@given(st.text())
def test_neutral_text_holds_nothing_a_terminal_obeys_and_keeps_all_else(text: str) -> None:
    shown = neutral(text)
    assert neutral(shown) == shown
    assert not any(ord(c) < 32 and c not in "\n\t" or 0x7F <= ord(c) < 0xA0 for c in shown)
    if text.isprintable() and text.isascii():
        assert shown == text


def test_a_narrow_terminal_gets_words_without_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = "row 3 of 400  9 tokens/s  0:00:09 left"
    assert bar("row", 3, 400, 9.0, "9 tokens/s") == words
    monkeypatch.setenv("COLUMNS", "80")
    assert bar("row", 3, 400, 9.0, "9 tokens/s") == "─" * 24 + "  " + words


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]


STEPS = """
from gentool.cli import console as module
module.FIRST_LINE_SECONDS = module.LOADING_SECONDS = 0
with console.progress() as show:
    for step in range(1, 4):
        show(step, 3, 90, f"loss [bold]{step}")
        console.note(f"note {step}")
console.write("done\\n")
"""


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    out, err = python(STEPS)
    first = "step 1 of 3, loss [bold]1, 0:01:30 left"
    assert (out, err.splitlines()[0]) == ("done\n", first)
    assert "step 2" not in err  # half a minute has not gone by
    assert "step 3 of 3" in err
    screen = Screen()
    out, _ = python(STEPS, {"COLUMNS": "100"}, stderr=screen.slave)
    shown = screen.read()
    assert out == "done\n"
    assert "━" in shown and "note 2" in shown and seen(shown) == ["note 1", "note 2", "note 3"]
    assert python(f"console.quiet = True\n{STEPS}") == ("done\n", "")


def test_what_is_done_at_once_needs_no_progress() -> None:
    quick = STEPS.replace("module.FIRST_LINE_SECONDS = module.LOADING_SECONDS = 0", "")
    assert python(quick) == ("done\n", "note 1\nnote 2\nnote 3\n")


def test_dumb_terminals_get_lines() -> None:
    screen = Screen()
    python(STEPS, {"TERM": "dumb"}, stderr=screen.slave)
    assert "\x1b" not in (shown := screen.read()) and "step 3 of 3" in shown


def test_nobody_listening_on_stderr_harms_no_result() -> None:
    read, write = os.pipe()
    os.close(read)
    out, _ = python("console.error('x', 'y'); console.write('result')", stderr=write)
    os.close(write)
    assert out == "result"


def test_one_run_at_a_time_writes_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("of another run\n")
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = gentool("complete", "今天", "-n", "1", "-o", str(path))
        assert (done.code, done.out) == (2, "")
        assert done.err.splitlines() == [
            f"error: another run of gentool writes to {path}",
            "hint: wait for it, or give another --output",
        ]
    assert path.read_text() == "of another run\n"
    console = Console()
    console.redirect(str(path))  # the lock has gone with its holder
    with pytest.raises(UsageError, match="another run"):
        Console().redirect(str(path))
    console.close()
    console.redirect(str(path))
    console.close()


def test_a_device_may_be_shared() -> None:
    first, second = Console(), Console()
    for console in (first, second):
        console.redirect(os.devnull)
    for console in (first, second):
        console.close()


LOADS = """
import time
with console.loading("cpm\u202e-lm") as progress:
    time.sleep(SECONDS)
    progress(1, 3)
console.note("ready")
"""


@pytest.mark.parametrize(("seconds", "shown"), [(0.8, True), (0.0, False)])
def test_what_takes_long_to_load_is_named_and_erased(seconds: float, shown: bool) -> None:
    screen = Screen()
    python(LOADS.replace("SECONDS", str(seconds)), {"NO_COLOR": "1"}, stderr=screen.slave)
    text = screen.read()
    assert text.endswith("ready\n")
    line = "\r\x1b[Kloading cpm\\u202e-lm …\r\x1b[Kloading cpm\\u202e-lm … 33 %\r\x1b[K"
    assert (line in text) == shown
    assert ("loading" in text) == shown


def test_nothing_is_named_where_there_is_no_terminal() -> None:
    assert python(LOADS.replace("SECONDS", "0.5"))[1] == "ready\n"
