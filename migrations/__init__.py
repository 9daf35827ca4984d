"""Alembic environments for the databases that AegisIPC has tables in, and the verb ``aegis migrate``.

One folder for each kind of database, with its own ``env.py``, ``versions`` and version table: ``effects`` is
for the databases of services, ``readmodel`` for that of history.
"""
