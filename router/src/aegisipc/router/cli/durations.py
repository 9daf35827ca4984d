"""Times before now on a command line: ``--until -5m``."""

from __future__ import annotations

import re
from argparse import ArgumentParser

_AGO = re.compile(r"-(?:\d+(?:\.\d*)?|\.\d+)(?:ms|s|m|h|d)?$")


def allow_ago(parser: ArgumentParser) -> None:
    """Let ``-5m`` be the value of an option, as ``-5`` may be: argparse takes what begins with a hyphen for
    an option, unless it looks like a negative number. There is no public way to say what does.
    """
    parser._negative_number_matcher = _AGO
