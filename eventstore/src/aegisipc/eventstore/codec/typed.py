"""Values of a declared type: validated before they are encoded and after they are decoded."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Final, cast

from pydantic import TypeAdapter

from aegisipc.eventstore.codec.decoding import decode
from aegisipc.eventstore.codec.encoding import encode
from aegisipc.eventstore.codec.fingerprint import fingerprint_of
from aegisipc.eventstore.codec.limits import DEFAULT_LIMITS, Limits
from aegisipc.eventstore.codec.literals import validator_by_value
from aegisipc.eventstore.codec.reduction import not_encodable
from aegisipc.eventstore.errors import CodecError

_MAX_CACHED_CODECS: Final = 1024


class TypeCodec[T]:
    """The codec of one type; made by `type_codec`, safe to share between threads.

    Fields travel by name, never by alias. What travels is already typed, so a model configured as strict is
    read leniently: its nested models arrive as maps, which strict validation refuses.

    >>> orders = type_codec(Order)
    >>> orders.decode(orders.encode(Order(symbol="EURUSD", quantity=5)))
    Order(symbol='EURUSD', quantity=5)
    """

    __slots__ = ("_adapter", "_by_value", "_fingerprint", "type")

    def __init__(self, tp: Any) -> None:
        self.type = tp
        self._adapter: TypeAdapter[T] = TypeAdapter(tp)
        self._by_value = validator_by_value(self._adapter.core_schema)
        self._fingerprint: str | None = None

    def encode(self, value: object) -> bytes:
        """Check *value* as the caller gave it, by Pydantic's own rules, and encode what came out.

        Raises `pydantic.ValidationError` if it is invalid, `NotEncodable` if it is valid but cannot travel.
        """
        return encode(self.dump(self._adapter.validator.validate_python(value)))

    def decode(self, data: bytes | bytearray | memoryview, *, limits: Limits = DEFAULT_LIMITS) -> T:
        """The inverse of `encode`.

        Raises `MalformedPayload`, `LimitExceeded`, or `pydantic.ValidationError`.
        """
        return self.validate(decode(data, limits=limits))

    def validate(self, plain: object) -> T:
        """The value of the type from decoded plain data; raises `pydantic.ValidationError`."""
        validator = self._by_value or self._adapter.validator
        value: T = validator.validate_python(plain, strict=False, by_alias=False, by_name=True)
        return value

    def dump(self, value: T) -> object:
        """Plain data of a valid value, for `pack`; raises `NotEncodable`."""
        try:
            plain: object = self._adapter.serializer.to_python(
                value, round_trip=True, by_alias=False, warnings=False
            )
        except (CodecError, MemoryError):
            raise
        except Exception as error:
            raise not_encodable(value, str(error)) from error
        return plain

    @property
    def adapter(self) -> TypeAdapter[T]:
        """What Pydantic made of the type."""
        return self._adapter

    @property
    def fingerprint(self) -> str:
        """A stable name of the type's shape: 32 hex digits, the same in every process."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint_of(self.type, self._adapter)
        return self._fingerprint


def type_codec[T](tp: type[T] | Any) -> TypeCodec[T]:
    """The codec of *tp*, cached; raises Pydantic's own errors if *tp* has no schema."""
    try:
        hash(tp)
    except TypeError:  # Annotated with unhashable metadata
        return TypeCodec(tp)
    # ``int | str == str | int``, yet they validate differently: such types are told apart by their text.
    text = None if isinstance(tp, type) else repr(tp)
    codec: TypeCodec[T] = _cached(cast("Hashable", tp), text)
    return codec


@lru_cache(maxsize=_MAX_CACHED_CODECS)
def _cached(tp: Any, _text: str | None) -> TypeCodec[Any]:
    return TypeCodec(tp)
