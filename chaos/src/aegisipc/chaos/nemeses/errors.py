"""Why a fault could not be brought about."""

from __future__ import annotations

from aegisipc.eventstore.errors import AegisError


class Unavailable(AegisError):
    """This machine, or this user on it, cannot bring about a kind of fault. Fields: ``what``, ``reason``."""

    code = "nemesis_unavailable"


class NemesisFailed(AegisError):
    """A fault could be brought about here, and was not, or did not end. Field: ``what``."""

    code = "nemesis_failed"


def unavailable(what: str, reason: str, remedy: str) -> Unavailable:
    """Return the error for a kind of fault (`what`, as in "cannot do …") that this machine does not allow."""
    return Unavailable(f"cannot {what} here: {reason}; {remedy}", what=what, reason=reason)
