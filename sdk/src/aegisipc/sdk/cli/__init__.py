"""Verbs of the `aegis` command that the library contributes: serve, call."""
