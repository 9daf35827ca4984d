"""Deterministic simulation: the production code on a virtual clock, against a model of NATS JetStream.

Everything runs in one thread on one event loop (:mod:`~aegisipc.chaos.sim.loop`): real clients, instances
and routers, unchanged, whose sessions end in a model server instead of a socket. One seed decides the order
of what is ready, all delays and all faults; the same seed gives the same run.
"""
