"""A server's data directory: its lock, its passwords, the name it gives the server."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import time
from pathlib import Path

from aegisipc.eventstore.errors import AegisError

_LOCK_WAIT_S = 1.0
_POLL_S = 0.005


class DataDirInUse(AegisError):
    """Another server runs on the data directory. Field: ``data_dir``."""

    code = "data_dir_in_use"


def server_name_for(data_dir: Path, port: int) -> str:
    """A server name without spaces (not allowed) and dots (tokens of their own in event subjects)."""
    return f"aegis-{re.sub(r'[^A-Za-z0-9_-]', '-', data_dir.name)}-{port}"


def persistent_password(path: Path) -> str:
    """The password kept in ``path``, made on first use; readable by the owner only."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text(encoding="utf-8").strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


async def lock(data_dir: Path) -> int:
    """Descriptor of the directory's exclusive lock, which lasts until every copy of it is closed.

    Waits a moment: the kernel may still be busy with the remains of a server that was just killed. Raises
    ``DataDirInUse``.
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_up_at = time.monotonic() + _LOCK_WAIT_S
        while not _try_lock(descriptor):
            if time.monotonic() > give_up_at:
                raise _in_use(data_dir)  # noqa: TRY301 - the handler below closes the descriptor
            await asyncio.sleep(_POLL_S)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_use(data_dir: Path) -> DataDirInUse:
    return DataDirInUse(
        f"cannot start a server on {data_dir}: another one runs there. Use it, stop it, or take another",
        data_dir=data_dir,
    )
