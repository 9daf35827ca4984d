"""Runs a verb. The one place where an error becomes a message and an exit code.

======  ==========================================================
code    meaning
======  ==========================================================
0       done
1       it could not be done: ``error: …`` on stderr says why
2       bad usage: the arguments make no sense (argparse says so)
130     interrupted with Ctrl-C
141     whoever read our output stopped reading
======  ==========================================================
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager

from aegisipc.eventstore.cli import Verb, say
from aegisipc.eventstore.errors import AegisError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Coroutine, Iterator
    from typing import Any

_USUAL_THRESHOLDS = gc.get_threshold()
_START_UP_THRESHOLD = 100_000
"""Importing makes many objects that stay; looking for garbage among them takes a tenth of a short run."""

INTERRUPTED = 130
BROKEN_PIPE = 141


def run_verb(verb: Verb, args: Namespace) -> int:
    """Run `verb` with its parsed arguments and return the exit code."""
    from aegisipc.eventstore.cli.logs import configure_logging  # noqa: PLC0415 - only to run a verb

    gc.set_threshold(_START_UP_THRESHOLD)
    configure_logging("DEBUG" if args.verbose else "INFO" if verb.serves else "WARNING")
    try:
        code = verb.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _on_broken_pipe()
    except AegisError as error:
        return _fail(args, error.to_plain(), _for_people(error))
    except OSError as error:
        message = _os_message(error)
        return _fail(args, {"code": "os_error", "message": message, "details": {}}, message)
    finally:
        gc.freeze()  # the process ends: nothing left is worth a last look for garbage
    return code


def run_async(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` in an event loop, with uvloop where it is installed, and return its exit code.

    Import what `main` needs before: from here on, garbage is collected as usual.
    """
    gc.freeze()
    gc.set_threshold(*_USUAL_THRESHOLDS)
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        import asyncio  # noqa: PLC0415 - the top of verbs' modules is imported for --help

        return asyncio.run(main)
    return int(uvloop.run(main))


@contextmanager
def interruptible() -> Iterator[None]:
    """While the event loop is held up by something long: Ctrl-C ends that at once, not when it is done."""
    import signal  # noqa: PLC0415 - only for what takes long
    import threading  # noqa: PLC0415 - as above

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _fail(args: Namespace, error: dict[str, Any], shown: str) -> int:
    say(f"error: {shown}")
    if getattr(args, "json", False):
        from aegisipc.eventstore.cli.output import print_json  # noqa: PLC0415 - only then

        try:
            print_json({"error": error})
        except BrokenPipeError:
            return _on_broken_pipe()
    return 1


def _for_people(error: AegisError) -> str:
    """The message; and for an error that a handler raised, the code and the details that it gave."""
    if not error.is_remote:
        return error.message
    from aegisipc.eventstore.cli.output import pretty_json, printable  # noqa: PLC0415 - only then

    details = (f"{name}: {pretty_json(value)}" for name, value in error.details.items())
    lines = [f"{error.code}: {error.message}", *details]
    return "\n  ".join(printable(line) if "\n" not in line else line for line in lines)


def _os_message(error: OSError) -> str:
    where = f" {str(error.filename)!r}" if error.filename else ""
    return f"cannot use{where or ' the operating system'}: {error.strerror or error}"


def _on_broken_pipe() -> int:
    """Nobody reads us any more (as with ``| head``): leave nothing for the interpreter to flush in vain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    return BROKEN_PIPE
