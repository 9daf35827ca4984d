"""The tables of the read model: history in SQL."""
