"""What becomes of ``once`` calls that still run when their instance has lost the pen.

They cannot be taken back, so they are left to come to their end. Their outcome is no conclusion any more, as
somebody else holds the pen and has found them in doubt; but it is the best evidence there is, and ends the
doubt.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from aegisipc.eventstore.calls import OpenCall
from aegisipc.eventstore.errors import AegisError
from aegisipc.eventstore.frames import Mark, PenEntry, PenFrame, encode_pen
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.subjects import Subjects
from aegisipc.sdk.core.pen import Identity
from aegisipc.sdk.core.unwritten import as_evidence
from aegisipc.sdk.executor import Done

_log = structlog.get_logger("aegisipc.instance")

PATIENCE_S: Final = 60.0
"""How long to try to tell. After that an operator has to find out."""

_RETRY_S: Final = 0.5


class EvidenceWriter:
    """Writes the evidence of one incarnation. It needs no fence, since it concludes nothing."""

    def __init__(self, log: JetStreamLog, subjects: Subjects, identity: Identity) -> None:
        self._log = log
        self._identity = identity
        self._subject = subjects.evidence(identity.service, identity.group, identity.instance)
        self._number = 0
        self._turn = asyncio.Lock()

    async def tell(self, call: OpenCall, done: Done) -> None:
        """Say how `call` ended; tries again until that is in the log, for a minute."""
        facts = [(Mark.EMITTED, event) for event in done.emitted] + [as_evidence(done.mark, done.body)]
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_S
        async with (
            self._turn
        ):  # frames are stored in the order of their numbers, or the later ones only count
            self._number += 1
            frame = PenFrame(
                self._identity.session,
                self._number,
                0,
                [PenEntry(mark, call.call_id) for mark, _ in facts],
                [body for _, body in facts],
            )
            record_id = f"{self._identity.session:x}.{self._identity.instance}.evidence.{self._number}"
            while not await self._try(encode_pen(frame), record_id, call):
                if loop.time() >= give_up_at:
                    _log.error("evidence_not_written", call=format_call_id(call.call_id), mark=done.mark.name)
                    return
                await asyncio.sleep(_RETRY_S)
        _log.warning("evidence_written", call=format_call_id(call.call_id), mark=done.mark.name)

    async def _try(self, payload: bytes, record_id: str, call: OpenCall) -> bool:
        try:
            await self._log.append(self._subject, payload, record_id=record_id, timeout_s=2.0)
        except AegisError as error:
            _log.info("evidence_delayed", call=format_call_id(call.call_id), error=error.message)
            return False
        return True
