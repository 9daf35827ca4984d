"""Alembic runs this for each command. The connection comes from :mod:`migrations.readmodel.command`."""

from __future__ import annotations

from alembic import context

from aegisipc.eventstore.sql.models import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
