"""What the verbs have in common by which an operator changes something."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace

_MAX_AUTHOR = 128
_MAX_REASON = 500


def add_author_options(parser: ArgumentParser) -> None:
    """Add who wants it, and why: both are kept in the log."""
    parser.add_argument(
        "--reason", type=_reason, default="", metavar="TEXT", help="why; it is kept in the log"
    )
    parser.add_argument(
        "--author",
        type=_author,
        metavar="NAME",
        help="who wants it; it is kept in the log (default: this user at this host)",
    )


def add_timeout_option(parser: ArgumentParser, default_s: float, what: str) -> None:
    """Add ``--timeout``: how long to wait for `what`."""
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=default_s,
        metavar="SECONDS",
        help=f"how long to wait for {what} (default: %(default)g)",
    )


def add_no_wait_option(parser: ArgumentParser, what: str) -> None:
    """Add ``--no-wait``: return as soon as it is decided."""
    parser.add_argument(
        "--no-wait", action="store_true", help=f"return once it is decided, without waiting until {what}"
    )


def author_of(args: Namespace) -> str:
    """Return who is to be named as the author: ``--author``, else ``user@host``."""
    if args.author is not None:
        return str(args.author)
    import getpass  # noqa: PLC0415 - not for --help
    import socket  # noqa: PLC0415 - as above

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name, as containers have
        import os  # noqa: PLC0415 - as above

        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:_MAX_AUTHOR]


def _author(text: str) -> str:
    if not 0 < len(text) <= _MAX_AUTHOR:
        raise ArgumentTypeError(f"give 1 to {_MAX_AUTHOR} characters")
    return text


def _reason(text: str) -> str:
    if len(text) > _MAX_REASON:
        raise ArgumentTypeError(f"give at most {_MAX_REASON} characters")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
