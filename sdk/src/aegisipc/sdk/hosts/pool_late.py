"""What becomes of ``once`` calls that still run when their worker has to stop.

They cannot be taken back, and nobody else can know how they end. So they are left to come to their end in
this process, and their outcome is written all the same: in a pool it needs no fence, and counts if nothing
has concluded the call before. If the call is in doubt by then, that ends the doubt.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

import structlog

from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.ids import SESSION_BITS, format_call_id
from aegisipc.eventstore.open_calls import OpenCall
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.core.pool_words import evidence_body
from aegisipc.sdk.executor import Done
from aegisipc.sdk.hosts.base import Site, describe

_log = structlog.get_logger("aegisipc.instance")

PATIENCE_S: Final = 60.0
"""How long to try to write. After that the service's hook or an operator has to find out."""

_RETRY_S: Final = 0.5


async def write_late(site: Site, identity: Identity, call: OpenCall, done: Done) -> None:
    """Write how a call ended after its worker stopped; tries again until that is in the log, for a minute."""
    session = secrets.randbits(SESSION_BITS)  # the worker's own ended with it
    entries = [PenEntry(Mark.EXECUTED, call.call_id), PenEntry(done.mark, call.call_id)]
    frame = PenFrame(session, 1, 0, entries, [evidence_body(identity.instance, 0), done.body])
    subject = site.subjects.pen(identity.service, identity.group, identity.instance)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + PATIENCE_S
    shown = format_call_id(call.call_id)
    while True:
        try:
            await site.log.append(subject, encode_pen(frame), record_id=f"{session:x}.late", timeout_s=2.0)
        except AegisError as error:
            if loop.time() >= give_up_at:
                _log.error("late_outcome_not_written", call=shown, error=describe(error))
                return
            await asyncio.sleep(_RETRY_S)
        else:
            _log.warning("late_outcome_written", call=shown, mark=done.mark.name)
            return
