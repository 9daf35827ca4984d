"""Keys of a terminal, one by one, without waiting for Enter; the terminal is left as it was found."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aegisipc.eventstore.errors import AegisError

ESCAPE: Final = "escape"
ENTER: Final = "enter"
BACKSPACE: Final = "backspace"
RESIZED: Final = "resized"
"""No key: the terminal has another size."""
GONE: Final = "gone"
"""No key: the terminal is not there any more."""

_NAMED: Final = {
    "\x1b[C": "right",
    "\x1bOC": "right",
    "\x1b[D": "left",
    "\x1bOD": "left",
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[H": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1b[4~": "end",
}
_PLAIN: Final = {"\r": ENTER, "\n": ENTER, "\x7f": BACKSPACE, "\b": BACKSPACE, "\x04": "q"}
_ESCAPE_S: Final = 0.05
"""What an arrow key sends comes at once; an escape that stands alone is the key of that name."""

_MOST_WAITING: Final = 256
_READ_BYTES: Final = 1024


class NoTerminal(AegisError):
    """Stdin or stdout is no terminal."""

    code = "no_terminal"


def check_terminal() -> None:
    """See that there is somebody to press keys, and something to show them.

    Raises:
        NoTerminal: stdin or stdout is none.
    """
    for stream, name in ((sys.stdin, "stdin"), (sys.stdout, "stdout")):
        if stream is None or stream.closed or not stream.isatty():
            raise NoTerminal(
                f"cannot step: {name} is no terminal; run it in one, or use --until, --from and --diff, "
                "which need none",
                stream=name,
            )


class KeyReader:
    """Puts together what a terminal sends. Pure."""

    def __init__(self) -> None:
        self._pending = ""

    @property
    def is_pending(self) -> bool:
        """Something came that may be the beginning of more."""
        return bool(self._pending)

    def feed(self, text: str) -> Iterator[str]:
        """Take in what came, and yield the keys that it makes; names for those that are no characters."""
        self._pending += text
        while self._pending:
            key, length = self._first()
            if not length:
                return
            self._pending = self._pending[length:]
            if key:
                yield key

    def end(self) -> Iterator[str]:
        """Nothing more came: an escape was the key of that name."""
        pending, self._pending = self._pending, ""
        if pending:
            yield ESCAPE
            yield from self.feed(pending[1:])

    def _first(self) -> tuple[str, int]:
        """The first key that is there, and how many characters it takes; 0: not all of them are there yet."""
        pending = self._pending
        if pending[0] != "\x1b":
            char = pending[0]
            return _PLAIN.get(char, char if char.isprintable() else ""), 1
        if len(pending) == 1 or pending in ("\x1b[", "\x1bO"):
            return "", 0
        if pending[1] not in "[O":
            return ESCAPE, 1
        for length in range(3, len(pending) + 1):
            if pending[length - 1].isalpha() or pending[length - 1] == "~":
                return _NAMED.get(pending[:length], ""), length
        return "", 0 if len(pending) < 16 else len(pending)


class Keys:
    """The keys that are pressed, in order. What comes while 256 wait is dropped."""

    def __init__(self) -> None:
        self._waiting: deque[str] = deque(maxlen=_MOST_WAITING)
        self._something = asyncio.Event()
        self._reader = KeyReader()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = sys.stdin.fileno()

    async def next(self) -> str:
        """Wait for a key."""
        while not self._waiting:
            self._something.clear()
            await self._something.wait()
        return self._waiting.popleft()

    def put(self, *keys: str) -> None:
        """Add keys as if they were pressed."""
        self._waiting.extend(keys)
        self._something.set()

    def start(self) -> None:
        """Listen to the terminal, and to its changes of size."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._fd, self._on_readable)
        loop.add_signal_handler(signal.SIGWINCH, self.put, RESIZED)

    def stop(self) -> None:
        """Listen no more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._fd)
        loop.remove_signal_handler(signal.SIGWINCH)
        if self._timer is not None:
            self._timer.cancel()

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            self.put(GONE)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.put(*self._reader.feed(data.decode(errors="ignore")))
        if self._reader.is_pending:
            self._timer = asyncio.get_running_loop().call_later(_ESCAPE_S, self._on_quiet)

    def _on_quiet(self) -> None:
        self._timer = None
        self.put(*self._reader.end())


@contextmanager
def raw_terminal() -> Iterator[Keys]:
    """Read keys one by one; Ctrl-C still interrupts. The terminal is restored, whatever happens."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    keys = Keys()
    tty.setcbreak(fd)
    keys.start()
    try:
        yield keys
    finally:
        keys.stop()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
