"""What can go wrong with the model of the server, each switched on by itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from aegisipc.chaos.sim.clock import virtual
from aegisipc.chaos.sim.loop import Actor, SimLoop
from aegisipc.chaos.sim.network import DOWN, UP, Network
from aegisipc.chaos.sim.server import ModelServer
from aegisipc.eventstore.errors import AckUnknown, LogFailed, LogFull, NoResponders, WrongSequence
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.jetstream_api import CheckInFlight
from aegisipc.eventstore.log import Expect, Record
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.nats.options import ConnectOptions

type Play = Callable[[ModelServer, JetStreamLog, Connection], Awaitable[None]]

NAME = "LOG"
PULL = {"durable_name": "p", "ack_policy": "explicit", "ack_wait": 1_000_000_000}


def play(script: Play, *, seed: int = 1, replicas: int = 1) -> None:
    """Run a script as one client of a model that has a stream."""
    loop = SimLoop()

    async def begin() -> None:
        network = Network(loop, Random(seed))
        server = ModelServer(network, Random(seed))
        server.jetstream.replicas = replicas
        await loop.start_actor(Actor("client"), client(server))

    async def client(server: ModelServer) -> None:
        connection = await Connection.open(ConnectOptions("nats://sim:4222"))
        await api(
            connection, f"STREAM.CREATE.{NAME}", {"name": NAME, "subjects": ["log.>"], "discard": "new"}
        )
        await script(server, JetStreamLog(connection, NAME), connection)
        await connection.close()

    with virtual(loop, seed):
        loop.run(begin())
        loop.close()
    assert not loop.unhandled


async def api(connection: Connection, verb: str, body: object) -> dict[str, Any]:
    answer = await connection.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout_s=2.0)
    told: dict[str, Any] = json.loads(answer.payload)
    assert "error" not in told
    return told


async def restart(server: ModelServer, connection: Connection, *, loses_power: bool = False) -> None:
    generation = connection.generation
    server.kill(loses_power=loses_power)
    await asyncio.sleep(0.2)
    server.start()
    while connection.generation == generation:  # noqa: ASYNC110 - it is an attribute
        await asyncio.sleep(0.05)


def test_an_acknowledgement_that_is_lost_leaves_a_stored_record() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        server.jetstream.acks_lost = 1.0
        with pytest.raises(AckUnknown):
            await log.append("log.a", b"x", record_id="1", timeout_s=1.0)
        server.jetstream.acks_lost = 0.0
        assert (await log.append("log.a", b"x", record_id="1")).duplicate
        server.jetstream.forget_ids()
        assert not (await log.append("log.a", b"x", record_id="1")).duplicate

    play(script)


def test_a_write_that_stalls_is_not_there_when_it_is_looked_for_and_stored_later() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        server.jetstream.stalls, server.jetstream.stall_s = 1.0, 3.0
        with pytest.raises(AckUnknown):
            await log.append("log.a", b"ghost", timeout_s=1.0)
        assert await log.last("log.a") is None
        await asyncio.sleep(3.0)
        found = await log.last("log.a")
        assert found is not None
        assert found.payload == b"ghost"

    play(script)


def test_what_is_being_written_when_the_server_dies_is_there_or_not() -> None:
    outcomes: set[bool] = set()

    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        server.jetstream.stalls, server.jetstream.stall_s = 1.0, 3.0
        with pytest.raises(AckUnknown):
            await log.append("log.a", b"x", timeout_s=0.5)
        await restart(server, connection)
        outcomes.add(await log.last("log.a") is not None)

    for seed in range(12):
        play(script, seed=seed)
    assert outcomes == {True, False}


@pytest.mark.parametrize("syncs", [True, False])
def test_a_loss_of_power_takes_what_was_not_synced(syncs: bool) -> None:
    kept: set[int] = set()

    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        server.jetstream.syncs = syncs
        for _ in range(8):
            await log.append("log.a", b"x")
        await restart(server, connection, loses_power=True)
        left = (await log.bounds()).last_seq
        kept.add(left)
        assert (await log.append("log.a", b"x")).seq == left + 1

    for seed in range(8):
        play(script, seed=seed)
    assert kept == {8} if syncs else len(kept) > 1


def test_acknowledgements_of_the_last_moments_are_forgotten() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        for _ in range(2):
            await log.append("log.a", b"x")
        config = {"stream_name": NAME, "config": PULL, "action": ""}
        await api(connection, f"CONSUMER.CREATE.{NAME}.p", config)
        got: list[Message] = []
        await connection.subscribe("inbox", got.append)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.p"
        await connection.publish(subject, b'{"batch": 2, "no_wait": true}', reply="inbox")
        await asyncio.sleep(1.0)
        await connection.request(got[0].reply, b"+ACK", timeout_s=1.0)
        await asyncio.sleep(0.5)
        await connection.request(got[1].reply, b"+ACK", timeout_s=1.0)
        await restart(server, connection)
        await connection.publish(subject, b"", reply="inbox")
        await asyncio.sleep(3.0)
        assert [message.reply.split(".")[5] for message in got] == ["1", "2", "2"]

    play(script)


def test_while_a_leader_is_elected_nobody_takes_records_and_the_log_goes_on_afterwards() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        records: list[Record] = []
        following = await log.follow(["log.>"], records.append)
        await log.append("log.a", b"before")
        server.jetstream.is_electing = True
        with pytest.raises(NoResponders):
            await log.append("log.a", b"refused")
        refusals = 0
        for _ in range(8):
            try:
                await log.last("log.a")
            except NoResponders:
                refusals += 1
            except AckUnknown:
                refusals -= 1
        assert -8 < refusals < 8  # both: an error, and no answer at all
        server.jetstream.is_electing = False
        await log.append("log.a", b"after")
        await following.reached(2, 5.0)
        assert [record.payload for record in records] == [b"before", b"after"]
        await following.stop()

    for seed in range(4):
        play(script, seed=seed, replicas=3)


def test_what_a_leader_stored_as_it_died_is_handed_out_by_the_next_one() -> None:
    stored: set[bool] = set()

    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        config = {"stream_name": NAME, "config": PULL, "action": ""}
        await api(connection, f"CONSUMER.CREATE.{NAME}.p", config)
        got: list[Message] = []
        await connection.subscribe("inbox", got.append)
        await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{NAME}.p", b"", reply="inbox")
        server.jetstream.stalls, server.jetstream.stall_s = 1.0, 3.0
        with pytest.raises(AckUnknown):
            await log.append("log.a", b"x", timeout_s=0.5)
        server.jetstream.is_electing = True
        await asyncio.sleep(1.0)
        server.jetstream.is_electing = False
        await asyncio.sleep(1.0)
        stored.add(await log.last("log.a") is not None)
        assert len(got) == (await log.last("log.a") is not None)

    for seed in range(12):
        play(script, seed=seed)
    assert stored == {True, False}


def test_conditions_that_are_still_being_decided_are_neither_kept_nor_refused() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        appends = [log.append("log.a", b"x", expect=Expect(0)) for _ in range(2)]
        first, second = await asyncio.gather(*appends, return_exceptions=True)
        assert not isinstance(first, BaseException)
        assert isinstance(second, CheckInFlight)
        with pytest.raises(WrongSequence):
            await log.append("log.a", b"x", expect=Expect(0))
        twins = [log.append("log.b", b"x", record_id="same") for _ in range(2)]
        first, second = await asyncio.gather(*twins, return_exceptions=True)
        assert isinstance(second, CheckInFlight)
        assert (await log.append("log.b", b"x", record_id="same")).duplicate

    play(script, replicas=3)


def test_a_stream_that_met_a_storage_error_takes_nothing_until_the_server_is_started_again() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        server.jetstream.is_failing = True
        with pytest.raises(LogFailed):
            await log.append("log.a", b"x")
        server.jetstream.is_failing = False
        with pytest.raises(LogFailed):
            await log.append("log.a", b"x")
        await restart(server, connection)
        await log.append("log.a", b"x")
        server.jetstream.is_full = True
        with pytest.raises(LogFull):
            await log.append("log.a", b"x")

    play(script)


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_silent_direction_loses_nothing_that_waits_for_it(direction: int) -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        server.network.hold("client", direction)
        waiting = asyncio.ensure_future(log.append("log.a", b"x", timeout_s=5.0))
        await asyncio.sleep(1.0)
        assert server.jetstream.streams[NAME].last_seq == (0 if direction == UP else 1)
        assert not waiting.done()
        server.network.release("client")
        assert (await waiting).seq == 1

    play(script)


def test_a_client_that_is_not_told_finds_out_by_itself_and_so_does_one_of_a_frozen_server() -> None:
    async def script(server: ModelServer, log: JetStreamLog, connection: Connection) -> None:
        def half_open() -> None:
            server.network.of("client")[0].broken(told=False)

        def vanish() -> None:
            server.network.of("client")[0].broken(told=False, server_told=False)

        for break_it in (half_open, vanish, server.freeze):
            generation = connection.generation
            break_it()
            await asyncio.sleep(6.0)
            if server.is_frozen:
                assert not connection.is_connected
                server.thaw()
            await connection.wait_connected(5.0)
            assert connection.generation == generation + 1
            await log.append("log.a", b"x")

    play(script)
