"""What a service says of its methods, in the words of the core."""

from __future__ import annotations

from aegisipc.sdk.core.holding import Rules
from aegisipc.sdk.service import Service


def rules_of(service: Service) -> Rules:
    """Return the rules by which a holder runs the calls of a service."""
    methods = service.methods
    return Rules(
        {name: method.effect for name, method in methods.items()},
        max_running=service.max_running,
        threaded=[name for name, method in methods.items() if not method.is_async],
        max_threaded=service.threads,
        retries={name: method.retry for name, method in methods.items() if method.retry is not None},
        max_backlog=service.max_backlog,
    )
