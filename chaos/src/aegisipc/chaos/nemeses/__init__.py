"""What breaks things: faults of networks, disks, clocks, processes, clusters and messages, one module each.

Nothing here knows of scenarios, or judges what comes of a fault. What a machine cannot do raises
:class:`~aegisipc.chaos.nemeses.errors.Unavailable`, which says why.
"""
