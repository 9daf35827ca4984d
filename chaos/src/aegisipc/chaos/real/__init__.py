"""Chaos with real processes: clients, instances, routers and servers that are killed, frozen and cut off."""
