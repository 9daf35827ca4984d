"""What only a real server can do to a log: vanish, come back, forget a consumer, be something else."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegisipc.eventstore import following as following_module
from aegisipc.eventstore.errors import (
    AegisError,
    LogFailed,
    LogFull,
    LogMissing,
    MalformedPayload,
    NoResponders,
    NotConnected,
    PayloadTooLarge,
    ServerUnsuitable,
    WrongSequence,
)
from aegisipc.eventstore.following import JetStreamFollowing, without_covered
from aegisipc.eventstore.jetstream import READ_AHEAD, JetStreamLog
from aegisipc.eventstore.jetstream_api import (
    CheckInFlight,
    api_error,
    format_time,
    parse_ack_subject,
    parse_time,
    place_of,
    read_json,
)
from aegisipc.eventstore.log import Record, Start
from aegisipc.eventstore.nats.message import Message
from aegisipc.eventstore.streams import LogOptions, create_log
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.eventstore.conftest import JetStreamBed
from tests.eventstore.kit import PATIENCE_S, Collected, append_all, append_surely, until


async def following_of(bed: JetStreamBed, got: Collected, start: Start | None = None) -> JetStreamFollowing:
    return await bed.jetstream.follow([bed.calls], got, start=start or Start())


async def drop_session(bed: JetStreamBed) -> None:
    """End the session with the server, as a failing network does; the connection makes another."""
    generation = bed.connection.generation
    wire = bed.connection._wire
    assert wire is not None
    wire.end("dropped by the test")
    await until(lambda: bed.connection.generation > generation)


async def aged_out(log: JetStreamLog, seq: int) -> None:
    """Return once the record `seq` has left the log."""
    async with asyncio.timeout(PATIENCE_S):
        while (await log.bounds()).first_seq <= seq:
            pass


# -- following through trouble ----------------------------------------------------------------------------


async def test_following_resumes_after_a_reconnect_without_gap_or_repeat(live: JetStreamBed) -> None:
    await append_all(live.log, live.calls, [b"1", b"2"])
    got = Collected()
    following = await following_of(live, got)
    await following.caught_up(PATIENCE_S)
    for payload in (b"3", b"4", b"5"):
        await drop_session(live)
        await append_surely(live.log, live.calls, payload)
    await following.reached(5, PATIENCE_S)
    assert got.payloads == [b"1", b"2", b"3", b"4", b"5"]
    await until(lambda: following.restarts >= 1)
    assert got.payloads == [b"1", b"2", b"3", b"4", b"5"]
    await following.stop()


async def test_following_resumes_from_a_time_when_nothing_had_come_yet(live: JetStreamBed) -> None:
    await append_all(live.log, live.calls, [b"old"])
    now_ns = (await live.log.bounds()).now_ns
    got = Collected()
    following = await following_of(live, got, Start(time_ns=now_ns))
    await drop_session(live)
    await append_surely(live.log, live.calls, b"new")
    await following.reached(2, PATIENCE_S)
    assert got.payloads == [b"new"]
    await following.stop()


async def test_following_survives_kill_and_restart_of_the_server(
    own: JetStreamBed, nats_server: EmbeddedServer
) -> None:
    got = Collected()
    following = await following_of(own, got)
    stored: list[bytes] = []

    async def write() -> None:
        for i in range(300):
            await append_surely(own.log, own.calls, b"%d" % i)
            stored.append(b"%d" % i)

    writing = asyncio.create_task(write())
    for threshold in (60, 160):
        await until(lambda threshold=threshold: len(stored) >= threshold)  # type: ignore[misc]
        await nats_server.kill()
        await nats_server.start()
    await writing
    last = await own.log.last(own.calls)
    assert last is not None
    await following.reached(last.seq, PATIENCE_S)
    assert got.records == [record async for record in own.log.read([own.calls])]
    assert sorted(set(got.payloads), key=int) == stored
    assert len(got.seqs) == len(set(got.seqs))
    assert following.restarts >= 2
    await following.stop()


async def test_a_consumer_deleted_behind_our_back_is_replaced(live: JetStreamBed) -> None:
    got = Collected()
    following = await following_of(live, got)
    (name,) = await live.consumers()
    assert (await live.api(f"CONSUMER.DELETE.{live.subjects.stream}.{name}"))["success"]
    await append_all(live.log, live.calls, [b"1", b"2"])
    await following.reached(2, PATIENCE_S)
    assert got.seqs == [1, 2]
    assert following.restarts == 1
    await following.stop()


def _without(inner: Any, lost: set[int]) -> Any:
    """Pass messages on, but for the nth ones: those are lost on the way, once."""
    count = 0

    def on_message(attempt: int, message: Message) -> None:
        nonlocal count
        count += 1
        if count not in lost:
            inner(attempt, message)

    return on_message


async def test_a_missing_consumer_sequence_is_noticed_and_the_record_fetched_again(
    live: JetStreamBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append_all(live.log, live.calls, [b"%d" % i for i in range(10)])
    got = Collected()
    following = JetStreamFollowing(live.connection, live.subjects.stream, [live.calls], got, Start())
    monkeypatch.setattr(following, "_on_message", _without(following._on_message, {4, 15}))
    await following.begin()
    await following.reached(10, PATIENCE_S)
    assert got.seqs == list(range(1, 11))
    assert following.restarts >= 1
    await following.stop()


async def test_a_lost_last_record_is_noticed_by_the_heartbeat(
    live: JetStreamBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append_all(live.log, live.calls, [b"1", b"2", b"3"])
    got = Collected()
    following = JetStreamFollowing(live.connection, live.subjects.stream, [live.calls], got, Start())
    monkeypatch.setattr(following, "_on_message", _without(following._on_message, {3}))
    await following.begin()
    await following.reached(3, PATIENCE_S)
    assert got.seqs == [1, 2, 3]
    await following.stop()


async def test_a_log_that_lost_records_is_not_followed_on(
    own: JetStreamBed, nats_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "BEHIND_PATIENCE_S", 0.2)
    await append_all(own.log, own.calls, [b"1", b"2", b"3"])
    got = Collected()
    following = await following_of(own, got)
    await following.caught_up(PATIENCE_S)
    await nats_server.kill()
    shutil.rmtree(nats_server.data_dir / "jetstream")  # what a power failure without fsync may do
    await nats_server.start()
    await own.connection.wait_connected(PATIENCE_S)
    await create_log(own.connection, own.subjects)
    with pytest.raises(LogFailed) as failed:
        await following.reached(4, PATIENCE_S)
    assert "not the log that was read so far" in str(failed.value.__cause__)
    assert got.seqs == [1, 2, 3]
    await following.stop()


@pytest.mark.parametrize(
    ("others_after", "ours_after", "why"),
    [
        pytest.param(0, 3, "another record at that place", id="another record"),
        pytest.param(2, 1, "no record of these subjects at that place", id="of another subject, then ours"),
        pytest.param(3, 0, "no record of these subjects at that place", id="of another subject"),
    ],
)
async def test_a_log_made_anew_and_grown_again_is_not_followed_on(
    own: JetStreamBed,
    nats_server: EmbeddedServer,
    monkeypatch: pytest.MonkeyPatch,
    others_after: int,
    ours_after: int,
    why: str,
) -> None:
    await append_all(own.log, own.calls, [b"1", b"2"])
    got = Collected()
    following = await following_of(own, got)
    await following.caught_up(PATIENCE_S)
    go_on = asyncio.Event()
    recreate = following._recreate

    async def later() -> None:
        await go_on.wait()
        await recreate()

    monkeypatch.setattr(following, "_recreate", later)
    await nats_server.kill()
    shutil.rmtree(nats_server.data_dir / "jetstream")
    await nats_server.start()
    await own.connection.wait_connected(PATIENCE_S)
    await create_log(own.connection, own.subjects)
    await append_all(own.log, own.subjects.fence("orders", "other"), [b"x"] * others_after)
    await append_all(own.log, own.calls, [b"a"] * ours_after)
    go_on.set()
    with pytest.raises(LogFailed) as failed:
        await following.reached(3, PATIENCE_S)
    assert why in str(failed.value.__cause__)
    assert got.payloads == [b"1", b"2"]
    await following.stop()


async def test_closing_the_connection_ends_a_following_and_does_not_hang(live: JetStreamBed) -> None:
    following = await following_of(live, Collected())
    await live.connection.close()
    following._restart.set()
    with pytest.raises(LogFailed):
        await following.reached(1, PATIENCE_S)
    assert isinstance(following.failure, NotConnected)
    await following.stop()


async def test_a_stopped_following_leaves_no_consumer_behind(live: JetStreamBed) -> None:
    following = await following_of(live, Collected())
    assert len(await live.consumers()) == 1
    await following.stop()
    assert [record async for record in live.log.read([live.calls])] == []
    async with asyncio.timeout(PATIENCE_S):
        while await live.consumers():
            pass


async def much_to_read(bed: JetStreamBed) -> int:
    """Append some 80 MB; returns how many records these are."""
    for _ in range(40):
        await asyncio.gather(*(bed.log.append(bed.calls, b"x" * 2000) for _ in range(1000)))
    return 40_000


def noted(monkeypatch: pytest.MonkeyPatch) -> list[JetStreamFollowing]:
    """Note every following that begins from now on."""
    made: list[JetStreamFollowing] = []
    begin = JetStreamFollowing.begin

    async def noted_begin(self: JetStreamFollowing) -> None:
        made.append(self)
        await begin(self)

    monkeypatch.setattr(JetStreamFollowing, "begin", noted_begin)
    return made


async def test_a_slow_reader_holds_the_server_back_and_misses_nothing(
    live: JetStreamBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, made = await much_to_read(live), noted(monkeypatch)
    held: set[JetStreamFollowing] = set()
    hold = JetStreamFollowing.hold

    def noted_hold(self: JetStreamFollowing) -> None:
        held.add(self)
        hold(self)

    monkeypatch.setattr(JetStreamFollowing, "hold", noted_hold)
    most_ahead = seen = 0
    async for record in live.log.read([live.calls]):
        seen += 1
        assert record.seq == seen
        if seen == 1:
            await until(lambda: made[0].position > READ_AHEAD + 100)  # it reads nothing in the meantime
        most_ahead = max([most_ahead, *(following.position - seen for following in held)])
    assert seen == count
    assert READ_AHEAD < most_ahead < count // 2


async def test_a_reader_that_is_not_asked_for_more_does_not_gather_the_whole_log(
    live: JetStreamBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two are read side by side: the heartbeats of an hour, beside many records."""
    count, made = await much_to_read(live), noted(monkeypatch)
    async with aclosing(live.log.read([live.calls])) as waiting:
        assert (await anext(waiting)).seq == 1
        assert [record.seq async for record in live.log.read([live.calls])] == list(range(1, count + 1))
        assert READ_AHEAD <= made[0].position < count // 2
        assert [record.seq async for record in waiting] == list(range(2, count + 1))


