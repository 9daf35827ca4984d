"""The table ``aegis_effects`` in the databases of services."""
