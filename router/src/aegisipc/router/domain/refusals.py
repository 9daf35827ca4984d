"""Why an operator's command is refused: typed, with a stable code, and a text that says what to do next."""

from __future__ import annotations

from aegisipc.eventstore.errors import AegisError


class CommandRefused(AegisError):
    """Root of the refusals. Nothing was changed."""

    code = "command_refused"


class UnknownService(CommandRefused):
    """No instance of that service has ever registered. Field: ``service``."""

    code = "unknown_service"


class UnknownGroup(CommandRefused):
    """The service has no such group. Fields: ``service``, ``group``."""

    code = "unknown_group"


class UnknownInstance(CommandRefused):
    """There is no such instance there. Fields: ``instance``, ``elsewhere`` (places that have one)."""

    code = "unknown_instance"


class AmbiguousInstance(CommandRefused):
    """Several groups have an instance of that name. Fields: ``instance``, ``places``."""

    code = "ambiguous_instance"


class InstanceGone(CommandRefused):
    """The instance left, was lost, or was refused. Fields: ``instance``, ``state``."""

    code = "instance_gone"


class NotReady(CommandRefused):
    """The instance cannot take the pen now. Fields: ``instance``, ``state``, ``why``."""

    code = "not_ready"


class AlreadyActive(CommandRefused):
    """The instance holds the pen already. Fields: ``instance``, ``epoch``."""

    code = "already_active"


class NotAnOwnedGroup(CommandRefused):
    """A pool has no holder that could change. Fields: ``service``, ``group``."""

    code = "not_an_owned_group"


class LastInstance(CommandRefused):
    """Nobody would serve the group any more. Fields: ``instance``, ``service``, ``group``, ``open_calls``."""

    code = "last_instance"


class HandoverRunning(CommandRefused):
    """The group is being handed over to another instance. Fields: ``holder``, ``to``."""

    code = "handover_running"


class InvalidRequest(CommandRefused):
    """The request is not of the right form. Field: ``problems``."""

    code = "invalid_request"


class CannotDecide(CommandRefused):
    """The decision could not be made durable, or it is not known whether it was. Field: ``reason``."""

    code = "cannot_decide"
