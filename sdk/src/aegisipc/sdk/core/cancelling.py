"""What a cancelled call ends with."""

from __future__ import annotations

from typing import Final

from aegisipc.eventstore.bodies import ErrorInfo
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.open_calls import OpenCall

CANCELLED_CODE: Final = "cancelled"


def cancelled_body(call: OpenCall, *, started: bool) -> bytes:
    """Return the body of the ``CANCELLED`` fact of a call that somebody wants cancelled. `started`: it may
    have had effects.
    """
    author, reason = call.cancel or ("", "")
    why = f": {reason}" if reason else ""
    what = "it may have run before" if started else "it was not started"
    return encode(
        ErrorInfo(
            code=CANCELLED_CODE,
            message=f"{call.method} was cancelled by {author}{why}; {what}",
            details={"started": started, "author": author, "reason": reason},
        )
    )
