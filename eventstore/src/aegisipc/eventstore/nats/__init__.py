"""The NATS side of the event store.

Everything goes through one supervised ``Connection`` (``connection.py``), which knows what nats-py does
badly:

- ``options``, ``events``, ``message``: the plain data of the interface;
- ``wire``: one session with one server, on nats-py's handshake and parser; it ends once and is never
  revived;
- ``inflight``: requests that wait for their answer;
- ``subscription``, ``mailbox``: subscriptions that outlive sessions, and their bounded queues;
- ``dialing``: which server to try, and what its refusals mean;
- ``connection``: supervision; a new session after each one that ended.
"""
