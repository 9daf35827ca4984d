"""What is wrong with a proxy's two directions, and what that did."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from aegisipc.chaos.nemeses.delivery import Delivery


class Towards(enum.Enum):
    """A direction, by the side that bytes go to; or that side itself."""

    SERVER = "server"
    CLIENT = "client"


class Flow(enum.Enum):
    """What becomes of the bytes of one direction."""

    PASS = "pass"  # noqa: S105 - no password
    HOLD = "hold"
    """Nobody reads them: a network that loses packets, of which TCP sends each again until it arrives."""
    LOSE = "lose"
    """Read and thrown away: the sender believes them sent. The connection is of no use any more."""


@dataclass(slots=True)
class Counts:
    """What a proxy did. Bytes are those of all connections together."""

    accepted: int = 0
    unreachable: int = 0
    """Connections that were reset at once because nobody listened at the target."""
    resets: int = 0
    """Connections reset on purpose, those in the middle of an operation included."""
    mid_frame_resets: int = 0
    half_opened: int = 0
    not_nats: int = 0
    """Connections that speak another protocol: they have no name, and their messages are left alone."""
    to_server_bytes: int = 0
    to_client_bytes: int = 0
    lost_bytes: int = 0
    delayed: int = 0


@dataclass(slots=True)
class Rules:
    """What is wrong with one direction now, for every connection that is aimed at."""

    towards: Towards
    counts: Counts
    rng: random.Random
    delivery: Delivery | None = None
    flow: Flow = Flow.PASS
    mean_s: float = 0.0
    jitter_s: float = 0.0

    @property
    def is_plain_pass(self) -> bool:
        """Whether bytes go straight on."""
        return (
            self.flow is Flow.PASS
            and self.mean_s == 0
            and self.jitter_s == 0
            and (self.delivery is None or not self.delivery.is_on)
        )

    def delay_s(self) -> float:
        """Draw the delay of what has just arrived."""
        if self.mean_s == 0 and self.jitter_s == 0:
            return 0.0
        self.counts.delayed += 1
        return max(0.0, self.rng.uniform(self.mean_s - self.jitter_s, self.mean_s + self.jitter_s))
