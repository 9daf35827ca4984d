"""The table aegis_effects.

Says for itself what it makes, and does not ask the code of today: a revision never changes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "e0001"
down_revision = None
branch_labels = ("effects",)
depends_on = None

COLUMNS = {"call_id", "service", "method", "instance", "epoch", "created_at", "outcome"}


def upgrade() -> None:
    """Make it; or take over the one that ``create_table`` made."""
    found = sa.inspect(op.get_bind())
    if found.has_table("aegis_effects"):
        columns = {column["name"] for column in found.get_columns("aegis_effects")}
        if columns != COLUMNS:
            raise RuntimeError(
                f"there is a table aegis_effects with the columns {', '.join(sorted(columns))}: it is none "
                "of ours"
            )
        return
    op.create_table(
        "aegis_effects",
        sa.Column("call_id", sa.String(36), primary_key=True),
        sa.Column("service", sa.String(255), nullable=False),
        sa.Column("method", sa.String(255), nullable=False),
        sa.Column("instance", sa.String(255), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.LargeBinary, nullable=True),
    )
    op.create_index("aegis_effects_created_at", "aegis_effects", ["created_at"])


def downgrade() -> None:
    """Remove it, and all outcomes with it."""
    op.drop_table("aegis_effects")
