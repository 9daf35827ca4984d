"""Random scripts: what a seed makes of publishes, reads, purges, consumers and their words."""

from __future__ import annotations

from random import Random
from typing import Final

from aegisipc.chaos.conformance.consumers import pull_config, push_config
from aegisipc.chaos.conformance.stage import Publish, Script, Stage
from aegisipc.eventstore.nats.message import Message

_STEPS: Final = 40
_TAILS: Final = ("a", "b", "a.x", "a.y", "c.x.y")
_PATTERNS: Final = (*_TAILS, "*", ">", "a.*", "*.x", "none", "c.>", "*.*.y")
_WORDS: Final = (b"+ACK", b"", b"-NAK", b"+TERM", b"+WPI", b"nonsense", b"+OK")
_MOST_BYTES: Final = 3_000


def random_script(seed: int) -> Script:
    """Return the script that a seed stands for."""

    async def script(stage: Stage) -> None:
        await _Dice(stage, Random(seed)).play()  # noqa: S311 - reproducible on purpose

    return script


class _Dice:
    """One run of a random script. What it does next never depends on what a server said, but for places."""

    def __init__(self, stage: Stage, random: Random) -> None:
        self._stage, self._random = stage, random
        self._pushes = 0

    async def play(self) -> None:
        """Do it all."""
        stage, random = self._stage, self._random
        limit = random.choice((-1, -1, _MOST_BYTES))
        pulls = random.random() < 0.5
        await stage.create_stream(max_bytes=limit, discard="new" if pulls else random.choice(("new", "old")))
        await stage.listen("got", f"i.{stage.root}.got")
        wanted = stage.subject(random.choice(_PATTERNS))
        await stage.create_consumer("p", "", **pull_config(stage, "p", filter_subject=wanted))
        acts = (self._publish, self._publish, self._publish, self._burst, self._read, self._push)
        # What removals do to the place of a pull consumer has too many odd cases: there is a script for it.
        rare = (self._pull, self._pull, self._ask, *3 * (self._word,)) if pulls else (self._purge,)
        for _ in range(_STEPS):
            await random.choice(acts + rare)()
        await stage.api(
            f"STREAM.INFO.{stage.name}", {"subjects_filter": stage.subject(random.choice(_PATTERNS))}
        )

    def _message(self) -> Publish:
        random, stage = self._random, self._stage
        subject = stage.subject(random.choice(_TAILS))
        made = Publish(subject, b"z" * random.choice((0, 1, 10, 200)))
        if random.random() < 0.5:
            made = made._replace(id=str(random.randrange(6)))
        if random.random() < 0.5:
            made = made._replace(last=random.choice((0, random.randrange(25))))
        if random.random() < 0.3:
            made = made._replace(of=stage.subject(random.choice(_PATTERNS)))
        if random.random() < 0.1:
            made = made._replace(stream=random.choice((stage.name, "OTHER")))
        return made

    async def _publish(self) -> None:
        await self._stage.publish(self._message())

    async def _burst(self) -> None:
        await self._stage.publish_at_once(*(self._message() for _ in range(self._random.randint(2, 6))))

    async def _read(self) -> None:
        random, stage = self._random, self._stage
        which: dict[str, object] = {"seq": random.randint(1, 30)}
        if random.random() < 0.7:
            which = {"last_by_subj": stage.subject(random.choice(_PATTERNS))}
        await stage.api(f"STREAM.MSG.GET.{stage.name}", which)

    async def _purge(self) -> None:
        random, stage = self._random, self._stage
        body: dict[str, object] = {}
        if random.random() < 0.7:
            body["filter"] = stage.subject(random.choice(_PATTERNS))
        if random.random() < 0.5:
            body["seq"] = random.randint(1, 25)
        await stage.api(f"STREAM.PURGE.{stage.name}", body)

    async def _ask(self) -> None:
        """Ask where the consumer stands, but not how far it looked: that depends on when it looked."""
        told = await self._stage.api(f"CONSUMER.INFO.{self._stage.name}.p", is_quiet=True)
        places = {key: told[key]["consumer_seq"] for key in ("delivered", "ack_floor")}
        counts = {
            key: told[key] for key in ("num_ack_pending", "num_pending", "num_redelivered", "num_waiting")
        }
        self._stage.note(f"the consumer: {places | counts}")

    async def _push(self) -> None:
        """Follow from somewhere to the end, and go."""
        random, stage = self._random, self._stage
        self._pushes += 1
        channel, start = f"push-{self._pushes}", random.randint(1, 30)
        await stage.listen(channel, f"i.{stage.root}.{channel}")
        wanted = stage.subject(random.choice(_PATTERNS))
        made = await stage.create_consumer(
            channel, **push_config(stage, channel, start, filter_subject=wanted)
        )
        await stage.until(channel, int(made.get("num_pending", 0)))
        await stage.api(f"CONSUMER.DELETE.{stage.name}.{channel}")

    async def _pull(self) -> None:
        """Ask for what there is; it ends with the last of it, or with the word that there is no more."""
        stage, batch = self._stage, self._random.randint(1, 5)
        before = len(stage.heard["got"])
        await stage.pull("p", "got", batch=batch, no_wait=True)
        await stage.wait(lambda: self._is_over(stage.heard["got"][before:], batch))

    @staticmethod
    def _is_over(came: list[Message], batch: int) -> bool:
        return len(came) >= batch or any(not message.reply for message in came)

    async def _word(self) -> None:
        handed = [message for message in self._stage.heard["got"] if message.reply]
        word = self._random.choice(_WORDS)
        if handed:
            await self._stage.word(handed[self._random.randrange(len(handed))], word)
