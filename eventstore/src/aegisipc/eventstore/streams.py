"""The streams of a namespace: their configuration, making them, checking them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Literal

from aegisipc.eventstore.errors import LogMisconfigured, LogMissing, NoResponders, ServerUnsuitable
from aegisipc.eventstore.jetstream import JetStreamLog
from aegisipc.eventstore.jetstream_api import STREAM_NOT_FOUND, api_error, read_json
from aegisipc.eventstore.nats.connection import Connection
from aegisipc.eventstore.object_layout import bucket_of
from aegisipc.eventstore.subjects import Subjects

_API_TIMEOUT_S = 5.0
_NAME_IN_USE = 10058
_FORMING_S = 10.0
_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How the log is kept. ``max_bytes`` and ``max_age_s`` of 0 mean no limit; ``objects_max_bytes`` is that
    of the store of large bodies.

    Only a log that nobody routes on may have a ``max_age_s``: a router refuses it, because the records that
    say who holds a group's pen and who is in it are written once, and would age out with the rest.
    """

    replicas: int = 1
    max_bytes: int = 0
    max_age_s: float = 0
    pulse_age_s: float = 3600
    storage: Literal["file", "memory"] = "file"
    objects_max_bytes: int = 0


def log_config(subjects: Subjects, options: LogOptions) -> dict[str, Any]:
    """Return the stream configuration of the log."""
    return {
        "name": subjects.stream,
        "subjects": [subjects.everything],
        "retention": "limits",
        "discard": "new",
        "storage": options.storage,
        "num_replicas": options.replicas,
        "max_bytes": options.max_bytes or -1,
        "max_age": int(options.max_age_s * 1e9),
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "duplicate_window": int(min(120.0, options.max_age_s or 120.0) * 1e9),
    }


