"""From ``MODULE:ATTR`` to the service it names; every way in which that can fail says what to do."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from aegisipc.eventstore.errors import AegisError
from aegisipc.sdk.service import Service


class ServiceNotFound(AegisError):
    """``MODULE:ATTR`` does not lead to a service. Field: ``where``; ``location`` if the module raised."""

    code = "service_not_found"


def load_service(where: str) -> Service:
    """Import the service that `where` (``MODULE:ATTR``) names; the current directory comes first on the path.

    Raises:
        ServiceNotFound: there is none; the cause, if the module raised, is the exception itself.
    """
    module_name, colon, attribute = where.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ServiceNotFound(
            f"cannot load {where!r}: write MODULE:ATTR, as in examples.orders:orders", where=where
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: object = _import(module_name, where)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ServiceNotFound(f"cannot load {where!r}: {_no_attribute(found, name)}", where=where)
        found = getattr(found, name)
    if not isinstance(found, Service):
        raise ServiceNotFound(
            f"cannot serve {where!r}: it is {_described(found)}, not a Service (aegisipc.sdk.Service)",
            where=where,
        )
    return found


def _import(module_name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ServiceNotFound(
                f"cannot load {where!r}: there is no module {error.name!r} in {Path.cwd()} or on the Python "
                "path; check its name, and the directory you are in",
                where=where,
            ) from None
        raise _raised(error, where) from error
    except Exception as error:
        raise _raised(error, where) from error
    except SystemExit as error:
        raise _raised(error, where) from error


def _raised(error: BaseException, where: str) -> ServiceNotFound:
    said = "".join(traceback.format_exception_only(error)).strip().splitlines()
    location = _location(error)
    return ServiceNotFound(
        f"cannot load {where!r}: importing it raised {said[-1]}{f' ({location})' if location else ''}; "
        "-v shows the traceback",
        where=where,
        location=location,
    )


def _location(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frames = [f for f in frames if f.filename != __file__]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _no_attribute(owner: object, name: str) -> str:
    services = (
        sorted(key for key, value in vars(owner).items() if isinstance(value, Service))
        if hasattr(owner, "__dict__")
        else []
    )
    offer = f"; its services are {', '.join(services)}" if services else "; it has no Service at all"
    return f"{getattr(owner, '__name__', owner)!r} has no attribute {name!r}{offer}"


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
