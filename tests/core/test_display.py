"""The plain display is readable and free of escapes; the live one is cheap and leaves no litter."""

import io
import re
import time

import pytest

from jaxllm.core import display as display_module
from jaxllm.core.display import Display, Progress, duration, make_display, short, visible

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_plain_lines_without_escapes():
    stream = io.StringIO()
    with make_display(stream) as display:
        display.start("train", 2000, done=100)
        with display.phase("compiling"):
            pass
        display.update(200, {"loss": 1.23456, "tokens_per_second": 123456.0, "mfu": None})
        display.message("saved [bold]step 200[/bold]")
        display.warn("slow disk")
    lines = stream.getvalue().splitlines()
    assert lines[1:] == ["saved [bold]step 200[/bold]", "warning: slow disk"]
    assert stream.getvalue().startswith("train 200/2,000  loss 1.2346  123k tokens/s  ETA ")
    assert "MFU" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_a_log_hears_of_long_phases_only(monkeypatch):
    monkeypatch.setattr(display_module, "LONG_PHASE", 0.02)
    stream = io.StringIO()
    display = Display(stream)
    with display.phase("compiling"):
        time.sleep(0.03)
    with display.phase("checkpoint"):
        pass
    assert stream.getvalue() == "compiling took 0 s\n"


def test_table_goes_to_stdout_whole_and_aligned(capsys):
    stream = io.StringIO()
    name = "a long name " * 20
    Display(stream).table("Scores [x]", ["data", "loss"], [[name, 1.5], ["b", None]])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "Scores [x]" and lines[-1].split() == ["b", "–"]
    assert lines[3].startswith(name) and lines[3].endswith("1.5000")
    assert stream.getvalue() == ""


def test_a_piped_table_has_its_title_on_one_line_and_no_spaces_at_line_ends(capsys):
    title = "a title that is wider than its table " * 3
    Display(io.StringIO()).table(title, ["n"], [[1], [2]])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == title and rest[0] == "  n"
    assert [line for line in rest if line != line.rstrip()] == []


def test_a_narrow_terminal_loses_no_digit_and_no_letter(terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("sys.stdout", terminal)
    Display(io.StringIO()).table("T", ["stage", "n"], [["gopher_repetition_quality", 10**12]])
    lines = ESCAPE.sub("", terminal.getvalue()).splitlines()
    body = "".join("".join(lines[4:]).split())
    assert sorted(body) == sorted("gopher_repetition_quality1,000,000,000,000")
    assert max(map(len, lines)) <= 30


def test_shares_and_short_numbers_are_aligned_right(capsys):
    rows = [["a", "12.3 %", "1.25M"], ["b", "<0.1 %", "9"]]
    Display(io.StringIO()).table("T", ["name", "the share", "the size"], rows)
    lines = [line for line in capsys.readouterr().out.splitlines() if line][-2:]
    assert [line.split()[-1] for line in lines] == ["1.25M", "9"]
    assert len(lines[0]) == len(lines[1])


def test_no_character_of_a_text_acts_on_the_terminal():
    assert visible("a\x1b[31m\tb\nc\r\x07é漢") == "a␛[31m\tb\nc␍␇é漢"
    assert visible("\x9b1m\u202e\u2028") == "\ufffd1m\ufffd\ufffd"


def test_live_shows_progress_phase_and_messages_and_restores_the_cursor(terminal):
    display = make_display(terminal)
    assert display.live
    display.start("train", 400)
    for _ in range(8):
        with display.phase("waiting for data"):  # too short to see, and would only flicker
            time.sleep(0.08)
    with display.phase("evaluation"):
        time.sleep(0.6)
    display.update(400, {"loss": 0.5})
    display.message("saved step 400")
    display.close()
    shown = ESCAPE.sub("", terminal.getvalue())
    assert "waiting" not in shown
    assert "evaluation" in shown and "saved step 400\n" in shown
    assert "400/400\n  loss 0.5000" in shown
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_live_respects_no_color(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with make_display(terminal) as display:
        display.start("train", 4)
        display.warn("careful")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.getvalue())


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert not make_display(terminal).live


def test_a_phase_alone_leaves_nothing_behind(terminal):
    with make_display(terminal) as display, display.phase("reading"):
        pass
    assert display._live is None


def test_eta_leaves_compilation_out(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display_module.time, "monotonic", lambda: now[0])
    progress = Progress("train", 110, done=10)
    progress.enter("compiling")
    now[0] = 60.0
    progress.leave()
    for step in range(11, 61):
        now[0] += 2.0
        progress.update(step, {})
    assert progress.eta() == pytest.approx(100.0)
    assert progress.eta_text() == "ETA 1:40"
    progress.update(110, {})
    assert progress.eta_text() == ""


def test_unknown_total():
    stream = io.StringIO()
    display = Display(stream)
    display.start("documents", None)
    display.update(1200, {"kept": 1000, "seconds": 1e-5})
    assert stream.getvalue() == "documents 1,200  kept 1,000  seconds 1e-05\n"


def test_words_for_numbers():
    assert [duration(s) for s in (8, 185, 7385, 180000)] == ["8 s", "3:05", "2:03:05", "2 d 2 h"]
    assert [short(n) for n in (950, 12345, 1.25e6, 2e12)] == ["950", "12.3k", "1.25M", "2T"]
