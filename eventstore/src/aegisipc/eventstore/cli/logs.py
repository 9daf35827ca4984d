"""Structured logging of the ``aegis`` command: to stderr, never to stdout.

On a terminal a line is for people; otherwise it is one JSON object, for whatever collects it.
"""

from __future__ import annotations

import logging
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType


def configure_logging(level: str) -> None:
    """Log from `level` on (``"DEBUG"``, ``"INFO"``, ``"WARNING"``)."""
    structlog = _structlog_without_rich()
    threshold = logging.getLevelNamesMapping()[level]
    processors = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if sys.stderr.isatty():
        processors += [
            structlog.dev.ConsoleRenderer(
                timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    logging.basicConfig(
        level=max(threshold, logging.WARNING), stream=sys.stderr, format="%(name)s: %(message)s"
    )


def _structlog_without_rich() -> ModuleType:
    """Import structlog without the three quarters of its start-up time that go into ``rich``.

    ``structlog.dev`` imports rich wherever it is installed, for tracebacks that we do not use.
    """
    names = [name for name in ("rich", "better_exceptions") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]  # None makes an import fail (see sys.modules)
    try:
        import structlog  # noqa: PLC0415 - here is the point
    finally:
        for name in names:
            sys.modules.pop(name, None)
    return structlog
