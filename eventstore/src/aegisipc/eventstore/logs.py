"""Where AegisIPC's own log lines go in programs that do not configure structlog.

structlog's default prints everything to stdout. A library must not write there: stdout belongs to the
program. So whoever opens a connection first makes sure that, unless the program has configured structlog by
then, warnings and worse go to stderr and nothing goes to stdout. A program that calls ``structlog.configure``
at any time has the last word.
"""

from __future__ import annotations

import logging
import sys

import structlog


def quiet_by_default() -> None:
    """Send warnings to stderr and nothing to stdout, unless structlog is configured already."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whatever stderr is by then
        )
