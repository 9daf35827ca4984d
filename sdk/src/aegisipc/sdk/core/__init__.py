"""The sans-IO cores of the SDK: what to send, run, refuse and give up, as plain state and data.

They know no event loop, no network and no clock: records, answers and the time come in as arguments, and what
has to be done comes out. The shells around them (``dispatch.py``, ``hosts/owned.py``, ``hosts/pool.py``) do
it. So the same code runs in production, in tests and on a simulated clock.
"""
