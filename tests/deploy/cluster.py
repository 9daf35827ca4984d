"""A cluster of real servers with the configuration that is shipped."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.subjects import subjects_of

ROOT = Path(__file__).parents[2]
NATS = ROOT / "deploy/nats"
SUBJECTS = subjects_of("trading")


def variables(node: str, ports: tuple[int, int, int], routes: str, data: Path) -> dict[str, str]:
    port, cluster_port, monitor_port = ports
    return {
        "NATS_NAME": node,
        "NATS_HOST": "127.0.0.1",
        "NATS_PORT": str(port),
        "NATS_CLUSTER_PORT": str(cluster_port),
        "NATS_MONITOR": f"127.0.0.1:{monitor_port}",
        "NATS_ROUTES": routes,
        "NATS_ROUTE_PASSWORD": "route-secret",
        "NATS_DATA": str(data),
        "NATS_MAX_STORE": "8GB",
        "AEGIS_PASSWORD": "secret",
        "AEGIS_SYS_PASSWORD": "secret",
        "AEGIS_ROUTER_PASSWORD": "secret",
        "AEGIS_ORDERS_1_PASSWORD": "secret",
        "AEGIS_ORDERS_2_PASSWORD": "secret",
        "AEGIS_QUOTES_1_PASSWORD": "secret",
        "AEGIS_STRATEGY_7_PASSWORD": "secret",
        "AEGIS_OPERATOR_PASSWORD": "secret",
        "AEGIS_ROUTER_SYS_PASSWORD": "secret",
    }


@dataclass(frozen=True)
class Cluster:
    """Three running servers; ``ports`` are the clients', ``logs`` what the servers wrote."""

    ports: tuple[int, ...]
    logs: tuple[Path, ...]

    def url(self, user: str) -> str:
        return ",".join(f"nats://{user}:secret@127.0.0.1:{port}" for port in self.ports)

    async def connect(self, user: str) -> Connection:
        return await Connection.open(ConnectOptions(url=self.url(user), require_jetstream="sys" not in user))

    def refusals(self) -> list[str]:
        """Everything that a permission has refused so far."""
        lines = [line for log in self.logs for line in log.read_text(encoding="utf-8").splitlines()]
        return sorted(line for line in lines if "Violation" in line)


def wait_healthy(monitor_port: int, deadline: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{monitor_port}/healthz", timeout=1):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                pytest.fail(f"no healthy server at port {monitor_port}: {error}")
            time.sleep(0.02)
