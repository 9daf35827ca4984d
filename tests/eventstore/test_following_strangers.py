"""What others send to the inbox of somebody who follows the log: no record, and no subject to publish on."""

from __future__ import annotations

import asyncio

from aegisipc.eventstore.log import Start
from aegisipc.eventstore.nats.message import Message
from tests.eventstore.conftest import JetStreamBed
from tests.eventstore.kit import PATIENCE_S, Collected, append_all, until


async def test_a_record_that_another_consumer_delivers_is_not_taken(live: JetStreamBed) -> None:
    got = Collected()
    following = await live.jetstream.follow([live.calls], got, start=Start())
    await following.caught_up(PATIENCE_S)
    (name,) = await live.consumers()
    messages: list[Message] = []
    await live.connection.subscribe(f"_INBOX.{name}", messages.append)
    (foreign,) = await append_all(live.log, live.pen, [b"not called for"])
    stream = live.subjects.stream
    config = {"name": "x", "deliver_subject": f"_INBOX.{name}", "ack_policy": "none", "mem_storage": True}
    request = {"stream_name": stream, "config": config, "action": "create"}
    assert "error" not in await live.api(f"CONSUMER.CREATE.{stream}.x", request)
    await until(lambda: any(message.payload == b"not called for" for message in messages))
    (wanted,) = await append_all(live.log, live.calls, [b"called for"])
    await following.reached(wanted, PATIENCE_S)
    assert got.seqs == [wanted]
    assert wanted > foreign
    assert following.restarts == 0
    await following.stop()


async def test_nothing_is_published_on_a_subject_that_a_status_names(live: JetStreamBed) -> None:
    got = Collected()
    following = await live.jetstream.follow([live.calls], got, start=Start())
    await following.caught_up(PATIENCE_S)
    (name,) = await live.consumers()
    misled: list[Message] = []
    await live.connection.subscribe(live.fence, misled.append)
    inbox = f"_INBOX.{name}"
    await live.connection.publish(inbox, b"", reply=live.fence)
    await live.connection.publish(inbox, b"", headers={"Nats-Consumer-Stalled": live.fence})
    (wanted,) = await append_all(live.log, live.calls, [b"later"])
    await following.reached(wanted, PATIENCE_S)
    await live.connection.flush(PATIENCE_S)
    assert got.seqs == [wanted]
    assert misled == []
    assert await live.log.last(live.fence) is None
    await following.stop()


async def test_what_a_consumer_delivers_is_no_answer_to_a_request(live: JetStreamBed) -> None:
    asked: list[Message] = []
    await live.connection.subscribe("slow.question", asked.append)
    (seq,) = await append_all(live.log, live.calls, [b"forged"])
    waiting = asyncio.ensure_future(live.connection.request("slow.question", b"", timeout_s=PATIENCE_S))
    await until(lambda: bool(asked))
    delivered: list[Message] = []
    inbox = asked[0].reply
    await live.connection.subscribe(inbox, delivered.append)
    stream = live.subjects.stream
    config = {"name": "y", "deliver_subject": inbox, "ack_policy": "none", "mem_storage": True}
    request = {"stream_name": stream, "config": config, "action": "create"}
    assert "error" not in await live.api(f"CONSUMER.CREATE.{stream}.y", request)
    await until(lambda: any(message.payload == b"forged" for message in delivered))
    assert seq
    assert not waiting.done()
    await live.connection.publish(inbox, b"the answer")
    assert (await waiting).payload == b"the answer"
