"""The routing fold as plain data, whole: what its future depends on is kept, also the order of things.

Sets have no order, so they are sorted; dictionaries have that in which the log filled them, and keep it.
Contracts stand in a table of their own: many instances offer the same one.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import dump_forms as form
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.lifecycles import GroupState, InstanceState
from aegisipc.eventstore.topology import Topology
from aegisipc.eventstore.views import Congestion, GroupView, Handover, InstanceView, Leadership, ServiceView

_TOPOLOGY: Final = (form.INT, form.LIST, form.LIST, form.LIST, form.LIST)
_LEADERSHIP: Final = (form.NUMBER, form.TEXT_OR_NONE, form.TEXT_OR_NONE, form.INT, form.INT, form.LIST)
_SERVICE: Final = (form.TEXT, form.FLAG, form.INT, form.LIST, form.LIST)
_GROUP: Final = (
    form.TEXT,  # name
    form.TEXT,  # state
    form.NUMBER,  # epoch
    form.TEXT_OR_NONE,  # holder
    form.TEXT_OR_NONE,  # holder's incarnation
    form.INT,  # fence
    form.INT,  # watch
    form.INT,  # since
    form.TEXT,  # cause
    form.FLAG,  # paused
    form.TEXT,  # paused by
    form.INT,  # where that was said
    form.LIST_OR_NONE,  # handover
    form.NUMBER,  # yielded epoch
    form.LIST_OR_NONE,  # congestion
    form.LIST,  # resources
    form.LIST,  # instances
    form.INT,  # contract
)
_HANDOVER: Final = (form.TEXT, form.TEXT, form.TEXT, form.TEXT, form.INT)
_CONGESTION: Final = (form.NUMBER, form.NUMBER, form.NUMBER, form.INT)
_INSTANCE: Final = (
    form.TEXT,  # id
    form.TEXT,  # state
    form.LIST,  # registration
    form.INT,  # where it registered
    form.INT,  # since
    form.FLAG,  # admitted
    form.LIST_OR_NONE,  # refusal
    form.TEXT_OR_NONE,  # unhealthy
    form.FLAG,  # quarantined
    form.TEXT_OR_NONE,  # who wants it drained
    form.FLAG,  # has finished
)
_REGISTRATION: Final = (
    form.TEXT,  # incarnation
    form.TEXT,  # mode
    form.LIST,  # resources
    form.INT,  # contract
    form.TEXT,  # host
    form.NUMBER,  # pid
    form.TEXT,  # version
    form.FLAG,  # quarantined
    form.NUMBER,  # backlog
    form.NUMBER,  # where its schemas stand
)
_REFUSAL: Final = (form.TEXT, form.TEXT, form.BINARY)
_METHOD: Final = (form.TEXT,) * 6


# -- dumping ----------------------------------------------------------------------------------------------


class _Contracts:
    """The table of contracts. Equal ones, with their methods in the same order, have one place in it."""

    def __init__(self) -> None:
        self.table: list[list[Any]] = []
        self._places: dict[bytes, int] = {}
        self._known: dict[int, int] = {}
        """By identity, of objects that live as long as this does: most groups share that of an instance."""

    def place(self, contract: ev.Contract) -> int:
        place = self._known.get(id(contract))
        if place is None:
            plain = [
                [name, m.effect.value, m.arguments, m.returns, m.signature, m.schemas]
                for name, m in contract.items()
            ]
            place = self._places.setdefault(msgpack.packb(plain), len(self.table))
            if place == len(self.table):
                self.table.append(plain)
            self._known[id(contract)] = place
        return place


def dump_topology(topology: Topology) -> list[Any]:
    """Return the fold as plain data that MessagePack can carry. Equal folds give equal data."""
    lead = topology.leadership
    contracts = _Contracts()
    services = [_dump_service(service, contracts) for service in topology.services.values()]
    return [
        topology.position,
        [
            form.number(lead.term),
            lead.router,
            lead.incarnation,
            lead.seq,
            lead.since_ns,
            form.dump_counts(lead.policy),
        ],
        form.dump_counts(topology.anomalies),
        contracts.table,
        services,
    ]


def _dump_service(service: ServiceView, contracts: _Contracts) -> list[Any]:
    return [
        service.name,
        service.paused,
        service.pause_seq,
        [[resource, group] for resource, group in service.resources.items()],
        [_dump_group(group, contracts) for group in service.groups.values()],
    ]


def _dump_group(group: GroupView, contracts: _Contracts) -> list[Any]:
    crowd = group.congestion
    return [
        group.name,
        group.state.value,
        form.number(group.epoch),
        group.holder,
        group.holder_incarnation,
        group.fence_seq,
        group.watch_seq,
        group.since_ns,
        group.cause,
        group.paused,
        group.paused_by,
        group.pause_seq,
        None if group.handover is None else list(group.handover),
        form.number(group.yielded_epoch),
        None if crowd is None else [*map(form.number, crowd[:3]), crowd.since_ns],
        sorted(group.resources),
        [_dump_instance(instance, contracts) for instance in group.instances.values()],
        contracts.place(group.contract),
    ]


def _dump_instance(instance: InstanceView, contracts: _Contracts) -> list[Any]:
    said = instance.registration
    refusal = instance.refusal
    return [
        instance.id,
        instance.state.value,
        [
            said.incarnation,
            said.mode,
            list(said.resources),
            contracts.place(said.contract),
            said.host,
            form.number(said.pid),
            said.version,
            said.quarantined,
            form.number(said.max_backlog),
            form.number(said.contract_seq),
        ],
        instance.registered_seq,
        instance.since_ns,
        instance.admitted,
        None if refusal is None else [refusal.code, refusal.message, msgpack.packb(refusal.details)],
        instance.unhealthy,
        instance.quarantined,
        instance.drain_requested_by,
        instance.has_finished,
    ]


# -- loading ----------------------------------------------------------------------------------------------


def load_topology(plain: Any, topology: Topology) -> None:
    """Fill an empty fold with what :func:`dump_topology` gave.

    Raises:
        one of ``dump_forms.UNREADABLE``: it does not hold together. Then the fold is as it was.
    """
    position, lead, anomalies, table, services = form.typed(plain, _TOPOLOGY)
    term, router, incarnation, seq, since_ns, policy = form.typed(lead, _LEADERSHIP)
    term = form.read_number(term)
    leadership = Leadership(term, router, incarnation, seq, since_ns, form.load_counts(policy))
    counted = form.load_counts(anomalies)
    contracts = [_load_contract(contract) for contract in table]
    loaded = form.unique(_load_service(service, contracts) for service in services)
    topology.position = position
    topology.leadership = leadership
    topology.anomalies.update(counted)
    topology.services.update(loaded)


def _load_contract(plain: Any) -> ev.Contract:
    return form.unique(
        (
            name,
            ev.MethodContract(
                effect=ev.Effect(effect),
                arguments=arguments,
                returns=returns,
                signature=signature,
                schemas=schemas,
            ),
        )
        for name, effect, arguments, returns, signature, schemas in form.each(plain, _METHOD)
    )


def _of_table(contracts: list[ev.Contract], place: int) -> ev.Contract:
    if place < 0:
        raise IndexError("a contract is not there")
    return contracts[place]


def _load_service(plain: Any, contracts: list[ev.Contract]) -> tuple[str, ServiceView]:
    name, paused, pause_seq, resources, groups = form.typed(plain, _SERVICE)
    service = ServiceView(name, paused, pause_seq)
    service.resources = form.unique(
        (resource, group) for resource, group in form.each(resources, (form.TEXT, form.TEXT))
    )
    service.groups = form.unique(_load_group(name, group, contracts) for group in groups)
    if not service.groups.keys() >= set(service.resources.values()):
        raise ValueError("a resource belongs to a group that is not there")
    return name, service


def _load_group(service: str, plain: Any, contracts: list[ev.Contract]) -> tuple[str, GroupView]:
    name, state, epoch, *fields, resources, instances, contract = form.typed(plain, _GROUP)
    holder, incarnation, fence, watch, since_ns, cause, paused, by, pause_seq, *rest = fields
    handover, yielded, crowd = rest
    group = GroupView(
        service,
        name,
        GroupState(state),
        form.read_number(epoch),
        holder,
        incarnation,
        fence,
        watch,
        since_ns,
        cause,
        paused,
        by,
        pause_seq,
    )
    group.handover = None if handover is None else Handover(*form.typed(handover, _HANDOVER))
    group.yielded_epoch = form.read_number(yielded)
    if crowd is not None:
        *numbers, crowded_ns = form.typed(crowd, _CONGESTION)
        count, limit, retry_ms = map(form.read_number, numbers)
        group.congestion = Congestion(count, limit, retry_ms, crowded_ns)
    group.resources = set(form.texts(resources))
    group.instances = form.unique(_load_instance(service, name, each, contracts) for each in instances)
    group.contract = _of_table(contracts, contract)
    return name, group


def _load_instance(
    service: str, group: str, plain: Any, contracts: list[ev.Contract]
) -> tuple[str, InstanceView]:
    name, state, said, seq, since_ns, admitted, refusal, *rest = form.typed(plain, _INSTANCE)
    unhealthy, quarantined, drain, has_finished = rest
    error = None
    if refusal is not None:
        code, message, details = form.typed(refusal, _REFUSAL)
        error = ev.ErrorInfo(code=code, message=message, details=msgpack.unpackb(details))
    registration = _load_registration(said, contracts)
    return name, InstanceView(
        service,
        group,
        name,
        InstanceState(state),
        registration,
        seq,
        since_ns,
        admitted=admitted,
        refusal=error,
        unhealthy=unhealthy,
        quarantined=quarantined,
        drain_requested_by=drain,
        has_finished=has_finished,
    )


def _load_registration(plain: Any, contracts: list[ev.Contract]) -> ev.InstanceRegistered:
    incarnation, mode, resources, contract, host, pid, version, *rest = form.typed(plain, _REGISTRATION)
    quarantined, backlog, contract_seq = rest
    return ev.InstanceRegistered(
        incarnation=incarnation,
        mode=mode,
        resources=tuple(form.texts(resources)),
        contract=_of_table(contracts, contract),
        host=host,
        pid=form.read_number(pid),
        version=version,
        quarantined=quarantined,
        max_backlog=form.read_number(backlog),
        contract_seq=form.read_number(contract_seq),
    )
