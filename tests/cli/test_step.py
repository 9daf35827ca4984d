"""``aegis replay --step``: walking through a log in a real terminal."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay import Jump, Stepper, resolve
from aegisipc.router.cli.step_keys import KeyReader
from aegisipc.router.cli.step_screen import screen, shown_at
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.cli.programs import COMMAND, PATIENCE_S, Aegis
from tests.conftest import run_in_own_loop
from tests.eventstore.replay.told_history import frozen, store, tale_of
from tests.sdk.kit import GROUP, NS, SERVICE

NAMESPACE = "cli-step"
_IN_TERMINAL = (
    sys.executable,
    "-c",
    """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
""",
)
"""Makes stdin the terminal of the command, so that Ctrl-C is for it."""
_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][0-9A-B]|\x1b[=>]")


class Terminal:
    """A terminal of 44 lines and 150 columns in which the command runs."""

    def __init__(self, words: list[str], env: dict[str, str], cwd: Path) -> None:
        self.master, self.slave = os.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 150, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.popen = subprocess.Popen(
            [*_IN_TERMINAL, *COMMAND, *words],
            env=env | {"TERM": "xterm-256color"},
            cwd=cwd,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )
        self._seen = ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            if not data:
                return
            with self._changed:
                self._seen += _CODES.sub("", data.decode(errors="replace"))
                self._changed.notify_all()

    def press(self, keys: str, shows: str = "") -> str:
        """Press keys, and wait until the screen shows something after that, if anything is named; returns
        all that came.
        """
        with self._changed:
            self._seen = ""
        os.write(self.master, keys.encode())
        return self.wait(shows) if shows else ""

    def wait(self, shows: str, then: str = "q quit") -> str:
        """Wait until the screen shows something, and is whole: its last line comes last."""

        def is_there() -> bool:
            at = self._seen.find(shows)
            return at >= 0 and self._seen.find(then, at) >= 0

        with self._changed:
            came = self._changed.wait_for(is_there, PATIENCE_S)
            assert came, f"no {shows!r} in {self._seen[-6000:]}"
            return self._seen

    def ended(self) -> int:
        return self.popen.wait(PATIENCE_S)

    def is_restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(PATIENCE_S)
        os.close(self.slave)
        os.close(self.master)
        self._reader.join(PATIENCE_S)


@dataclass(frozen=True)
class Incident:
    url: str
    begun: str
    last: int


@pytest.fixture(scope="module")
def incident(shared_server: EmbeddedServer) -> Incident:
    tale, begun, _ = frozen(time.time_ns())
    run_in_own_loop(lambda: store(tale, shared_server.url, NAMESPACE))
    return Incident(shared_server.url, format_call_id(begun), len(tale.log.records))


@pytest.fixture
def step(
    incident: Incident, environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(*words: str) -> Terminal:
        env = environment | {"AEGIS_URL": incident.url, "AEGIS_NAMESPACE": NAMESPACE}
        opened.append(Terminal(["replay", "--step", *words], env, tmp_path))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.close()


def test_one_walks_forward_back_and_from_promotion_to_doubt(
    step: Callable[..., Terminal], incident: Incident
) -> None:
    terminal = step("--until", "start")
    terminal.wait("sequence 1 of")
    terminal.press("n", "sequence 2 of")
    terminal.press("\x1b[C", "sequence 3 of")
    terminal.press("b", "sequence 2 of")
    terminal.press("\x1b[D", "sequence 1 of")
    terminal.press("10n", "sequence 11 of")
    terminal.press("P", "sequence 5 of")
    promoted = terminal.press("p", "sequence 15 of")
    assert "active: i1 → i2" in promoted
    assert "holder 'i1' is suspected" in promoted
    doubt = terminal.press("d", "sequence 18 of")
    assert incident.begun in doubt
    assert "in doubt" in doubt
    terminal.press("d", "there is no doubt after this")
    terminal.press("999n", "this is the end of the log")
    terminal.press("q")
    assert terminal.ended() == 0
    assert terminal.is_restored()


def test_one_goes_to_a_point_and_is_told_of_a_bad_one(step: Callable[..., Terminal]) -> None:
    terminal = step()
    terminal.wait("router r1 leads term 1")
    terminal.press("g", "go to (time")
    terminal.press("in_doubtx\x7f\r", "sequence 18 of")
    terminal.press("gnowhere\r", "cannot find a point in 'nowhere'")
    terminal.press("g4711\r", "cannot go to '4711'")
    terminal.press("g12", "12▏")
    terminal.press("\x1b", "q quit")  # stays
    terminal.press("n", "sequence 19 of")
    terminal.press("\x1b[H", "sequence 1 of")
    terminal.press("\x1b[F", "sequence 2")


def test_ctrl_c_leaves_the_terminal_as_it_was(step: Callable[..., Terminal]) -> None:
    terminal = step()
    terminal.wait("q quit")
    assert not terminal.is_restored()
    os.write(terminal.master, b"\x03")
    assert terminal.ended() == 130
    assert terminal.is_restored()


def test_another_size_is_drawn_anew(step: Callable[..., Terminal]) -> None:
    terminal = step()
    terminal.wait("q quit")
    with terminal._changed:
        terminal._seen = ""
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    os.killpg(terminal.popen.pid, signal.SIGWINCH)
    terminal.wait("sequence", then="g go to  q quit")
    terminal.press("q")
    assert terminal.ended() == 0


def test_the_end_of_input_quits(step: Callable[..., Terminal]) -> None:
    terminal = step()
    terminal.wait("q quit")
    terminal.press("\x04")  # the end of what is typed
    assert terminal.ended() == 0


def test_without_a_terminal_it_is_refused(aegis: Aegis, incident: Incident) -> None:
    done = aegis.at(incident.url, NAMESPACE)("replay", "--step")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: cannot step: stdin is no terminal; run it in one, or use --until, --from and --diff, which "
        "need none\n"
    )


def test_what_is_filtered_must_be_there(step: Callable[..., Terminal]) -> None:
    terminal = step("--service", "nope")
    terminal.wait("cannot show service 'nope'", then="")
    assert terminal.ended() == 1
    assert terminal.is_restored()


# -- keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (["n"], ["n"]),
        (["\x1b[C\x1b[D"], ["right", "left"]),
        (["\x1bOC"], ["right"]),
        (["\x1b", "[C"], ["right"]),
        (["\x1b[", "1~n"], ["home", "n"]),
        (["\x1bn"], ["escape", "n"]),
        (["\x1b[99~n"], ["n"]),
        (["\x1b[" + "1;" * 20], []),
        (["\r\x7f\x04\x01"], ["enter", "backspace", "q"]),
        (["é→"], ["é", "→"]),
    ],
)
def test_keys_are_put_together(sent: list[str], keys: list[str]) -> None:
    reader = KeyReader()
    assert [key for text in sent for key in reader.feed(text)] == keys


def test_an_escape_that_stands_alone_is_a_key() -> None:
    reader = KeyReader()
    assert list(reader.feed("\x1b")) == []
    assert [reader.is_pending, list(reader.end()), reader.is_pending] == [True, ["escape"], False]
    assert list(reader.end()) == []


# -- the screen --------------------------------------------------------------------------------------------


async def drawn(stepper: Stepper, columns: int = 150, lines: int = 44, **more: Any) -> str:
    console = Console(width=columns, height=lines, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(screen(await shown_at(stepper, **more), NS))
    return capture.get()


async def test_the_screen_fits_any_size_and_shows_what_others_wrote_as_text() -> None:
    tale = tale_of("i1", "i2")
    tale.fall_ill("i1", "[bold]no venue\x1b[2J")
    tale.call("put", "acc [red]\x07")
    source = tale.source()
    stepper = await Stepper.open(source)
    for columns, lines in ((150, 44), (80, 24), (40, 10)):
        text = await drawn(stepper, columns, lines)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert len(text.splitlines()) == lines
        assert columns < 70 or text.rstrip().endswith("q quit")
    assert "acc [red]\\x07" in await drawn(stepper)
    await stepper.back()
    assert "[bold]no venue\\x1b[2J" in await drawn(stepper)


async def test_the_screen_says_when_there_is_nothing() -> None:
    tale, _, _ = frozen()
    stepper = await Stepper.open(tale.source(), await resolve(tale.source(), "start"))
    await stepper.back()
    text = await drawn(stepper, prompt="12")
    assert "before the first record" in text
    assert "no group has an instance yet" in text
    assert "no call is open" in text
    assert "12▏" in text
    assert await stepper.next_where(Jump.PROMOTION)
    text = await drawn(stepper, count="10")
    assert f"{SERVICE}/{GROUP}" in text
    assert "10 …" in text
