"""Group commit through the death of the server: nothing lost, nothing twice, in order."""

from __future__ import annotations

import asyncio
import math

from aegisipc.eventstore.errors import AegisError, WrongSequence
from aegisipc.eventstore.group_commit import GroupCommit, OutFrame
from aegisipc.eventstore.log import Appended, Expect
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.eventstore.conftest import JetStreamBed
from tests.eventstore.kit import Collected, until


class Numbers:
    """A fenced writer of numbers, many to a frame."""

    def __init__(self, subject: str, fence: Expect) -> None:
        self._subject, self._fence = subject, fence
        self._pending: list[int] = []
        self._made = 0
        self.acked_numbers = 0
        self.acked_seqs: list[int] = []

    def add(self, number: int) -> None:
        self._pending.append(number)

    def next_frame(self) -> OutFrame | None:
        if not self._pending:
            return None
        self._made += 1
        payload = ",".join(map(str, self._pending)).encode()
        frame = OutFrame(self._subject, payload, f"n-{self._made}", self._fence, math.inf, len(self._pending))
        self._pending = []
        return frame

    def acked(self, frame: OutFrame, appended: Appended) -> None:
        self.acked_numbers += frame.content
        self.acked_seqs.append(appended.seq)

    async def refused(self, frame: OutFrame, error: WrongSequence) -> OutFrame | None:
        raise AssertionError(f"refused: {error}")

    def gave_up(self, frame: OutFrame, error: AegisError, *, maybe_stored: bool) -> None:
        raise AssertionError(f"given up: {error}")


async def test_a_server_killed_in_the_middle_costs_no_frame_and_doubles_none(
    own: JetStreamBed, nats_server: EmbeddedServer
) -> None:
    fence = await own.log.append(own.fence, b"epoch 1")
    source = Numbers(own.pen, Expect(fence.seq, own.fence))
    failures: list[BaseException] = []
    committing = GroupCommit(own.log, source, name="numbers", on_failure=failures.append)
    total, produced = 6_000, 0

    def is_keeping_up() -> bool:
        return produced - source.acked_numbers < 200

    async def produce() -> None:
        nonlocal produced
        while produced < total:
            for _ in range(40):
                source.add(produced)
                produced += 1
                committing.kick()
            await asyncio.sleep(0)
            await until(is_keeping_up)

    producing = asyncio.create_task(produce())
    for threshold in (1_000, 3_000):
        await until(lambda threshold=threshold: source.acked_numbers >= threshold)  # type: ignore[misc]
        await nats_server.kill()
        await nats_server.start()
    await producing
    await until(lambda: source.acked_numbers == total or bool(failures))
    assert failures == []
    stored = [record async for record in own.log.read([own.pen])]
    numbers = [int(text) for record in stored for text in record.payload.split(b",")]
    assert numbers == list(range(total))
    assert source.acked_seqs == [record.seq for record in stored]
    assert committing.frames == len(stored) < total // 10
    assert committing.retries >= 1
    await committing.close()


async def test_a_frame_stored_by_a_dying_server_is_recognised_under_a_used_up_expectation(
    own: JetStreamBed, nats_server: EmbeddedServer
) -> None:
    """A compare-and-set on its own subject: its retry is refused, and yet it is in the log."""
    await own.log.append(own.fence, b"7", record_id="earlier attempt", expect=Expect(0))
    await nats_server.kill()
    await nats_server.start()
    await own.connection.wait_connected(10.0)
    source = Numbers(own.fence, Expect(0))
    source.add(7)
    committing = GroupCommit(own.log, source, name="numbers")
    committing.kick()
    await until(lambda: source.acked_seqs == [1])
    got = Collected()
    following = await own.log.follow([own.fence], got)
    await following.caught_up(10.0)
    assert got.payloads == [b"7"]
    await following.stop()
    await committing.close()
