"""The `aegis` command."""
