"""Scripts about streams: publishing under conditions, reading, making, purging, limits, duplicates."""

from __future__ import annotations

import json
from typing import Final

from aegisipc.chaos.conformance.stage import Publish, Stage
from aegisipc.eventstore.nats.message import Message

_FORGET_S: Final = 1.0


async def conditions(stage: Stage) -> None:
    """Message ids and expectations, in all their combinations."""
    a, b = stage.subject("a"), stage.subject("b")
    await stage.create_stream()
    await stage.publish(
        Publish(a, id="1"),
        Publish(a, id="1"),
        Publish(a, id="1", last=0),
        Publish(a, id="1", last=1),
        Publish(a, id="2", last=0),
        Publish(a, id="2", last=1),
        Publish(b, id="3", last=2, of=a),
        Publish(b, id="3", last=2, of=a),
        Publish(b, id="4", last=1, of=a),
        Publish(b, last=3, of=stage.subject(">")),
        Publish(b, last=2, of=stage.subject("*")),
        Publish(b, last=0, of=stage.subject("none")),
        Publish(b, last=4, of=b),
        Publish(b, last=0, of="elsewhere.a"),
        Publish(b, last=7, of="elsewhere.a"),
        Publish(b, of=a),
        Publish(b, last="abc"),
        Publish(b, last=""),
        Publish(b, stream="OTHER"),
        Publish(b, id="1", stream="OTHER"),
        Publish(b, id="1", of=a),
        Publish(b, id="5", stream=stage.name, last=6),
        Publish(stage.subject("deep.er.x"), last=0),
        Publish(stage.subject("deep.er.y"), last=8, of=stage.subject("deep.er.*")),
        Publish(stage.subject("deep.er.y"), last=8, of=stage.subject("deep.er.x")),
        Publish("elsewhere.b"),
    )
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": ">"})


async def at_once(stage: Stage) -> None:
    """Of many with the same expectation, or the same id, one is stored."""
    await stage.create_stream()
    await stage.publish_at_once(*(Publish(stage.subject("a"), b"%d" % n, last=0) for n in range(4)))
    await stage.publish_at_once(*(Publish(stage.subject("b"), b"%d" % n, id="same") for n in range(4)))
    await stage.publish_at_once(*(Publish(stage.subject("c"), b"%d" % n) for n in range(6)))


async def reading(stage: Stage) -> None:
    """Single messages by place, and by subject with wildcards."""
    await stage.create_stream()
    get = f"STREAM.MSG.GET.{stage.name}"
    await stage.api(get, {"last_by_subj": stage.subject("a")})
    await stage.publish(
        Publish(stage.subject("a.x"), b"one", id="one"),
        Publish(stage.subject("a.y"), b"two"),
        Publish(stage.subject("b"), b""),
        Publish(stage.subject("a.x.z"), b"four"),
    )
    for pattern in ("a.x", "a.*", "a.>", ">", "b", "a", "*", "*.y", "none", "a.x.z.q"):
        await stage.api(get, {"last_by_subj": stage.subject(pattern)})
    for seq in (1, 3, 4, 5, 100):
        await stage.api(get, {"seq": seq})
    for body in ({}, b"", b"{", {"seq": 0}, {"last_by_subj": ""}):
        await stage.api(get, body)
    await stage.api("STREAM.MSG.GET.NONE", {"seq": 1})


async def making(stage: Stage) -> None:
    """Streams that are there, that are not, that differ, and that overlap."""
    await stage.api(f"STREAM.INFO.{stage.name}")
    await stage.create_stream()
    await stage.create_stream()
    await stage.create_stream(deny_purge=True)
    await stage.create_stream(name=f"{stage.name}_2")
    await stage.create_stream(name=f"{stage.name}_2", subjects=[stage.subject("a")])
    await stage.create_stream(name=f"{stage.name}_2", subjects=[stage.subject("a"), "apart.>"])
    await stage.create_stream(name=f"{stage.name}_2", subjects=["apart." + stage.root])
    await stage.api(f"STREAM.INFO.{stage.name}")
    await stage.publish(Publish(stage.subject("a")), Publish("apart." + stage.root))
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": stage.subject(">")})
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": stage.subject("none")})
    await stage.api(f"STREAM.DELETE.{stage.name}")
    await stage.api(f"STREAM.DELETE.{stage.name}")
    await stage.publish(Publish(stage.subject("a")))
    await stage.create_stream(first_seq=40, description="from 40")
    await stage.api(f"STREAM.INFO.{stage.name}")
    await stage.publish(Publish(stage.subject("a"), last=0), Publish(stage.subject("a"), last=40))
    await stage.api(f"STREAM.INFO.{stage.name}")


async def purging(stage: Stage) -> None:
    """What is removed, and what the stream says afterwards."""
    await stage.create_stream()
    purge, info = f"STREAM.PURGE.{stage.name}", f"STREAM.INFO.{stage.name}"
    everything = {"subjects_filter": ">"}
    for number in range(9):
        await stage.publish(Publish(stage.subject("abc"[number % 3]), id=str(number)))
    await stage.api(purge, {"filter": stage.subject("a")})
    await stage.api(info, everything)
    await stage.api(f"STREAM.MSG.GET.{stage.name}", {"last_by_subj": stage.subject("a")})
    await stage.publish(Publish(stage.subject("a"), id="0"), Publish(stage.subject("a"), last=0))
    await stage.api(purge, {"filter": stage.subject("b"), "seq": 8})
    await stage.api(info, everything)
    await stage.api(f"STREAM.MSG.GET.{stage.name}", {"last_by_subj": stage.subject("b")})
    await stage.api(purge, {"filter": stage.subject("none")})
    await stage.api(purge, {"seq": 7})
    await stage.api(info, everything)
    await stage.api(purge)
    await stage.api(info, everything)
    await stage.publish(Publish(stage.subject("a"), id="8"), Publish(stage.subject("a"), id="new"))
    await stage.api(info, everything)
    await stage.api("STREAM.PURGE.NONE")
    await stage.create_stream(name=f"{stage.name}_KEPT", subjects=["kept." + stage.root], deny_purge=True)
    await stage.api(f"STREAM.PURGE.{stage.name}_KEPT")


