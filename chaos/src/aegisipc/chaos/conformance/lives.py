"""Scripts about what a server that is killed remembers, and about replicated streams."""

from __future__ import annotations

from typing import Final

from aegisipc.chaos.conformance.consumers import pull_config, push_config
from aegisipc.chaos.conformance.stage import Publish, Stage

_S: Final = 1_000_000_000
_FLUSHED_S: Final = 0.5
"""After so long a consumer's place is written down for sure."""


async def killed(stage: Stage) -> None:
    """What was acknowledged is there after a kill, and so are message ids, if what they were for is."""
    await stage.create_stream()
    a, b = stage.subject("a"), stage.subject("b")
    await stage.publish(*(Publish(a, b"%d" % n, id=str(n)) for n in range(3)), Publish(b, id="b"))
    await stage.api(f"STREAM.PURGE.{stage.name}", {"filter": b})
    await stage.listen("push", f"i.{stage.root}.push")
    await stage.create_consumer("f", **push_config(stage, "push"))
    await stage.until("push", 3)
    await stage.restart()
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": ">"})
    await stage.api(f"CONSUMER.INFO.{stage.name}.f")
    await stage.publish(Publish(a, id="2"), Publish(a, id="2", last=0), Publish(a, id="3", last=3))
    await stage.publish(Publish(b, id="b", last=0), Publish(b, id="b"))
    await stage.create_consumer("f", **push_config(stage, "push", start=3))
    await stage.until("push", 6)


async def pulling_through_a_kill(stage: Stage) -> None:
    """A pull consumer goes on from where it was written down; requests are forgotten."""
    await stage.create_stream()
    await stage.publish(*(Publish(stage.subject("a"), b"%d" % n) for n in range(6)))
    await stage.create_consumer("p", "", **pull_config(stage, "p"))
    await stage.listen("got", f"i.{stage.root}.got")
    await stage.pull("p", "got", batch=4, no_wait=True)
    await stage.until("got", 4)
    await stage.word(stage.heard["got"][0], b"+ACK")
    await stage.word(stage.heard["got"][2], b"+ACK")
    await stage.pause(_FLUSHED_S)
    await stage.restart()
    info = await stage.api(f"CONSUMER.INFO.{stage.name}.p")
    stage.note(f"waiting: {info.get('num_waiting')}")
    await stage.pull("p", "got", batch=10, no_wait=True)
    await stage.until("got", 7)
    await stage.create_consumer("p", "", **pull_config(stage, "p"))
    await stage.create_consumer("p", "", **pull_config(stage, "p"))
    await stage.word(stage.heard["got"][4], b"+ACK")
    await stage.word(stage.heard["got"][3], b"+ACK")
    await stage.api(f"CONSUMER.INFO.{stage.name}.p")


async def replicated_conditions(stage: Stage) -> None:
    """Three replicas look at the message id first; one server, at the expectation."""
    a, b = stage.subject("a"), stage.subject("b")
    await stage.create_stream()
    await stage.publish(
        Publish(a, id="1", last=0),
        Publish(a, id="1", last=0),
        Publish(a, id="1"),
        Publish(a, id="2", last=0),
        Publish(b, id="3", last=1, of=a),
        Publish(b, id="3", last=7, of=a),
        Publish(b, id="4", last=7, of=a),
        Publish(b, id="1", stream="OTHER"),
        Publish(b, of=a),
        Publish(b, last="abc"),
    )
    await stage.api(f"STREAM.INFO.{stage.name}", {"subjects_filter": ">"})


async def replicated_at_once(stage: Stage) -> None:
    """While a condition on a subject, or a message id, is being decided, others have to try again."""
    a, b = stage.subject("a"), stage.subject("b")
    await stage.create_stream()
    await stage.publish_at_once(*(Publish(a, b"%d" % n, last=0) for n in range(3)))
    await stage.publish_at_once(*(Publish(b, b"%d" % n, id="same") for n in range(3)))
    await stage.publish_at_once(Publish(b), Publish(b, last=2))
    await stage.publish_at_once(Publish(stage.subject("c"), last=1, of=a), Publish(a))
    await stage.publish_at_once(Publish(stage.subject("c"), last=4, of=a), Publish(b, last=4, of=a))
