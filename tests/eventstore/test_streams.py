"""The streams of a namespace: made when missing, checked when there, refused when they are something else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aegisipc.eventstore.errors import LogMisconfigured, LogMissing, ServerUnsuitable
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.streams import LogOptions, create_log, log_config, open_log, pulse_config
from aegisipc.eventstore.subjects import subjects_of
from aegisipc.router.infrastructure.embedded import EmbeddedServer
from tests.eventstore.conftest import JetStreamBed, connect_options


async def test_a_namespace_without_a_log_cannot_be_opened(live: JetStreamBed) -> None:
    with pytest.raises(LogMissing, match="start a router") as missing:
        await open_log(live.connection, subjects_of("nobody-made-this"))
    assert missing.value.namespace == "nobody-made-this"


async def test_a_log_that_was_made_can_be_opened_and_made_again(live: JetStreamBed) -> None:
    await live.log.append(live.calls, b"kept")
    for log in (
        await open_log(live.connection, live.subjects),
        await create_log(live.connection, live.subjects),
    ):
        assert (await log.bounds()).last_seq == 1


async def test_both_streams_are_as_designed(live: JetStreamBed) -> None:
    log = (await live.api(f"STREAM.INFO.{live.subjects.stream}"))["config"]
    pulse = (await live.api(f"STREAM.INFO.{live.subjects.pulse_stream}"))["config"]
    for wanted, found in (
        (log_config(live.subjects, LogOptions()), log),
        (pulse_config(live.subjects, LogOptions()), pulse),
    ):
        assert {key: found.get(key, 0) for key in wanted} == wanted
    assert log["subjects"] == [live.subjects.everything]
    assert (log["discard"], log["deny_delete"], log["deny_purge"]) == ("new", True, True)


@pytest.mark.parametrize(
    ("options", "key"),
    [(LogOptions(max_bytes=1 << 20), "max_bytes"), (LogOptions(max_age_s=3600), "max_age")],
)
async def test_a_log_made_with_other_options_is_refused_and_left_alone(
    live: JetStreamBed, options: LogOptions, key: str
) -> None:
    with pytest.raises(LogMisconfigured, match="choose another namespace") as refused:
        await create_log(live.connection, live.subjects, options)
    assert key in refused.value.differences
    difference = refused.value.differences[key]
    assert difference["wanted"] == log_config(live.subjects, options)[key]
    assert key in str(refused.value)
    assert repr(difference["found"]) in str(refused.value)
    await create_log(live.connection, live.subjects)


async def test_a_stream_of_that_name_that_is_no_log_is_not_opened(live: JetStreamBed) -> None:
    subjects = subjects_of(f"{live.subjects.namespace}-alien")
    made = await live.api(
        f"STREAM.CREATE.{subjects.stream}",
        {"name": subjects.stream, "subjects": ["alien.>"], "discard": "old"},
    )
    assert "error" not in made
    for opening in (open_log(live.connection, subjects), create_log(live.connection, subjects)):
        with pytest.raises(LogMisconfigured) as refused:
            await opening
        assert {"subjects", "discard", "deny_delete", "deny_purge"} <= refused.value.differences.keys()


async def test_a_server_without_jetstream_cannot_keep_a_log(server_without_jetstream: EmbeddedServer) -> None:
    options = replace(connect_options(server_without_jetstream.url), require_jetstream=False)
    async with await Connection.open(options) as connection:
        subjects = subjects_of("plain")
        for opening in (open_log(connection, subjects), create_log(connection, subjects)):
            with pytest.raises(ServerUnsuitable, match="JetStream is off"):
                await opening
