"""One method of a service: how its arguments are read, its function run, its result written."""

from __future__ import annotations

import hashlib
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from aegisipc.eventstore.codec import BODY_LIMITS, TypeCodec, decode, type_codec
from aegisipc.eventstore.contracts import fingerprint_of
from aegisipc.eventstore.errors import CodecError
from aegisipc.eventstore.events import Effect, MethodContract
from aegisipc.eventstore.names import wire_method
from aegisipc.sdk.context import Context
from aegisipc.sdk.errors import InvalidResult, ServiceDefinitionError
from aegisipc.sdk.retry import Retry
from aegisipc.sdk.shapes import Parameter, parameter_of, schemas_text

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BY_POSITION: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class FieldError(NamedTuple):
    """One thing that is wrong with the arguments: where, what, and Pydantic's name for it."""

    field: str
    message: str
    type: str


class ArgumentsRejected(Exception):
    """The arguments of a call do not fit; the caller is told as ``InvalidArguments``."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{e.field}: {e.message}" for e in errors))
        self.errors = errors


class ResultRejected(Exception):
    """The handler returned something else than it declares."""


class Method:
    """A handler with everything read off its signature once. ``name`` is its wire name: ``place``, or
    ``place@2``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None,
        effect: Effect,
        version: int = 1,
        retry: Retry | None = None,
    ) -> None:
        self.function = function
        self.name = wire_method(name or getattr(function, "__name__", ""), version)
        self.version = version
        self.effect = effect
        self.retry = _checked_retry(retry, self.name)
        self.is_async = inspect.iscoroutinefunction(function)
        self.context_name: str | None = None
        signature, hints = _signature_of(function, self.name)
        self.parameters = tuple(
            self._parameter(p, hints) for p in signature.parameters.values() if self._is_ours(p, hints)
        )
        self._by_name = {p.name: p for p in self.parameters}
        self._positional = tuple(p for p in self.parameters if p.by_position)
        self._context_at = self._place_of_context(signature)
        self._returns: TypeCodec[Any] = _codec(hints.get("return", Any), f"the result of {self.name}()")
        self.contract = self._contract(signature, hints)

    def _is_ours(self, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
        if parameter.kind in _VARIADIC:
            raise ServiceDefinitionError(
                f"cannot offer {self.name}(): '{parameter}' has no type to check calls against; name each "
                "parameter"
            )
        if hints.get(parameter.name) is Context:
            if self.context_name is not None or parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                raise ServiceDefinitionError(
                    f"cannot offer {self.name}(): it may take one Context, and not as a positional-only "
                    "parameter"
                )
            self.context_name = parameter.name
            return False
        return True

    def _place_of_context(self, signature: inspect.Signature) -> int | None:
        names = [p.name for p in signature.parameters.values() if p.kind in _BY_POSITION]
        return names.index(self.context_name) if self.context_name in names else None

    def put_context(self, context: Context, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Add the context to loaded arguments, wherever the handler wants it: it may well be the first
        parameter.
        """
        if self.context_name is None:
            return
        if self._context_at is not None and self._context_at <= len(args):
            args.insert(self._context_at, context)
        else:
            kwargs[self.context_name] = context

    def _parameter(self, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
        if parameter.name not in hints:
            raise ServiceDefinitionError(
                f"cannot offer {self.name}(): parameter {parameter.name!r} has no annotation; annotate it"
            )
        codec = _codec(hints[parameter.name], f"parameter {parameter.name!r} of {self.name}()")
        return parameter_of(parameter, codec)

    def _contract(self, signature: inspect.Signature, hints: Mapping[str, Any]) -> MethodContract:
        shape = hashlib.sha256()
        for p in self.parameters:
            shape.update(f"{p.name}:{p.required}:{p.by_position}:{p.by_name}:{p.codec.fingerprint};".encode())
        shown = [
            f"{p.name}: {_type_name(hints[p.name])}" + ("" if p.required else " = …") for p in self.parameters
        ]
        return MethodContract(
            effect=self.effect,
            arguments=shape.hexdigest()[:32],
            returns=self._returns.fingerprint,
            signature=f"{self.name}({', '.join(shown)}) -> {_type_name(signature.return_annotation)}",
        )

    @cached_property
    def schemas(self) -> str:
        """What it takes and returns, as text: see :mod:`aegisipc.eventstore.contracts`."""
        return schemas_text(self.parameters, self._returns)

    @cached_property
    def offer(self) -> MethodContract:
        """Its contract, with the fingerprint of its schemas."""
        return self.contract.model_copy(update={"schemas": fingerprint_of(self.schemas)})

    def load(self, body: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Read the arguments of a call.

        Raises:
            ArgumentsRejected: they cannot be read or do not fit; names each field.
        """
        try:
            args, kwargs = _args_and_kwargs(decode(body, limits=BODY_LIMITS))
        except (CodecError, TypeError, ValueError) as error:
            raise ArgumentsRejected([FieldError("(arguments)", str(error), "malformed")]) from error
        if not kwargs and len(args) == len(self.parameters) == len(self._positional):
            try:  # the usual case, in one pass
                return [p.codec.validate(plain) for p, plain in zip(self._positional, args, strict=True)], {}
            except ValidationError:
                pass  # below, every fault is found and named
        return self._bind(args, kwargs)

    def arguments(self, body: bytes) -> dict[str, Any]:
        """Read the arguments of a call by parameter name, with the defaults of those that it leaves out.

        Raises:
            ArgumentsRejected: as :meth:`load`.
        """
        args, kwargs = self.load(body)
        given = dict(zip((p.name for p in self._positional), args, strict=False)) | kwargs
        return {p.name: given.get(p.name, p.default) for p in self.parameters}

    def _bind(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        errors: list[FieldError] = []
        loaded: list[Any] = []
        named: dict[str, Any] = {}
        if len(args) > len(self._positional):
            errors.append(self._too_many(len(args)))
        for parameter, plain in zip(self._positional, args, strict=False):
            loaded.append(_validated(parameter, plain, errors))
        for name, plain in kwargs.items():
            known = self._by_name.get(name)
            if known is None or not known.by_name:
                errors.append(
                    FieldError(
                        str(name), f"unexpected argument; {self.name}() takes {self._takes()}", "unexpected"
                    )
                )
            elif known.by_position and self._positional.index(known) < len(args):
                errors.append(FieldError(name, "given twice, by position and by name", "multiple_values"))
            else:
                named[name] = _validated(known, plain, errors)
        if len(loaded) + len(named) < len(self.parameters):
            errors += self._missing(len(args), kwargs)
        if errors:
            raise ArgumentsRejected(errors)
        return loaded, named

    def result_body(self, json_value: Any) -> bytes:
        """Check a result that came as JSON, as from an operator's command line, and encode it: what JSON has
        no form for (``Decimal``, dates, enums, …) is read from its usual text or number.

        Raises:
            InvalidResult: it does not fit the method's return type; names each fault.
        """
        try:
            value = TypeAdapter(self._returns.type).validate_json(json.dumps(json_value), by_name=True)
            return self._returns.encode(value)
        except ValidationError as error:
            faults = field_errors("", error)
        except (CodecError, TypeError, ValueError, RecursionError) as error:
            faults = [FieldError("", str(error), "malformed")]
        named = [fault._replace(field=fault.field or "result") for fault in faults]
        raise InvalidResult(
            f"cannot take that as the result of {self.name}: "
            f"{'; '.join(f'{fault.field}: {fault.message}' for fault in named)}; give it as JSON that fits "
            f"{self.contract.signature!r}",
            method=self.name,
            signature=self.contract.signature,
            errors=[fault._asdict() for fault in named],
        )

    def dump(self, result: object) -> bytes:
        """Check and encode a result.

        Raises:
            ResultRejected: it is not of the declared type.
            NotEncodable: it is, but cannot travel.
        """
        try:
            return self._returns.encode(result)
        except ValidationError as error:
            raise ResultRejected(faults_of(error, "result")) from error

    def _takes(self) -> str:
        return ", ".join(p.name for p in self.parameters) or "no arguments"

    def _too_many(self, given: int) -> FieldError:
        return FieldError(
            "(arguments)",
            f"{given} given by position, but {self.name}() takes {len(self._positional)} ({self._takes()})",
            "too_many",
        )

    def _missing(self, positional: int, kwargs: Mapping[str, Any]) -> list[FieldError]:
        filled = {p.name for p in self._positional[:positional]} | kwargs.keys()
        return [
            FieldError(p.name, f"missing; the method is {self.contract.signature}", "missing")
            for p in self.parameters
            if p.required and p.name not in filled
        ]


def _checked_retry(retry: object, name: str) -> Retry | None:
    if retry is None or isinstance(retry, Retry):
        return retry
    raise ServiceDefinitionError(
        f"cannot offer {name}() with retry={retry!r}: give a Retry, as in Retry(attempts=3)", option="retry"
    )


def _args_and_kwargs(given: Any) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = given
    if type(args) is not list or type(kwargs) is not dict:
        raise TypeError("not [positional, named]")
    return args, kwargs


def _validated(parameter: Parameter, plain: object, errors: list[FieldError]) -> Any:
    try:
        return parameter.codec.validate(plain)
    except ValidationError as error:
        errors += field_errors(parameter.name, error)
        return None


def faults_of(error: ValidationError, root: str = "value") -> str:
    """Return what is wrong with a value, on one line."""
    return "; ".join(f"{fault.field or root}: {fault.message}" for fault in field_errors("", error))


def field_errors(root: str, error: ValidationError) -> list[FieldError]:
    """Return what is wrong with a value, by field."""
    return [
        FieldError(".".join(filter(None, [root, *map(str, e["loc"])])), e["msg"], e["type"])
        for e in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _signature_of(function: Callable[..., Any], name: str) -> tuple[inspect.Signature, dict[str, Any]]:
    try:
        return inspect.signature(function), typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, ValueError) as error:
        raise ServiceDefinitionError(
            f"cannot offer {name}(): its annotations cannot be read: {error}"
        ) from error


def _codec(tp: Any, what: str) -> TypeCodec[Any]:
    try:
        return type_codec(tp)
    except PydanticUserError as error:
        raise ServiceDefinitionError(f"cannot use the type of {what}: {error.message}") from error


def _type_name(tp: Any) -> str:
    if tp is inspect.Signature.empty:
        return "Any"
    if isinstance(tp, str):
        return tp
    return tp.__name__ if isinstance(tp, type) and not typing.get_args(tp) else str(tp).replace("typing.", "")