async def limits(stage: Stage) -> None:
    """A full stream refuses, or drops the oldest; sizes are as the server counts them."""
    await stage.create_stream(max_bytes=400)
    for number in range(8):
        await stage.publish(Publish(stage.subject("a"), b"y" * 20, id=str(number)))
    await stage.publish(Publish(stage.subject("a"), b""), Publish(stage.subject("a"), b"y" * 60))
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": ">"})
    old = stage.root + "old"
    await stage.create_stream(name=f"{stage.name}_OLD", subjects=[f"{old}.>"], max_bytes=400, discard="old")
    for number in range(12):
        await stage.publish(Publish(f"{old}.{number % 3}", b"y" * (7 * number)))
    await stage.api(f"STREAM.INFO.{stage.name}_OLD", {"subjects_filter": ">"})
    await stage.publish(Publish(f"{old}.0", b"y" * (stage.connection.server.max_payload_bytes + 1)))


async def forgetting(stage: Stage) -> None:
    """A message id is remembered for as long as the window is."""
    await stage.create_stream(duplicate_window=200_000_000)
    await stage.publish(Publish(stage.subject("a"), id="1"), Publish(stage.subject("a"), id="1"))
    await stage.pause(_FORGET_S)
    await stage.publish(Publish(stage.subject("a"), id="1"), Publish(stage.subject("a"), id="1"))


async def ageing(stage: Stage) -> None:
    """What is too old is there no more."""
    await stage.create_stream(max_age=300_000_000, duplicate_window=300_000_000)
    await stage.publish(Publish(stage.subject("a")), Publish(stage.subject("b")))
    await stage.pause(2 * _FORGET_S)
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": ">"})
    await stage.publish(Publish(stage.subject("a"), last=1), Publish(stage.subject("a"), last=0))
    await stage.api(f"STREAM.MSG.GET.{stage.name}", {"seq": 1})


async def plain_messages(stage: Stage) -> None:
    """Subscriptions with wildcards, queue groups, and subjects that nobody serves."""
    places = stage.subject("p")
    await stage.listen("exact", f"{places}.a")
    await stage.listen("one", f"{places}.*")
    await stage.listen("all", f"{places}.>")
    await stage.listen("any", f"{stage.root}.*.a")
    for tail in ("a", "b", "a.b"):
        await stage.connection.publish(f"{places}.{tail}", tail.encode(), headers={"Key": "value"})
    await stage.until("all", 3)
    await stage.until("one", 2)
    await stage.until("any", 1)
    await stage.listen_no_more("one")
    await stage.connection.publish(f"{places}.a", b"later")
    await stage.until("exact", 2)
    await stage.request("nobody." + stage.root)
    counted: list[str] = []
    for _ in range(3):
        await stage.connection.subscribe(
            f"{places}.q", lambda message: counted.append(message.subject), queue="workers"
        )
    for _ in range(30):
        await stage.connection.publish(f"{places}.q", b"")
    await stage.until("all", 34)
    await stage.wait(lambda: len(counted) >= 30)
    stage.note(f"the queue got {len(counted)}")
    await stage.request("$JS.API.CONSUMER.MSG.NEXT.NONE.none")
    await stage.request("$SYS.REQ.SERVER.PING.IDZ")


async def system_account(stage: Stage) -> None:
    """The system account hears of connections that end, and may ask how streams are kept."""
    name = f"aegis:{stage.root}:ended"
    events: list[tuple[int, str]] = []

    def hear(message: Message) -> None:
        if name.encode() in message.payload:
            events.append(_shown_event(message.payload))

    system = await stage.site.connect_system("watcher")
    try:
        await system.subscribe("$SYS.ACCOUNT.*.DISCONNECT", hear)
        other = await stage.site.connect(name)
        number = other.server.client_id
        await other.close()
        await stage.wait(lambda: bool(events))
        stage.note(f"events: {[line for _, line in events]}")
        stage.note(f"its number is that of the session: {[at for at, _ in events] == [number]}")
        who = await system.request("$SYS.REQ.SERVER.PING.IDZ", b"", timeout_s=3.0)
        is_same = json.loads(who.payload)["id"] == other.server.server_id
        stage.note(f"the server that answers is the one that was connected: {is_same}")
        how = await system.request("$SYS.REQ.SERVER.PING.JSZ", b"{}", timeout_s=3.0)
        config = json.loads(how.payload)["data"]["config"]
        stage.note(f"always: {config.get('sync_always')}, interval: {config.get('sync_interval')}")
        await stage.request("$SYS.REQ.SERVER.PING.NONE", connection=system)
    finally:
        await system.close()


def _shown_event(payload: bytes) -> tuple[int, str]:
    event = json.loads(payload)
    client = event["client"]
    return int(client["id"]), f"{client['name']} of {client['acc']}: {event['reason']}"
