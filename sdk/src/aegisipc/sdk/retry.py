"""How often a method is run again after an error, and when. Pure: whoever asks brings the random number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

from aegisipc.eventstore.errors import AegisError
from aegisipc.sdk.errors import EmitLimitExceeded, ServiceDefinitionError, ServiceError
from aegisipc.sdk.transacting import (
    OutcomeUnreadable,
    TransactionError,
    TransactionMisused,
    TransactionUnsupported,
)

MAX_ATTEMPTS: Final = 100
MAX_BASE_S: Final = 3600.0
MAX_FACTOR: Final = 100.0
MAX_DELAY_S: Final = 24 * 3600.0

type ErrorKind = type[Exception] | str
"""A class of exceptions, or the code of an error."""

_NEVER: Final = (
    ServiceDefinitionError,
    EmitLimitExceeded,
    TransactionUnsupported,
    TransactionMisused,
    OutcomeUnreadable,
)
"""What is wrong with the handler itself: it fails in the same way every time."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Run a method again if its handler raises: at most ``attempts`` times in all.

    The first wait is ``base_s`` seconds, each further one ``factor`` times as long, up to ``max_s``; each is
    made shorter or longer by up to the fraction ``jitter`` of itself, so that calls that failed together do
    not come back together. ``on`` says after which errors: classes of exceptions, codes of errors, or both,
    alone or in a tuple; if it is empty, after any but a ``ServiceError``, which is an answer::

        @orders.method(effect="idempotent", retry=Retry(attempts=5, on=(ConnectionError, "venue_busy")))
        async def place(symbol: str, quantity: int) -> Fill: ...

    Raises:
        ServiceDefinitionError: a value is out of its range.
    """

    attempts: int = 3
    base_s: float = 0.1
    factor: float = 2.0
    max_s: float = 30.0
    jitter: float = 0.1
    on: tuple[ErrorKind, ...] | list[ErrorKind] | ErrorKind = ()

    def __post_init__(self) -> None:
        attempts: object = self.attempts
        if type(attempts) is not int or not 1 <= attempts <= MAX_ATTEMPTS:
            _refuse("attempts", attempts, f"a whole number from 1 to {MAX_ATTEMPTS}")
        _check("base_s", self.base_s, 0.0, MAX_BASE_S, "seconds")
        _check("factor", self.factor, 1.0, MAX_FACTOR)
        _check("max_s", self.max_s, self.base_s, MAX_DELAY_S, "seconds (base_s to 24 hours)")
        _check("jitter", self.jitter, 0.0, 1.0)
        kinds = tuple(self.on) if isinstance(self.on, tuple | list) else (self.on,)
        for kind in kinds:
            if not _is_kind(kind):
                _refuse("on", kind, "classes of exceptions and codes of errors (text), alone or in a tuple")
        object.__setattr__(self, "on", kinds)

    def delay_s(self, attempt: int, random01: float) -> float:
        """Return how long to wait after attempt number `attempt` (from 1) has failed, in seconds.

        `random01` is a number from 0 to 1: it places the delay within the jitter.
        """
        if attempt < 1:
            raise ValueError(f"attempts are counted from 1, not {attempt}")
        try:
            delay = min(self.base_s * self.factor ** (attempt - 1), self.max_s)
        except OverflowError:
            delay = self.max_s
        return min(delay * (1.0 + self.jitter * (2.0 * random01 - 1.0)), self.max_s)

    def matches(self, error: BaseException) -> bool:
        """Tell whether the method is to be run again after this error, attempts permitting."""
        if isinstance(error, _NEVER):
            return False
        kinds: tuple[ErrorKind, ...] = self.on  # type: ignore[assignment]  # made a tuple when it was checked
        if not kinds:
            return isinstance(error, Exception) and not isinstance(error, ServiceError)
        codes = _codes_of(error)
        return any(kind in codes if isinstance(kind, str) else isinstance(error, kind) for kind in kinds)


def _codes_of(error: BaseException) -> tuple[object, ...]:
    """What the error is called, by whoever raised it and in the outcome."""
    if isinstance(error, ServiceError):
        return (error.code,)
    if isinstance(error, TransactionError):
        return (error.code,)
    if isinstance(error, AegisError):
        return (error.code, "downstream_error")
    return ("internal_error",)


def _is_kind(kind: object) -> bool:
    if isinstance(kind, str):
        return bool(kind)
    return isinstance(kind, type) and issubclass(kind, Exception)


def _check(name: str, value: object, least: float, most: float, unit: str = "") -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]  # a number; nan is in no range
        _refuse(name, value, f"a number from {least:g} to {most:g}{unit and f' {unit}'}")


def _refuse(name: str, value: object, allowed: str) -> NoReturn:
    raise ServiceDefinitionError(f"cannot use Retry({name}={value!r}): it is {allowed}", option=name)
