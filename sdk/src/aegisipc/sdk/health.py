"""A service's own word on whether it can do its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.eventstore.events import MAX_REASON
from aegisipc.sdk.failures import shown
from aegisipc.sdk.hooks import Hook, HookFailed, check_hook, check_seconds

_SHAPE: Final = "def check() -> None | bool | str"


class HealthCheck:
    """The function that ``@service.health`` names, asked every ``every_s`` seconds.

    ::

        @orders.health(every_s=1.0, timeout_s=1.0)
        async def venue() -> str | None:
            return None if session.is_logged_on else "the venue has logged us off"

    An instance that is unhealthy loses the pen to a healthy one, if there is one. One that cannot say how it
    is, is not well: a check that raises, or has not ended after ``timeout_s`` seconds, has failed.
    """

    def __init__(self, function: Callable[[], Any], *, every_s: float = 1.0, timeout_s: float = 1.0) -> None:
        check_seconds("a health check", every_s=every_s, timeout_s=timeout_s)
        check_hook(function, "a health check", takes=0, shape=_SHAPE)
        self.function = function
        self.every_s = every_s
        self.timeout_s = timeout_s
        self._hook = Hook(function, timeout_s=timeout_s)

    async def run(self) -> str | None:
        """Check once; return why the service is unhealthy, or ``None`` if it is well.

        ``None``, ``True`` and an empty text are good news. At most ``MAX_REASON`` characters come back.
        """
        try:
            answer = await self._hook.ask()
        except HookFailed as failed:
            return shown(f"the health check failed: {failed.reason}", MAX_REASON)
        if answer is None or answer is True or answer == "":
            return None
        if answer is False:
            return "the health check returned False"
        if isinstance(answer, str):
            return shown(answer, MAX_REASON)
        kind = type(answer).__name__
        return shown(
            f"the health check returned {kind}, which is neither None, a bool nor a text", MAX_REASON
        )
