"""The tables of the read model: history in a shape that SQL can be asked about.

Every row follows from the log, and the tables can be filled again from it at any time. Names are prefixed
``aegis_``, so the tables may live beside others. Times are the server's Unix nanoseconds; sequences are those
of the log.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Index, Integer, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, TypeEngine

REVISION: Final = "r0001"
"""The revision of ``migrations/readmodel`` that has these tables."""

VERSION_TABLE: Final = "aegis_read_model_version"
"""Where Alembic notes the revision of a database."""

CHECKPOINT_ID: Final = 1

_NAME: Final = String(255)
_KEY: Final = String(256)
_ID: Final = String(64)
_CALL_ID: Final = String(36).with_variant(String(36, collation="C"), "postgresql")
"""Compared byte by byte: a database may sort texts by the rules of a language."""
_WORD: Final = String(32)
_BIG: Final[TypeEngine[int]] = BigInteger().with_variant(Integer, "sqlite")
"""Sequences and times. SQLite's integers have 64 bits by whatever name."""


class Base(DeclarativeBase):
    """Base of the tables of the read model."""

    metadata = MetaData()
    type_annotation_map = {int: _BIG, str: _NAME, bool: Boolean, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012 - as SQLAlchemy wants it


class Checkpoint(Base):
    """One row: how far the log has been taken in, and which log that is.

    ``stream_id`` is when the log's stream was made, so that another log of the same name is told apart.
    ``level`` is which calls have rows: ``all``, ``failures`` or ``off``.
    """

    __tablename__ = "aegis_checkpoint"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    namespace: Mapped[str]
    stream_id: Mapped[str]
    position: Mapped[int]
    position_ns: Mapped[int]
    fold_version: Mapped[int] = mapped_column(Integer)
    level: Mapped[str] = mapped_column(_WORD)
    updated_ns: Mapped[int]
    rebuilt_ns: Mapped[int]
    """When it was last filled from the beginning of the log; 0: never by ``rebuild``."""


class Instance(Base):
    """One run (incarnation) of an instance, as it is now or was at its end. ``ended_cause`` says why it is
    over; a run that another one of the same id followed without a word keeps the state that it had.
    """

    __tablename__ = "aegis_instances"

    service: Mapped[str] = mapped_column(primary_key=True)
    group_name: Mapped[str] = mapped_column(primary_key=True)
    instance: Mapped[str] = mapped_column(primary_key=True)
    incarnation: Mapped[str] = mapped_column(_ID, primary_key=True)
    mode: Mapped[str] = mapped_column(_WORD)
    state: Mapped[str] = mapped_column(_WORD)
    host: Mapped[str]
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(_ID)
    resources: Mapped[list[str]]
    registered_seq: Mapped[int]
    registered_ns: Mapped[int]
    since_ns: Mapped[int]
    ended_ns: Mapped[int | None]
    ended_cause: Mapped[str | None] = mapped_column(Text)


class InstanceEvent(Base):
    """One thing that happened to an instance, and why."""

    __tablename__ = "aegis_instance_events"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    instance: Mapped[str] = mapped_column(primary_key=True)
    at_ns: Mapped[int]
    service: Mapped[str]
    group_name: Mapped[str]
    incarnation: Mapped[str] = mapped_column(_ID)
    event: Mapped[str] = mapped_column(_WORD)
    state_after: Mapped[str] = mapped_column(_WORD)
    cause: Mapped[str] = mapped_column(Text)
    decided_by: Mapped[str]
    evidence: Mapped[dict[str, Any]] = mapped_column(JSON)


class Group(Base):
    """One group, as it is now."""

    __tablename__ = "aegis_groups"

    service: Mapped[str] = mapped_column(primary_key=True)
    group_name: Mapped[str] = mapped_column(primary_key=True)
    mode: Mapped[str] = mapped_column(_WORD)
    state: Mapped[str] = mapped_column(_WORD)
    epoch: Mapped[int]
    holder: Mapped[str | None]
    holder_incarnation: Mapped[str | None] = mapped_column(_ID)
    since_ns: Mapped[int]
    cause: Mapped[str] = mapped_column(Text)
    paused: Mapped[bool]
    paused_by: Mapped[str] = mapped_column(Text)


class Promotion(Base):
    """One event on a group's fence: ``promoted``, ``vacated``, ``handover_started`` or
    ``handover_cancelled``. A promotion that was only written again, so that it does not age out, is none.

    ``holder`` is who holds the pen from here on (``None``: nobody), of a handover that was started who is to
    have it; ``former_holder`` is who held it until here.
    """

    __tablename__ = "aegis_promotions"

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at_ns: Mapped[int]
    service: Mapped[str]
    group_name: Mapped[str]
    event: Mapped[str] = mapped_column(_WORD)
    epoch: Mapped[int]
    holder: Mapped[str | None]
    incarnation: Mapped[str | None] = mapped_column(_ID)
    former_holder: Mapped[str | None]
    kind: Mapped[str] = mapped_column(_WORD)
    cause: Mapped[str] = mapped_column(Text)
    author: Mapped[str]
    decided_by: Mapped[str]
    evidence: Mapped[dict[str, Any]] = mapped_column(JSON)


class Call(Base):
    """One call: the request log. ``status`` is a :class:`~aegisipc.eventstore.lifecycles.CallState`.

    ``started_ns`` is when its present (or last) attempt was claimed, null for methods that need no claim.
    ``concluded_*`` tell of its outcome, a dead letter among them; they are null while it has none.
    ``latency_us``: from its acceptance to its outcome. ``arguments`` and ``result`` are JSON, and null unless
    they are captured.
    """

    __tablename__ = "aegis_calls"
    __table_args__ = (
        Index("aegis_calls_accepted", "accepted_ns"),
        Index(
            "aegis_calls_unsuccessful",
            "status",
            "accepted_ns",
            sqlite_where=text("status <> 'succeeded'"),
            postgresql_where=text("status <> 'succeeded'"),
        ),
        {"sqlite_with_rowid": False},
    )

    call_id: Mapped[str] = mapped_column(_CALL_ID, primary_key=True)
    service: Mapped[str]
    group_name: Mapped[str]
    method: Mapped[str]
    resource: Mapped[str | None] = mapped_column(_KEY)
    client: Mapped[str]
    idempotency_key: Mapped[str | None] = mapped_column(_KEY)
    priority: Mapped[int] = mapped_column(Integer)
    accepted_seq: Mapped[int]
    accepted_ns: Mapped[int]
    deadline_ns: Mapped[int]
    status: Mapped[str] = mapped_column(_WORD)
    claimed_by: Mapped[str | None]
    claimed_epoch: Mapped[int | None]
    started_ns: Mapped[int | None]
    concluded_seq: Mapped[int | None]
    concluded_ns: Mapped[int | None]
    concluded_by: Mapped[str | None]
    latency_us: Mapped[int | None]
    tries: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    error_code: Mapped[str | None]
    error_message: Mapped[str | None] = mapped_column(Text)
    arguments: Mapped[str | None] = mapped_column(Text)
    result: Mapped[str | None] = mapped_column(Text)


class DeadLetter(Base):
    """One call that was given up, and what was done about it. ``seq`` is where it last became a dead letter;
    ``reason`` is the code of its error. ``state``: ``dead_lettered`` (it waits), ``requeued``, ``discarded``.
    """

    __tablename__ = "aegis_dead_letters"

    call_id: Mapped[str] = mapped_column(_CALL_ID, primary_key=True)
    seq: Mapped[int]
    at_ns: Mapped[int]
    service: Mapped[str]
    group_name: Mapped[str]
    method: Mapped[str]
    resource: Mapped[str | None] = mapped_column(_KEY)
    client: Mapped[str]
    reason: Mapped[str]
    message: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(_WORD)
    dealt_seq: Mapped[int | None]
    dealt_ns: Mapped[int | None]
    dealt_by: Mapped[str | None]


class Doubt(Base):
    """One time that a call was in doubt, and how that ended. ``resolution``: ``executed`` or ``not_executed``
    if somebody found out; else the outcome that the call had. ``source`` is who found it, for example
    ``operator``.
    """

    __tablename__ = "aegis_doubts"

    call_id: Mapped[str] = mapped_column(_CALL_ID, primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at_ns: Mapped[int]
    service: Mapped[str]
    group_name: Mapped[str]
    method: Mapped[str]
    resource: Mapped[str | None] = mapped_column(_KEY)
    client: Mapped[str]
    claimed_by: Mapped[str | None]
    claimed_epoch: Mapped[int | None]
    resolved_seq: Mapped[int | None]
    resolved_ns: Mapped[int | None]
    resolution: Mapped[str | None] = mapped_column(_WORD)
    source: Mapped[str | None] = mapped_column(_WORD)
    author: Mapped[str | None]
    reason: Mapped[str | None] = mapped_column(Text)