def pulse_config(subjects: Subjects, options: LogOptions) -> dict[str, Any]:
    """Return the stream configuration of the heartbeats."""
    return {
        "name": subjects.pulse_stream,
        "subjects": [f"{subjects.pulse_root}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": options.storage,
        "num_replicas": options.replicas,
        "max_age": int(options.pulse_age_s * 1e9),
        "max_bytes": 256 << 20,
        "deny_delete": True,
        "allow_direct": True,
        "duplicate_window": int(min(120.0, options.pulse_age_s) * 1e9),
    }


def objects_config(subjects: Subjects, options: LogOptions) -> dict[str, Any]:
    """Return the stream configuration of the store of large bodies.

    Rollups and deletions of single messages are off: whoever may store can remove nothing. Purging has a
    permission of its own.
    """
    bucket = bucket_of(subjects)
    return {
        "name": bucket.stream,
        "subjects": [bucket.all_chunks, bucket.all_entries],
        "retention": "limits",
        "discard": "new",
        "storage": options.storage,
        "num_replicas": options.replicas,
        "max_bytes": options.objects_max_bytes or -1,
        "max_age": int(options.max_age_s * 1e9),
        "deny_delete": True,
        "allow_direct": True,
        "duplicate_window": int(min(120.0, options.max_age_s or 120.0) * 1e9),
    }


async def create_log(
    connection: Connection, subjects: Subjects, options: LogOptions = LogOptions()
) -> JetStreamLog:
    """Make the streams of the namespace where they are missing, and open the log.

    Raises:
        LogMisconfigured: a stream of that name exists with another configuration; it is left as it is.
    """
    await _ensure(connection, log_config(subjects, options))
    await _ensure(connection, pulse_config(subjects, options))
    await _ensure(connection, objects_config(subjects, options))
    return JetStreamLog(connection, subjects.stream)


async def create_log_from(
    connection: Connection, subjects: Subjects, options: LogOptions, *, first_seq: int, description: str
) -> JetStreamLog | None:
    """Make the log of a namespace, so that its first record will have the sequence `first_seq`; returns
    ``None`` if there is a log already. The other streams are made by :func:`create_log`.

    `description` has to be like no other: so of two who do this at once only one succeeds.

    Raises:
        ServerUnsuitable, LogFailed, NotConnected, AckUnknown, NoResponders: as the server says.
    """
    if await _info(connection, subjects.stream) is not None:
        return None
    wanted = log_config(subjects, options) | {"first_seq": first_seq, "description": description}
    answer = await connection.request(
        f"$JS.API.STREAM.CREATE.{subjects.stream}", json.dumps(wanted).encode(), timeout_s=_API_TIMEOUT_S
    )
    created = read_json(answer.payload)
    if "error" not in created:
        return JetStreamLog(connection, subjects.stream)
    if created["error"].get("err_code") == _NAME_IN_USE:
        return None
    raise api_error(created["error"], subjects.stream)


async def delete_log(connection: Connection, subjects: Subjects) -> None:
    """Remove the log of a namespace, and nothing else of it: for whoever made it and could not finish.

    Raises:
        LogMissing, LogFailed, NotConnected, AckUnknown, NoResponders: as the server says.
    """
    answer = await connection.request(
        f"$JS.API.STREAM.DELETE.{subjects.stream}", b"", timeout_s=_API_TIMEOUT_S
    )
    deleted = read_json(answer.payload)
    if "error" in deleted:
        raise api_error(deleted["error"], subjects.stream)


async def open_log(connection: Connection, subjects: Subjects) -> JetStreamLog:
    """Open the log of a namespace that a router has made.

    Raises:
        LogMissing: there is none on this server.
        LogMisconfigured: a stream of that name exists, but it cannot be an AegisIPC log.
    """
    found = await _info(connection, subjects.stream)
    if found is None:
        raise LogMissing(
            f"cannot find the log of namespace {subjects.namespace!r} on this server: "
            "start a router for it (aegis dev, or aegis router), or check the namespace",
            namespace=subjects.namespace,
        )
    essential = {key: value for key, value in log_config(subjects, LogOptions()).items() if key in _ESSENTIAL}
    _check(subjects.stream, essential, found)
    return JetStreamLog(connection, subjects.stream)


_ESSENTIAL = frozenset({"subjects", "retention", "discard", "deny_delete", "deny_purge"})


async def _ensure(connection: Connection, wanted: dict[str, Any]) -> None:
    """Make the stream if it is missing; a cluster that is only just forming is given some time."""
    give_up_at = asyncio.get_running_loop().time() + _FORMING_S
    while True:
        try:
            return await _make_or_check(connection, wanted)
        except NoResponders:
            if asyncio.get_running_loop().time() > give_up_at:
                raise
            await asyncio.sleep(_RETRY_S)


async def _make_or_check(connection: Connection, wanted: dict[str, Any]) -> None:
    name = wanted["name"]
    found = await _info(connection, name)
    if found is None:
        answer = await connection.request(
            f"$JS.API.STREAM.CREATE.{name}", json.dumps(wanted).encode(), timeout_s=_API_TIMEOUT_S
        )
        created = read_json(answer.payload)
        if "error" not in created:
            return
        found = await _info(connection, name)  # another router may have made it in the meantime
        if found is None:
            raise api_error(created["error"], name)
    _check(name, wanted, found)


async def _info(connection: Connection, stream: str) -> dict[str, Any] | None:
    try:
        answer = await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=_API_TIMEOUT_S)
    except NoResponders:
        if connection.server.jetstream:
            raise  # a cluster is electing a leader
        raise ServerUnsuitable(
            f"cannot keep a log on the server at {connection.server.url}: JetStream is off; start it with "
            "--jetstream, or with a jetstream section in its configuration",
            url=connection.server.url,
        ) from None
    info = read_json(answer.payload)
    error = info.get("error")
    if error is None:
        config: dict[str, Any] = info["config"]
        return config
    if error.get("err_code") == STREAM_NOT_FOUND:
        return None
    raise api_error(error, stream)


def _check(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    differences = {
        key: {"wanted": value, "found": found.get(key)}
        for key, value in wanted.items()
        if (found.get(key) or _UNSET.get(key)) != (value or _UNSET.get(key))
    }
    if differences:
        shown = "; ".join(f"{key} is {d['found']!r}, not {d['wanted']!r}" for key, d in differences.items())
        raise LogMisconfigured(
            f"cannot use stream {name!r}: it exists with another configuration ({shown}); "
            "start with the options it was made with, or choose another namespace",
            stream=name,
            differences=differences,
        )


_UNSET = {"max_age": 0, "deny_delete": False, "deny_purge": False, "allow_direct": False}
