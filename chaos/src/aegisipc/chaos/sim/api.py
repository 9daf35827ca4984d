"""The JetStream API of the model: streams, messages and consumers, asked for with requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aegisipc.chaos.sim.consumers import Consumer, PushConsumer
from aegisipc.chaos.sim.pulling import PullConsumer
from aegisipc.chaos.sim.streams import ModelStream, Refused, time_text
from aegisipc.chaos.sim.subscriptions import matching

if TYPE_CHECKING:
    from aegisipc.chaos.sim.jetstream import JetStream

encode: Final = json.JSONEncoder(separators=(",", ":")).encode
"""Writes JSON as the server does."""

_API: Final = "$JS.API."
_BAD_REQUEST: Final = (400, 10003, "bad request")
_NO_STREAM: Final = (404, 10059, "stream not found")
_NO_MESSAGE: Final = (404, 10037, "no message found")
_NO_CONSUMER: Final = (404, 10014, "consumer not found")
_IN_USE: Final = (400, 10058, "stream name already in use with a different configuration")
_OVERLAP: Final = (400, 10065, "subjects overlap with an existing stream")
_NO_PURGE: Final = (500, 10110, "stream purge not permitted")
_CONSUMER_EXISTS: Final = (400, 10148, "consumer already exists")
_CONSUMER_MISSING: Final = (400, 10149, "consumer does not exist")
_OTHER_FILTER: Final = (
    400,
    10131,
    "Consumer create request did not match filtered subject from create subject",
)
_FILTERS_OVERLAP: Final = (400, 10138, "consumer subject filters cannot overlap")
_NO_TIME: Final = (
    400,
    10094,
    "consumer delivery policy is deliver by start time, but optional start time is not set",
)
_OTHER_POLICY: Final = (500, 10012, "deliver policy can not be updated")

_NO_PULL: Final = b"NATS/1.0 409 Consumer is push based\r\n\r\n"

_STREAM_DEFAULTS: Final[dict[str, Any]] = {
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "duplicate_window": 120_000_000_000,
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}


class Api:
    """Answers requests on ``$JS.API``."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._verbs: dict[str, Callable[[list[str], bytes], dict[str, Any]]] = {
            "STREAM.INFO": self._stream_info,
            "STREAM.CREATE": self._stream_create,
            "STREAM.DELETE": self._stream_delete,
            "STREAM.PURGE": self._stream_purge,
            "STREAM.MSG.GET": self._message_get,
            "CONSUMER.CREATE": self._consumer_create,
            "CONSUMER.INFO": self._consumer_info,
            "CONSUMER.DELETE": self._consumer_delete,
        }

    def on_request(self, subject: str, reply: str, payload: bytes) -> bool:
        """Take a request; tells whether there is somebody for it. What it does not know stays unanswered."""
        if not subject.startswith(_API):
            return False
        tokens = subject[len(_API) :].split(".")
        if tokens[:3] == ["CONSUMER", "MSG", "NEXT"]:
            return self._next(tokens[3:], reply, payload)
        length = 3 if tokens[1:2] == ["MSG"] else 2
        act = self._verbs.get(".".join(tokens[:length]))
        if act is None or self._jetstream.cannot_say(reply):
            return True
        try:
            answer = act(tokens[length:], payload)
        except Refused as refusal:
            answer = {"error": refusal.to_plain()}
            if act == self._stream_purge:
                answer["purged"] = 0
        self._jetstream.say(reply, answer)
        return True

    def _stream(self, rest: list[str]) -> ModelStream:
        stream = self._jetstream.streams.get(rest[0])
        if stream is None:
            raise Refused(*_NO_STREAM)
        return stream

    @staticmethod
    def _body(payload: bytes) -> dict[str, Any]:
        if not payload:
            return {}
        try:
            body = json.loads(payload)
        except ValueError:
            raise Refused(400, 10025, "invalid JSON") from None
        return body if isinstance(body, dict) else {}

    # -- streams ----------------------------------------------------------------------------------------

    def _stream_info(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        stream = self._stream(rest)
        leader, *others = self._jetstream.node_names()
        cluster: dict[str, Any] = {"leader": leader}
        if others:
            cluster["replicas"] = [{"name": name, "current": True} for name in others]
        return self._told(stream, self._body(payload).get("subjects_filter")) | {"cluster": cluster}

    def _told(self, stream: ModelStream, wanted: str | None) -> dict[str, Any]:
        return {
            "config": stream.config,
            "created": time_text(stream.created_ns),
            "state": stream.state(wanted),
            "ts": time_text(self._jetstream.now_ns()),
        }

    def _stream_create(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        jetstream, name = self._jetstream, rest[0]
        config = _STREAM_DEFAULTS | self._body(payload)
        known = jetstream.streams.get(name)
        if known is None:
            for stream in jetstream.streams.values():
                if _overlap(config["subjects"], stream.config["subjects"]):
                    raise Refused(*_OVERLAP)
            known = jetstream.streams[name] = ModelStream(jetstream, name, config, jetstream.now_ns())
            jetstream.streams_changed()
        elif known.config != config:
            raise Refused(*_IN_USE)
        return self._told(known, None) | {"did_create": True}

    def _stream_delete(self, rest: list[str], payload: bytes) -> dict[str, Any]:  # noqa: ARG002 - as the others
        stream = self._stream(rest)
        del self._jetstream.streams[stream.name]
        self._jetstream.streams_changed()
        stream.end()
        return {"success": True}

    def _stream_purge(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        stream = self._stream(rest)
        if stream.config["deny_purge"]:
            raise Refused(*_NO_PURGE)
        wanted = self._body(payload)
        return {"success": True, "purged": stream.purge(wanted.get("filter"), wanted.get("seq", 0))}

    def _message_get(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        stream = self._stream(rest)
        wanted = self._body(payload)
        stream.expire()
        if wanted.get("last_by_subj"):
            stored = stream.last(wanted["last_by_subj"])
        elif wanted.get("seq"):
            stored = stream.at(wanted["seq"])
        else:
            raise Refused(*_BAD_REQUEST)
        if stored is None:
            raise Refused(*_NO_MESSAGE)
        message: dict[str, Any] = {"subject": stored.subject, "seq": stored.seq}
        if stored.headers:
            message["hdrs"] = base64.b64encode(stored.headers).decode()
        if stored.payload:
            message["data"] = base64.b64encode(stored.payload).decode()
        message["time"] = time_text(stored.time_ns)
        return {"message": message}

    # -- consumers --------------------------------------------------------------------------------------

    def _consumer_create(self, rest: list[str], payload: bytes) -> dict[str, Any]:
        stream, name = self._stream(rest), rest[1]
        request = self._body(payload)
        config, action = request["config"], request.get("action", "")
        if len(rest) > 2 and ".".join(rest[2:]) != config.get("filter_subject"):
            raise Refused(*_OTHER_FILTER)
        known = stream.consumers.get(name)
        if known is None:
            if action == "update":
                raise Refused(*_CONSUMER_MISSING)
            _check_consumer(config)
            kind: type[PushConsumer | PullConsumer] = (
                PushConsumer if "deliver_subject" in config else PullConsumer
            )
            known = kind(stream, name, config)
            answer = self._told_consumer(known)
            known.begin()
            return answer
        if known.config != config:
            if action == "create":
                raise Refused(*_CONSUMER_EXISTS)
            if known.config.get("deliver_policy") != config.get("deliver_policy"):
                raise Refused(*_OTHER_POLICY)
            _check_consumer(config)
            known.reconfigure(config)
        return self._told_consumer(known) | known.state_to_maker()

    def _told_consumer(self, consumer: Consumer) -> dict[str, Any]:
        """What is said of a consumer, but for its configuration: whoever asks has just sent that."""
        about = {"stream_name": consumer.stream.name, "name": consumer.name}
        return about | consumer.state() | {"ts": time_text(self._jetstream.now_ns())}

    def _consumer(self, rest: list[str]) -> Consumer:
        consumer = self._stream(rest).consumers.get(rest[1])
        if consumer is None:
            raise Refused(*_NO_CONSUMER)
        return consumer

    def _consumer_info(self, rest: list[str], payload: bytes) -> dict[str, Any]:  # noqa: ARG002 - as the others
        return self._told_consumer(self._consumer(rest))

    def _consumer_delete(self, rest: list[str], payload: bytes) -> dict[str, Any]:  # noqa: ARG002 - as the others
        consumer = self._consumer(rest)
        consumer.end("Consumer Deleted")
        return {"success": True}

    def _next(self, rest: list[str], reply: str, payload: bytes) -> bool:
        stream = self._jetstream.streams.get(rest[0])
        consumer = None if stream is None else stream.consumers.get(rest[1])
        if isinstance(consumer, PullConsumer):
            consumer.on_pull(reply, payload)
        elif consumer is not None:
            self._jetstream.server.deliver(reply, "", _NO_PULL, b"")
        return consumer is not None


def _check_consumer(config: dict[str, Any]) -> None:
    filters = config.get("filter_subjects") or []
    for index, one in enumerate(filters):
        if _overlap([one], filters[index + 1 :]):
            raise Refused(*_FILTERS_OVERLAP)
    if config.get("deliver_policy") == "by_start_time" and not config.get("opt_start_time"):
        raise Refused(*_NO_TIME)


def _overlap(some: list[str], others: list[str]) -> bool:
    return any(matching(one, other) or matching(other, one) for one in some for other in others)
