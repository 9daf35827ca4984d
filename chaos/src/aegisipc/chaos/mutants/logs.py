"""Defects in what all roles share: group commit, following, and the folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aegisipc.chaos.mutants import steering
from aegisipc.chaos.mutants.patching import Change, Mutant
from aegisipc.chaos.sim.plan import Break
from aegisipc.eventstore.errors import AckUnknown
from aegisipc.eventstore.frames import CallFrame, decode_calls, encode_calls
from aegisipc.eventstore.log import Appended

_COMMIT: Final = "aegisipc.eventstore.group_commit:GroupCommit"
_AWAY: Final = (Break.PARTITION, Break.RESET, Break.HALF_OPEN, Break.SERVER_KILL)


def _assumes_the_ack(original: Any) -> Callable[[Any, Any], Any]:
    """No answer in time is taken for a good one."""

    async def attempt(commit: Any, frame: Any) -> Any:
        try:
            return await original(commit, frame)
        except AckUnknown:
            return Appended(1, duplicate=False)

    return attempt


def _sends_anew(original: Any) -> Callable[[Any, Any], Any]:
    """A call frame that was not acknowledged goes out as a new one: another number, another record id."""

    async def attempt(commit: Any, frame: Any) -> Any:
        try:
            return await original(commit, frame)
        except AckUnknown:
            lane = getattr(commit._source, "_lane", None)
            if lane is None:
                raise
            old = decode_calls(frame.payload)
            lane.number += 1
            new = CallFrame(old.session, lane.number, old.epoch, old.entries, old.bodies)
            again = frame._replace(payload=encode_calls(new), record_id=f"{frame.record_id}.{lane.number}")
            return await original(commit, again)

    return attempt


def _takes_all(_: Any) -> Callable[..., bool]:
    def is_new(sessions: Any, subject: str, session: int, number: int) -> bool:  # noqa: ARG001
        return True

    return is_new


def _skips_one(original: Any) -> Callable[..., dict[str, Any]]:
    """A consumer that is made anew begins one record too late, and nobody looks whether it fits."""

    def config(following: Any, *args: Any) -> dict[str, Any]:
        made: dict[str, Any] = original(following, *args)
        if following.position:
            following._is_position_there = False
            made["opt_start_seq"] = following.position + 2
        return made

    return config


def _begins_at_end(original: Any) -> Callable[..., dict[str, Any]]:
    """A consumer that is made anew begins with what comes next, and nobody looks whether it fits."""

    def config(following: Any, *args: Any) -> dict[str, Any]:
        made: dict[str, Any] = original(following, *args)
        if following.position:
            following._is_position_there = False
            made["deliver_policy"] = "new"
            made.pop("opt_start_seq", None)
        return made

    return config


OF_LOGS: Final = (
    Mutant(
        "assume-the-ack",
        "a frame whose acknowledgement does not come is taken to be stored",
        ("G1", "G2"),
        (Change(f"{_COMMIT}._attempt", _assumes_the_ack),),
        known_seed=2,
        steer=steering.owned("place", "add", kinds=_AWAY, times=4, victims=("c-1", "g1-1", "g1-2")),
        needs="frames that are lost on their way",
    ),
    Mutant(
        "send-unacknowledged-anew",
        "a client sends a frame without an acknowledgement again as a new one, so that it is stored twice",
        ("G2", "G3"),
        (Change(f"{_COMMIT}._attempt", _sends_anew),),
        known_seed=0,
        steer=steering.owned("place", "add", kinds=(Break.ACKS_LOST,), times=3, for_s=(1.2, 2.5)),
        needs="acknowledgements that are lost",
    ),
    Mutant(
        "apply-twice",
        "readers fold a frame again that was stored twice",
        ("G2", "G3"),
        (Change("aegisipc.eventstore.memories:Sessions.is_new", _takes_all),),
        known_seed=0,
        steer=steering.owned(
            "place", "add", kinds=(Break.ACKS_LOST, Break.AMNESIA), times=8, for_s=(1.2, 2.5)
        ),
        needs="frames that are sent again after the server forgot that it had stored them",
    ),
    Mutant(
        "skip-one-on-resume",
        "who follows the log goes on one record too late after a new session, unchecked",
        ("G2", "G8", "recovery"),
        (Change("aegisipc.eventstore.following:JetStreamFollowing._config", _skips_one),),
        known_seed=0,
        steer=steering.owned("place", "add", kinds=_AWAY, times=4),
        needs="followers whose session breaks",
    ),
    Mutant(
        "resume-at-the-end",
        "who follows the log goes on at its end after a new session, unchecked",
        ("G2", "G8", "recovery"),
        (Change("aegisipc.eventstore.following:JetStreamFollowing._config", _begins_at_end),),
        known_seed=3,
        steer=steering.owned("place", "add", kinds=_AWAY, times=4),
        needs="followers whose session breaks",
    ),
)
