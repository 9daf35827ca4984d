"""The tables of the read model, as they were first.

Says for itself what it makes, and does not ask the code of today: a revision never changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = ("readmodel",)
depends_on = None

NAME = sa.String(255)
KEY = sa.String(256)
ID = sa.String(64)
WORD = sa.String(32)
BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
CALL_ID = sa.String(36).with_variant(sa.String(36, collation="C"), "postgresql")

TABLES = (
    "aegis_checkpoint",
    "aegis_instances",
    "aegis_instance_events",
    "aegis_groups",
    "aegis_promotions",
    "aegis_calls",
    "aegis_dead_letters",
    "aegis_doubts",
)


def _make_checkpoint() -> None:
    op.create_table(
        "aegis_checkpoint",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("namespace", NAME, nullable=False),
        sa.Column("stream_id", NAME, nullable=False),
        sa.Column("position", BIG, nullable=False),
        sa.Column("position_ns", BIG, nullable=False),
        sa.Column("fold_version", sa.Integer, nullable=False),
        sa.Column("level", WORD, nullable=False),
        sa.Column("updated_ns", BIG, nullable=False),
        sa.Column("rebuilt_ns", BIG, nullable=False),
    )


def _make_instances() -> None:
    op.create_table(
        "aegis_instances",
        sa.Column("service", NAME, primary_key=True),
        sa.Column("group_name", NAME, primary_key=True),
        sa.Column("instance", NAME, primary_key=True),
        sa.Column("incarnation", ID, primary_key=True),
        sa.Column("mode", WORD, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("host", NAME, nullable=False),
        sa.Column("pid", BIG, nullable=False),
        sa.Column("version", ID, nullable=False),
        sa.Column("resources", sa.JSON, nullable=False),
        sa.Column("registered_seq", BIG, nullable=False),
        sa.Column("registered_ns", BIG, nullable=False),
        sa.Column("since_ns", BIG, nullable=False),
        sa.Column("ended_ns", BIG, nullable=True),
        sa.Column("ended_cause", sa.Text, nullable=True),
    )


def _make_instance_events() -> None:
    op.create_table(
        "aegis_instance_events",
        sa.Column("seq", BIG, primary_key=True, autoincrement=False),
        sa.Column("instance", NAME, primary_key=True),
        sa.Column("at_ns", BIG, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("group_name", NAME, nullable=False),
        sa.Column("incarnation", ID, nullable=False),
        sa.Column("event", WORD, nullable=False),
        sa.Column("state_after", WORD, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("decided_by", NAME, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
    )


def _make_groups() -> None:
    op.create_table(
        "aegis_groups",
        sa.Column("service", NAME, primary_key=True),
        sa.Column("group_name", NAME, primary_key=True),
        sa.Column("mode", WORD, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("holder", NAME, nullable=True),
        sa.Column("holder_incarnation", ID, nullable=True),
        sa.Column("since_ns", BIG, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("paused_by", sa.Text, nullable=False),
    )


def _make_promotions() -> None:
    op.create_table(
        "aegis_promotions",
        sa.Column("seq", BIG, primary_key=True, autoincrement=False),
        sa.Column("at_ns", BIG, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("group_name", NAME, nullable=False),
        sa.Column("event", WORD, nullable=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("holder", NAME, nullable=True),
        sa.Column("incarnation", ID, nullable=True),
        sa.Column("former_holder", NAME, nullable=True),
        sa.Column("kind", WORD, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("author", NAME, nullable=False),
        sa.Column("decided_by", NAME, nullable=False),
        sa.Column("evidence", sa.JSON, nullable=False),
    )


def _make_calls() -> None:
    op.create_table(
        "aegis_calls",
        sa.Column("call_id", CALL_ID, primary_key=True),
        sa.Column("service", NAME, nullable=False),
        sa.Column("group_name", NAME, nullable=False),
        sa.Column("method", NAME, nullable=False),
        sa.Column("resource", KEY, nullable=True),
        sa.Column("client", NAME, nullable=False),
        sa.Column("idempotency_key", KEY, nullable=True),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("accepted_seq", BIG, nullable=False),
        sa.Column("accepted_ns", BIG, nullable=False),
        sa.Column("deadline_ns", BIG, nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("claimed_by", NAME, nullable=True),
        sa.Column("claimed_epoch", BIG, nullable=True),
        sa.Column("started_ns", BIG, nullable=True),
        sa.Column("concluded_seq", BIG, nullable=True),
        sa.Column("concluded_ns", BIG, nullable=True),
        sa.Column("concluded_by", NAME, nullable=True),
        sa.Column("latency_us", BIG, nullable=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("error_code", NAME, nullable=True),
        sa.Column("error_message", sa.Text, nullable=True),
        sa.Column("arguments", sa.Text, nullable=True),
        sa.Column("result", sa.Text, nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("aegis_calls_accepted", "aegis_calls", ["accepted_ns"])
    unsuccessful = sa.text("status <> 'succeeded'")
    op.create_index(
        "aegis_calls_unsuccessful",
        "aegis_calls",
        ["status", "accepted_ns"],
        sqlite_where=unsuccessful,
        postgresql_where=unsuccessful,
    )


def _make_dead_letters() -> None:
    op.create_table(
        "aegis_dead_letters",
        sa.Column("call_id", CALL_ID, primary_key=True),
        sa.Column("seq", BIG, nullable=False),
        sa.Column("at_ns", BIG, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("group_name", NAME, nullable=False),
        sa.Column("method", NAME, nullable=False),
        sa.Column("resource", KEY, nullable=True),
        sa.Column("client", NAME, nullable=False),
        sa.Column("reason", NAME, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("state", WORD, nullable=False),
        sa.Column("dealt_seq", BIG, nullable=True),
        sa.Column("dealt_ns", BIG, nullable=True),
        sa.Column("dealt_by", NAME, nullable=True),
    )


def _make_doubts() -> None:
    op.create_table(
        "aegis_doubts",
        sa.Column("call_id", CALL_ID, primary_key=True),
        sa.Column("seq", BIG, primary_key=True, autoincrement=False),
        sa.Column("at_ns", BIG, nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("group_name", NAME, nullable=False),
        sa.Column("method", NAME, nullable=False),
        sa.Column("resource", KEY, nullable=True),
        sa.Column("client", NAME, nullable=False),
        sa.Column("claimed_by", NAME, nullable=True),
        sa.Column("claimed_epoch", BIG, nullable=True),
        sa.Column("resolved_seq", BIG, nullable=True),
        sa.Column("resolved_ns", BIG, nullable=True),
        sa.Column("resolution", WORD, nullable=True),
        sa.Column("source", WORD, nullable=True),
        sa.Column("author", NAME, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
    )


def upgrade() -> None:
    """Make them."""
    _check_free()
    _make_checkpoint()
    _make_instances()
    _make_instance_events()
    _make_groups()
    _make_promotions()
    _make_calls()
    _make_dead_letters()
    _make_doubts()


def _check_free() -> None:
    found = [name for name in TABLES if sa.inspect(op.get_bind()).has_table(name)]
    if found:
        raise RuntimeError(
            f"there are tables {', '.join(found)} already, and no revision is noted: they are none of ours"
        )


def downgrade() -> None:
    """Remove them; what they hold can be filled in again from the log."""
    for name in TABLES:
        op.drop_table(name)
