"""Building distributions and environments, outside the source tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMBERS = ("eventstore", "sdk", "router", "chaos")


def normalized(name: str) -> str:
    """Return the name by which package tools compare distributions."""
    return re.sub(r"[-_.]+", "-", name).lower()


def uv() -> str:
    """Path of uv: the one that runs us, else the one on ``PATH``; skips the test where there is none."""
    path = os.environ.get("UV") or shutil.which("uv")
    if path is None:
        pytest.skip("building needs uv")
    return path


def run(argv: Sequence[str | Path], cwd: Path, timeout_s: float = 60) -> str:
    """Run a command and return its output; a failure shows what it said."""
    # The environment of this run must not become the environment of that one.
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in {"VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT"}
    }
    done = subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, argv))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