async def test_records_that_aged_out_unread_end_the_following(
    shared_server: EmbeddedServer, live: JetStreamBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = subjects_of(f"{live.subjects.namespace}-aging")
    log = await create_log(live.connection, subjects, LogOptions(max_age_s=0.2))
    subject = subjects.call("s", "g", "c")
    await append_all(log, subject, [b"1"])
    following = await log.follow([subject], Collected())
    await following.caught_up(PATIENCE_S)
    go_on = asyncio.Event()
    check = following._check_continuity

    async def later() -> None:
        await go_on.wait()
        await check()

    monkeypatch.setattr(following, "_check_continuity", later)
    following._replace_consumer()
    await append_all(log, subject, [b"2", b"3"])
    await aged_out(log, 3)
    go_on.set()
    with pytest.raises(LogFailed) as failed:
        await following.reached(4, PATIENCE_S)
    assert "aged out unread" in str(failed.value.__cause__)
    await following.stop()


async def test_a_quiet_follower_outlives_the_ageing_of_records_that_are_not_its_own(
    live: JetStreamBed,
) -> None:
    subjects = subjects_of(f"{live.subjects.namespace}-quiet")
    log = await create_log(live.connection, subjects, LogOptions(max_age_s=0.2))
    mine, other = subjects.call("s", "g", "c"), subjects.call("s", "g", "other")
    await append_all(log, mine, [b"1"])
    got = Collected()
    following = await log.follow([mine], got)
    await append_all(log, other, [b"2", b"3"])
    await aged_out(log, 3)
    await until(lambda: following._scanned >= 3)
    await drop_session(live)
    await append_surely(log, mine, b"4")
    await following.reached(4, PATIENCE_S)
    assert got.payloads == [b"1", b"4"]
    await following.stop()


# -- what else a server may be ----------------------------------------------------------------------------


async def test_an_append_without_a_log_finds_nobody(live: JetStreamBed) -> None:
    with pytest.raises(NoResponders):
        await live.log.append("aegis.nowhere.log.s.g.call.c", b"x")


async def test_reading_a_log_that_is_gone_says_so(live: JetStreamBed) -> None:
    await live.api(f"STREAM.DELETE.{live.subjects.stream}")
    for operation in (live.log.bounds(), live.log.last(live.calls), following_of(live, Collected())):
        with pytest.raises(LogMissing, match="start a router"):
            await operation


# -- the pure parts ---------------------------------------------------------------------------------------


def test_places_are_read_from_both_forms_of_acknowledgement_subjects() -> None:
    first = parse_ack_subject("$JS.ACK.S.C.1.22.3.1700000000000000004.5")
    second = parse_ack_subject("$JS.ACK._.hash.S.C.1.22.3.1700000000000000004.5.token")
    assert first == second == (22, 3, 1700000000000000004, 5, 1)
    for text in ("$JS.ACK.S.C.1.2.3.4.x", "$JS.ACK.S", "", "$JS.ACK.a.b.c.d.1.2.3.4"):
        with pytest.raises(MalformedPayload):
            parse_ack_subject(text)


def test_who_delivered_is_read_from_both_forms_of_acknowledgement_subjects() -> None:
    ours = "$JS.ACK.S.C.1.22.3.1700000000000000004.5", "$JS.ACK._.hash.S.C.1.22.3.1700000000000000004.5.token"
    assert [place_of(reply, "S", "C") for reply in ours] == [parse_ack_subject(reply) for reply in ours]
    for stream, consumer in (("S", "D"), ("T", "C"), ("S", ""), ("C", "S"), ("_", "hash")):
        assert place_of(ours[1], stream, consumer) is None
    for reply in (
        "",
        "$JS.ACK.S.CC.1.2.3.4.5",
        "$JS.ACK.S.C",
        "$JS.FC.S.C.x",
        "a.$JS.ACK.S.C.1.2.3.4.5",
        "..",
    ):
        assert place_of(reply, "S", "C") is None


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_times_are_written_and_read_to_the_nanosecond(time_ns: int) -> None:
    assert parse_time(format_time(time_ns)) == time_ns


def test_times_are_read_in_every_form_of_rfc_3339() -> None:
    assert parse_time("1970-01-01T00:00:01Z") == 10**9
    assert parse_time("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert parse_time("1970-01-01T01:00:01.000000001+01:00") == 10**9 + 1
    assert parse_time("1969-12-31T23:00:01-01:00") == 10**9
    for text in ("", "yesterday", "1970-13-01T00:00:00Z", "1970-01-01"):
        with pytest.raises(MalformedPayload):
            parse_time(text)


@pytest.mark.parametrize(
    ("code", "err_code", "text", "expected"),
    [
        (400, 10071, "wrong last sequence: 7", WrongSequence),
        (400, 10164, "wrong last sequence", CheckInFlight),
        (409, 10158, "duplicate message id is in process", CheckInFlight),
        (404, 10059, "stream not found", LogMissing),
        (400, 10054, "message size exceeds maximum allowed", PayloadTooLarge),
        (503, 10077, "maximum bytes exceeded", LogFull),
        (503, 10077, "write /data/1.blk: input/output error", LogFailed),
        (503, 10047, "insufficient storage resources available", LogFull),
        (503, 10076, "JetStream not enabled", ServerUnsuitable),
        (503, 10008, "JetStream system temporarily unavailable", NoResponders),
        (400, 10005, "no suitable peers for placement, peer offline", NoResponders),
        (500, 10999, "something new", LogFailed),
    ],
)
def test_errors_of_the_server_become_typed_ones(
    code: int, err_code: int, text: str, expected: type[AegisError]
) -> None:
    error = api_error({"code": code, "err_code": err_code, "description": text}, "S")
    assert type(error) is expected
    assert str(error).startswith("cannot ")


@pytest.mark.parametrize("payload", [b"", b"[]", b"nonsense", b'"text"', b'{"error": 1}', b"\xff"])
def test_an_answer_that_is_no_json_object_is_a_failure(payload: bytes) -> None:
    with pytest.raises(LogFailed, match="not a JSON object"):
        read_json(payload)
    assert read_json(json.dumps({"seq": 1}).encode()) == {"seq": 1}


def test_filters_that_another_one_includes_are_dropped() -> None:
    assert without_covered(["a.>", "a.b", "a.b", "c.*"]) == ("a.>", "c.*")
    assert without_covered(["a.b"]) == ("a.b",)
    assert without_covered(["a.*.c", "a.b.*"]) == ("a.*.c", "a.b.*")


def test_records_are_plain_tuples_that_compare_by_value() -> None:
    assert Record(1, "s", b"x", 2) == (1, "s", b"x", 2)
