"""All that a step of a plan can do."""

from __future__ import annotations

from typing import Final

from aegisipc.chaos.real.message_breaks import MESSAGE_BREAKS
from aegisipc.chaos.real.network_breaks import NETWORK_BREAKS
from aegisipc.chaos.real.server_breaks import SERVER_BREAKS
from aegisipc.chaos.real.striking import PROCESS_BREAKS, Break

BREAKS: Final[dict[str, Break]] = {**PROCESS_BREAKS, **NETWORK_BREAKS, **SERVER_BREAKS, **MESSAGE_BREAKS}
"""By its name."""
