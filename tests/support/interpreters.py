"""Other versions of Python on this machine that can run what is here."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Final

_NEEDED: Final = {
    "msgpack": "msgpack",
    "nats": "nats-py",
    "pydantic": "pydantic",
    "statemachine": "python-statemachine",
    "structlog": "structlog",
}
"""What the event store imports, and the distributions that it is in."""

_PROBE: Final = f"import sys, {', '.join(_NEEDED)}; print('%d.%d' % sys.version_info[:2])"


def other_python(version: str) -> list[str] | str:
    """Return how to run a Python of that version (``3.12``) which has the event store's dependencies: it has
    them installed, or gets them from what uv keeps. Nothing is downloaded. Else say why there is none.
    """
    tried = []
    for path in _interpreters(version):
        for command in ([str(path)], _with_dependencies(path)):
            if command and (said := _run([*command, "-c", _PROBE])) == version:
                return command
            if command:
                tried.append(f"{path}: {said}")
    return f"no Python {version} here has the dependencies ({'; '.join(tried) or 'there is none at all'})"


def environment(**more: str) -> dict[str, str]:
    """Return the environment for another interpreter: nothing in it is meant for this one."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_"))}
    return {**kept, **more}


def _interpreters(version: str) -> Iterator[Path]:
    """Interpreters of that version, wherever they are kept; each once."""
    found = [
        *filter(None, [shutil.which(f"python{version}")]),
        *_found_by_uv(version),
        *sorted(map(str, Path.home().glob(f".pyenv/versions/{version}*/bin/python")), reverse=True),
    ]
    return iter(dict.fromkeys(map(Path, found)))


def _found_by_uv(version: str) -> Iterator[str]:
    if (uv := _uv()) is not None:
        done = subprocess.run(
            [uv, "python", "find", "--offline", version],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            yield done.stdout.strip()


def _with_dependencies(path: Path) -> list[str]:
    """Return the command that gives it the pinned dependencies from uv's cache; empty without uv."""
    uv = _uv()
    if uv is None:
        return []
    wanted = [word for name in _NEEDED.values() for word in ("--with", f"{name}=={installed(name)}")]
    alone = ["--offline", "--isolated", "--no-project", "--quiet"]
    return [uv, "run", *alone, "--python", str(path), *wanted, "python"]


def _uv() -> str | None:
    return os.environ.get("UV") or shutil.which("uv")


def _run(argv: Sequence[str]) -> str:
    """Return the last line that a command says."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, check=False, env=environment()
        )
    except OSError as error:
        return str(error)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1].strip() if lines else "it says nothing"
