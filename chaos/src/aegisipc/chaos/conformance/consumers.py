"""Scripts about consumers: ordered push consumers, and durable pull consumers."""

from __future__ import annotations

from typing import Any, Final

from aegisipc.chaos.conformance.stage import Publish, Stage

_S: Final = 1_000_000_000
_SHORT_S: Final = 0.4
"""A time that a server keeps to, and that outlasts a few requests also on a busy machine."""

_PUSH: Final[dict[str, Any]] = {
    "ack_policy": "none",
    "max_deliver": 1,
    "replay_policy": "instant",
    "flow_control": True,
    "mem_storage": True,
    "num_replicas": 1,
    "inactive_threshold": 10 * _S,
    "idle_heartbeat": 30 * _S,
}
_PULL: Final[dict[str, Any]] = {
    "ack_policy": "explicit",
    "ack_wait": 30 * _S,
    "deliver_policy": "all",
    "max_deliver": -1,
    "max_ack_pending": 10_000,
    "replay_policy": "instant",
}


async def _filled(stage: Stage, count: int = 6) -> None:
    await stage.create_stream()
    for number in range(count):
        await stage.publish(Publish(stage.subject("abc"[number % 3]), b"%d" % number))


def push_config(stage: Stage, channel: str, start: int = 1, **config: Any) -> dict[str, Any]:
    """Return the configuration of a push consumer as followers make them."""
    wanted = {**_PUSH, "deliver_subject": stage.subject_of(channel), "filter_subject": stage.subject(">")}
    if "deliver_policy" not in config:
        wanted |= {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
    wanted |= config
    if "filter_subjects" in config:
        del wanted["filter_subject"]
    return wanted


def pull_config(stage: Stage, name: str, **config: Any) -> dict[str, Any]:
    """Return the configuration of a pull consumer as pools make them."""
    return {**_PULL, "durable_name": name, "filter_subject": stage.subject(">"), **config}


async def push(stage: Stage) -> None:
    """Ordered push consumers: from a place, from a time, with filters; and what comes later."""
    await _filled(stage)
    third = (await stage.api(f"STREAM.MSG.GET.{stage.name}", {"seq": 3}))["message"]["time"]
    wanted: dict[str, tuple[int, dict[str, Any]]] = {
        "all": (6, {"deliver_policy": "all"}),
        "new": (0, {"deliver_policy": "new"}),
        "four": (3, {"start": 4}),
        "beyond": (0, {"start": 100}),
        "time": (4, {"deliver_policy": "by_start_time", "opt_start_time": third}),
        "future": (0, {"deliver_policy": "by_start_time", "opt_start_time": "2200-01-01T00:00:00Z"}),
        "two": (4, {"filter_subjects": [stage.subject("a"), stage.subject("c")]}),
        "none": (0, {"filter_subject": stage.subject("none")}),
        "foreign": (0, {"filter_subject": "foreign.>"}),
    }
    for channel, (count, config) in wanted.items():
        await stage.listen(channel, f"i.{stage.root}.{channel}")
        await stage.create_consumer(f"f-{channel}", **push_config(stage, channel, **config))
        await stage.until(channel, count)
    await stage.publish(Publish(stage.subject("b")), Publish(stage.subject("c"), id="with-headers"))
    for channel, (count, _) in wanted.items():
        more = {"two": 1, "none": 0, "foreign": 0}.get(channel, 2)
        await stage.until(channel, count + more)
        await stage.api(f"CONSUMER.INFO.{stage.name}.f-{channel}")
    await stage.api(f"STREAM.INFO.{stage.name}")


async def heartbeats(stage: Stage) -> None:
    """What a push consumer says when there is nothing to say, and how far it says it looked."""
    await _filled(stage, 4)
    await stage.listen("push", f"i.{stage.root}.push")
    config = push_config(stage, "push", idle_heartbeat=_S // 5, filter_subject=stage.subject("a"))
    await stage.create_consumer("f", **config)
    await stage.until("push", 3)
    await stage.publish(Publish(stage.subject("b")))
    await stage.pause(_SHORT_S)
    await stage.publish(Publish(stage.subject("a")))
    await stage.until("push", 5)
    await stage.api(f"CONSUMER.DELETE.{stage.name}.f")
    await stage.publish(Publish(stage.subject("a")))
    await stage.pause(_SHORT_S)
    await stage.api(f"CONSUMER.DELETE.{stage.name}.f")


async def abandoned(stage: Stage) -> None:
    """A push consumer that nobody listens to is forgotten after its time."""
    await _filled(stage, 2)
    await stage.listen("push", f"i.{stage.root}.push")
    config = push_config(stage, "push", inactive_threshold=_S)
    await stage.create_consumer("f", **config)
    await stage.until("push", 2)
    await stage.listen_no_more("push")
    await stage.publish(Publish(stage.subject("a")))
    await stage.api(f"CONSUMER.INFO.{stage.name}.f")
    await stage.pause(3.0)
    await stage.api(f"CONSUMER.INFO.{stage.name}.f")


async def flow_control(stage: Stage) -> None:
    """A push consumer waits for whoever does not answer."""
    await stage.create_stream()
    for number in range(30):
        await stage.publish(Publish(stage.subject("a"), bytes([65 + number]) * 200_000))
    await stage.listen("push", f"i.{stage.root}.push")
    await stage.create_consumer("f", **push_config(stage, "push", idle_heartbeat=_S // 4))
    answered = 0
    while answered < 2:
        await stage.wait(lambda: len(_questions(stage)) > answered)  # noqa: B023 - awaited at once
        await stage.pause(_SHORT_S)
        stage.note(f"{len(stage.heard['push'])} came before answer {answered + 1}")
        await stage.connection.publish(_questions(stage)[answered], b"")
        answered += 1
    while answered < len(_questions(stage)) or _delivered(stage) < 30:
        await stage.wait(lambda: len(_questions(stage)) > answered or _delivered(stage) == 30)  # noqa: B023
        for question in _questions(stage)[answered:]:
            await stage.connection.publish(question, b"")
            answered += 1
    await stage.pause(_SHORT_S)


def _questions(stage: Stage) -> list[str]:
    return [message.reply for message in stage.heard["push"] if message.reply.startswith("$JS.FC.")]


def _delivered(stage: Stage) -> int:
    return sum(message.reply.startswith("$JS.ACK.") for message in stage.heard["push"])


async def refusals(stage: Stage) -> None:
    """Consumers that cannot be made, changed or asked."""
    await _filled(stage, 3)
    await stage.listen("push", f"i.{stage.root}.push")
    config = push_config(stage, "push", start=100)
    await stage.create_consumer("f", **config)
    await stage.create_consumer("f", **config)
    await stage.create_consumer("f", **config | {"filter_subject": stage.subject("a")})
    overlapping = [stage.subject(">"), stage.subject("a")]
    await stage.create_consumer("o", **push_config(stage, "push", filter_subjects=overlapping))
    await stage.create_consumer("t", **push_config(stage, "push", deliver_policy="by_start_time"))
    pull = pull_config(stage, "p")
    await stage.create_consumer("p", "update", **pull)
    await stage.create_consumer("p", "", **pull)
    await stage.create_consumer("p", "", **pull)
    await stage.create_consumer("p", "", **pull | {"ack_wait": 20 * _S})
    await stage.create_consumer("p", "create", **pull)
    await stage.create_consumer("p", "", **pull | {"deliver_policy": "new"})
    await stage.create_consumer("p", "", **pull | {"filter_subject": stage.subject("a")})
    body = {"stream_name": stage.name, "config": {"name": "p", **pull}, "action": ""}
    await stage.api(f"CONSUMER.CREATE.{stage.name}.p.{stage.subject('b')}", body)
    await stage.api(f"CONSUMER.CREATE.{stage.name}.p.{stage.subject('>')}", body)
    await stage.api("CONSUMER.CREATE.NONE.p", body | {"stream_name": "NONE"})
    for verb in ("INFO", "DELETE"):
        await stage.api(f"CONSUMER.{verb}.{stage.name}.none")
        await stage.api(f"CONSUMER.{verb}.NONE.none")
    await stage.request(f"$JS.API.CONSUMER.MSG.NEXT.{stage.name}.f")
    await stage.request(f"$JS.API.CONSUMER.MSG.NEXT.{stage.name}.p", b"{")
    await stage.request(f"$JS.API.CONSUMER.MSG.NEXT.{stage.name}.none")


async def pull(stage: Stage) -> None:
    """Batches, requests that do not wait, requests that end, acknowledgements, and what is told of them."""
    await _filled(stage, 5)
    info = f"CONSUMER.INFO.{stage.name}.p"
    await stage.create_consumer("p", "", **pull_config(stage, "p"))
    await stage.listen("got", f"i.{stage.root}.got")
    await stage.pull("p", "got", batch=2, expires=5 * _S)
    await stage.until("got", 2)
    first, second = stage.heard["got"]
    await stage.word(second, b"+ACK")
    await stage.api(info)
    await stage.word(second, b"+ACK")
    await stage.word(first, b"nonsense")
    await stage.api(info)
    await stage.word(first, b"")
    await stage.api(info)
    await stage.pull("p", "got")
    await stage.until("got", 3)
    await stage.pull("p", "got", batch=5, no_wait=True)
    await stage.until("got", 6)
    await stage.pull("p", "got", batch=5, no_wait=True)
    await stage.until("got", 7)
    await stage.pull("p", "got", batch=3, expires=_S // 5)
    await stage.until("got", 8)
    await stage.pull("p", "got", batch=3, expires=_S // 2)
    await stage.publish(Publish(stage.subject("a"), b"later"))
    await stage.until("got", 10)
    for message in stage.heard["got"][2:]:
        if message.reply:
            await stage.word(message, b"+ACK")
    await stage.api(info)


async def words(stage: Stage) -> None:
    """Giving back at once and later, asking for time, refusing for good, and how often it was handed out."""
    await _filled(stage, 4)
    info = f"CONSUMER.INFO.{stage.name}.p"
    await stage.create_consumer("p", "", **pull_config(stage, "p", filter_subject=stage.subject("*")))
    await stage.listen("got", f"i.{stage.root}.got")
    await stage.pull("p", "got", batch=4, no_wait=True)
    await stage.until("got", 4)
    first, second, third, fourth = stage.heard["got"]
    await stage.word(second, b"-NAK")
    await stage.word(first, b"-NAK")
    await stage.api(info)
    await stage.pull("p", "got", batch=2, no_wait=True)
    await stage.until("got", 6)
    await stage.word(third, b'-NAK {"delay": 300000000}')
    await stage.pull("p", "got", batch=1, no_wait=True)
    await stage.until("got", 7)
    await stage.pull("p", "got", batch=1, expires=5 * _S)
    await stage.until("got", 8)
    await stage.word(fourth, b"+TERM")
    await stage.word(fourth, b"-NAK")
    await stage.pull("p", "got", batch=1, no_wait=True)
    await stage.until("got", 9)
    await stage.word(stage.heard["got"][5], b"+ACK")
    await stage.api(info)
    await stage.word(second, b"+TERM")
    await stage.word(third, b"+ACK")
    await stage.api(info)


async def overdue(stage: Stage) -> None:
    """What is not acknowledged in time is handed out again, unless more time was asked for."""
    await _filled(stage, 3)
    await stage.create_consumer("p", "", **pull_config(stage, "p", ack_wait=_S))
    await stage.listen("got", f"i.{stage.root}.got")
    await stage.pull("p", "got", batch=3, no_wait=True)
    await stage.until("got", 3)
    await stage.pull("p", "got", batch=2, expires=20 * _S)
    await stage.pause(0.6)
    await stage.word(stage.heard["got"][1], b"+WPI")
    await stage.until("got", 5)
    for place in (0, 1, 2):
        await stage.word(stage.heard["got"][place], b"+ACK")
    await stage.api(f"CONSUMER.INFO.{stage.name}.p")


async def bounds(stage: Stage) -> None:
    """How much may be unacknowledged, and how many may wait."""
    await _filled(stage, 5)
    await stage.create_consumer("p", "", **pull_config(stage, "p", max_ack_pending=2, max_waiting=2))
    await stage.listen("got", f"i.{stage.root}.got")
    await stage.pull("p", "got", batch=3, expires=5 * _S)
    await stage.until("got", 2)
    await stage.pull("p", "got", batch=1, expires=5 * _S)
    await stage.pull("p", "got", batch=1, expires=5 * _S)
    await stage.until("got", 3)
    await stage.word(stage.heard["got"][1], b"+ACK")
    await stage.until("got", 4)
    await stage.word(stage.heard["got"][0], b"+ACK")
    await stage.until("got", 5)
    await stage.api(f"CONSUMER.INFO.{stage.name}.p")


async def turns(stage: Stage) -> None:
    """Requests take turns, and one that nobody listens to any more is passed over."""
    await stage.create_stream()
    await stage.create_consumer("p", "", **pull_config(stage, "p"))
    for channel in ("gone", "one", "other"):
        await stage.listen(channel, f"i.{stage.root}.{channel}")
        await stage.pull("p", channel, batch=3, expires=20 * _S)
    await stage.pause(0.1)
    await stage.listen_no_more("gone")
    for number in range(4):
        await stage.publish(Publish(stage.subject("a"), b"%d" % number))
        channel, place = ("one", "other")[number % 2], number // 2 + 1
        await stage.until(channel, place)
        await stage.word(stage.heard[channel][-1], b"+ACK")
    await stage.api(f"CONSUMER.INFO.{stage.name}.p")


async def removed(stage: Stage) -> None:
    """Whoever waits is told that the consumer, or its stream, was deleted."""
    await stage.create_stream()
    for name in ("p", "q"):
        await stage.create_consumer(name, "", **pull_config(stage, name))
        await stage.listen(name, f"i.{stage.root}.{name}")
        await stage.pull(name, name, batch=1, expires=20 * _S)
        await stage.pull(name, name, batch=5, expires=20 * _S)
    await stage.pause(0.1)
    await stage.api(f"CONSUMER.DELETE.{stage.name}.p")
    await stage.until("p", 2)
    await stage.request(f"$JS.API.CONSUMER.MSG.NEXT.{stage.name}.p")
    await stage.api(f"STREAM.DELETE.{stage.name}")
    await stage.until("q", 2)


async def purged(stage: Stage) -> None:
    """What was purged is handed out to nobody."""
    await _filled(stage, 6)
    await stage.create_consumer("p", "", **pull_config(stage, "p"))
    await stage.listen("got", f"i.{stage.root}.got")
    await stage.pull("p", "got", batch=2, no_wait=True)
    await stage.until("got", 2)
    await stage.api(f"STREAM.PURGE.{stage.name}", {"filter": stage.subject("a")})
    await stage.pull("p", "got", batch=10, no_wait=True)
    await stage.until("got", 6)
