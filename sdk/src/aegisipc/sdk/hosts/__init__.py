"""The asyncio shells around the cores that run calls: :mod:`owned` for groups, :mod:`pool` for pools."""
