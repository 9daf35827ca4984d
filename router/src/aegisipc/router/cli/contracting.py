"""Showing what services offer, and comparing it."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from aegisipc.eventstore.cli.output import Paint, print_json, printable, table
from aegisipc.eventstore.contracts import (
    Difference,
    Offer,
    Schemas,
    as_text,
    changes_of,
    fingerprint_of,
    offers_of,
    unpack,
)
from aegisipc.eventstore.errors import AegisError, InvalidName, MalformedPayload
from aegisipc.eventstore.events import Contract, MethodContract, ServiceContract, decode_event
from aegisipc.eventstore.jetstream_last import record_at
from aegisipc.eventstore.names import check_method, check_name, split_method
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.options import ConnectOptions
from aegisipc.eventstore.streams import open_log
from aegisipc.eventstore.subjects import Subjects, subjects_of
from aegisipc.eventstore.topology import InstanceView, ServiceView, Topology

_MAX_FILE_BYTES: Final = 16 * 1024 * 1024
_MAX_INSTANCES: Final = 1000
_SHORT: Final = 10

type Plain = dict[str, Any]


class NoSuchContract(AegisError):
    """There is no service, instance or file of that name, or it holds no contract. Field: ``target``."""

    code = "no_such_contract"


class Offered(NamedTuple):
    """What was asked for: a contract, with those schemas that are known, and who offers what."""

    service: str
    offers: Mapping[str, Offer]
    instances: list[InstanceView]


# -- show -----------------------------------------------------------------------------------------------


async def show(args: Namespace) -> int:
    """Print what a service offers."""
    if args.method is not None:
        check_method(args.method)
    offered = await _Reader(args).offered(args.service)
    names = [name for name in sorted(offered.offers) if _is_asked(name, args.method)]
    if not names:
        have = ", ".join(sorted(offered.offers)) or "no methods"
        args.usage_error(f"{offered.service} has no method {args.method!r}; it has {have}")
    if args.json:
        print_json(_as_plain(offered, names))
    else:
        print(_as_text(offered, names, Paint()))
    return 0


def _is_asked(name: str, method: str | None) -> bool:
    return method is None or name == method or split_method(name)[0] == method


def _as_plain(offered: Offered, names: Iterable[str]) -> Plain:
    asked = list(names)
    return {
        "service": offered.service,
        "contract": {
            name: {
                **offered.offers[name].contract.model_dump(mode="json"),
                "version": split_method(name)[1],
                "document": offered.offers[name].schemas,
            }
            for name in asked
        },
        "instances": [
            {
                "instance": each.id,
                "group": each.group,
                "state": str(each.state),
                "version": each.registration.version,
                "contract_seq": each.registration.contract_seq,
                "methods": {
                    name: method.schemas
                    for name, method in sorted(each.registration.contract.items())
                    if name in asked
                },
            }
            for each in offered.instances
        ],
    }


def _as_text(offered: Offered, names: list[str], paint: Paint) -> str:
    rows: list[list[object]] = []
    for name in names:
        offer = offered.offers[name]
        shown = printable(offer.contract.signature)
        rows.append([name, str(offer.contract.effect), _short(offer.contract.schemas), shown])
    lines = [table(("METHOD", "EFFECT", "SCHEMAS", "SIGNATURE"), rows, paint)]
    if offered.instances:
        headers = ("INSTANCE", "GROUP", "STATE", "OFFERS")
        who = [[each.id, each.group, str(each.state), _offers_of(each, names)] for each in offered.instances]
        lines += ["", table(headers, who, paint)]
    return "\n".join(lines)


def _offers_of(instance: InstanceView, names: Iterable[str]) -> str:
    contract = instance.registration.contract
    return ", ".join(f"{name} {_short(contract[name].schemas)}" for name in names if name in contract) or "-"


def _short(fingerprint: str) -> str:
    return printable(fingerprint[:_SHORT]) or "-"


# -- diff -----------------------------------------------------------------------------------------------


async def diff(args: Namespace) -> int:
    """Print the differences of two contracts; 1 if somebody breaks."""
    reader = _Reader(args)
    try:
        old, new = await reader.offered(args.old), await reader.offered(args.new)
    except (NoSuchContract, InvalidName) as error:  # 1 would say that somebody breaks
        args.usage_error(error.message)
        raise
    found = changes_of(new.service, old.offers, new.offers)
    breaks = any(difference.breaking for difference in found)
    if args.json:
        print_json({"compatible": not breaks, "differences": [difference._asdict() for difference in found]})
    else:
        print("\n".join(_told(found, Paint())))
    return 1 if breaks else 0


def _told(found: list[Difference], paint: Paint) -> Iterator[str]:
    if not found:
        yield "they are the same"
    for difference in found:
        mark = "!" if difference.breaking else " "
        yield paint("red" if difference.breaking else "green", f"{mark} {printable(str(difference))}")


# -- reading --------------------------------------------------------------------------------------------


class _Reader:
    """Finds contracts: in files, or in the log, which is read once and only if needed."""

    def __init__(self, args: Namespace) -> None:
        self._args = args
        self._topology: Topology | None = None

    async def offered(self, target: str) -> Offered:
        """Return the contract that a word of the command line means.

        Raises:
            NoSuchContract: it means none.
            InvalidName: no service or instance can have that name.
        """
        path = Path(target)
        if path.suffix == ".json" or path.is_file():  # noqa: ASYNC240 - nothing else runs here
            return _from_file(path)
        name, slash, instance = target.partition("/")
        check_name(name, "service")
        if slash:
            check_name(instance, "instance")
        subjects = subjects_of(self._args.namespace)
        options = ConnectOptions(self._args.url, name="aegis:contract")
        async with await Connection.open(options) as connection:
            service = (await self._read_topology(connection, subjects)).services.get(name)
            if service is None or not any(True for group in service.groups.values() if group.instances):
                raise NoSuchContract(
                    f"no service {name!r} has joined namespace {subjects.namespace!r}", target=target
                )
            found = _instances(service, instance)
            if not found:
                raise NoSuchContract(f"service {name!r} has no instance {instance!r}", target=target)
            contract = found[0].registration.contract if slash else service.contract
            known = await _schemas(connection, subjects, contract, found)
            return Offered(name, offers_of(contract, known), found)

    async def _read_topology(self, connection: Connection, subjects: Subjects) -> Topology:
        if self._topology is None:
            log = await open_log(connection, subjects)
            self._topology = Topology(subjects)
            async for record in log.read([subjects.topology]):
                self._topology.apply(record)
        return self._topology


def _instances(service: ServiceView, instance: str) -> list[InstanceView]:
    """The live instances, or those that were there last; or the one of that name, whatever became of it."""
    everyone = [each for group in service.groups.values() for each in group.instances.values()]
    if instance:
        return [each for each in everyone if each.id == instance]
    live = list(service.live())
    return (live or everyone)[:_MAX_INSTANCES]


async def _schemas(
    connection: Connection, subjects: Subjects, contract: Contract, instances: Iterable[InstanceView]
) -> dict[str, Schemas]:
    """Read as many records as are needed for the schemas of a contract."""
    wanted = {method.schemas for method in contract.values() if method.schemas}
    known: dict[str, Schemas] = {}
    seen: set[int] = set()
    for instance in instances:
        registration = instance.registration
        has = {method.schemas for method in registration.contract.values()}
        seq = registration.contract_seq
        if not seq or seq in seen or not (wanted - known.keys()) & has:
            continue
        seen.add(seq)
        record = await record_at(connection, subjects.stream, seq)
        try:
            event = decode_event(record.payload) if record is not None else None
            known |= unpack(event) if isinstance(event, ServiceContract) else {}
        except MalformedPayload:  # then it is compared by its fingerprints
            continue
    return known


def _from_file(path: Path) -> Offered:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise NoSuchContract(f"{path} is too large to be a contract", target=str(path))
        told = json.loads(path.read_text(encoding="utf-8"))
        offers = {check_method(name): _read_offer(method) for name, method in told["contract"].items()}
        return Offered(check_name(told["service"], "service"), offers, [])
    except OSError as error:
        raise NoSuchContract(f"cannot read {path}: {error.strerror}", target=str(path)) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, InvalidName) as error:
        raise NoSuchContract(
            f"{path} is not the output of aegis contract show --json ({type(error).__name__})",
            target=str(path),
        ) from error


def _read_offer(told: Plain) -> Offer:
    document = told.get("document")
    if document is None:
        return Offer(MethodContract.model_validate(told), None)
    if not isinstance(document, dict):
        raise TypeError("no schemas")
    contract = MethodContract.model_validate({**told, "schemas": fingerprint_of(as_text(document))})
    return Offer(contract, document)
