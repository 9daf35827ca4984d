"""What the tests of a member's idempotency keys share."""

from __future__ import annotations

from aegisipc.eventstore.ids import CallId
from aegisipc.eventstore.keys import key_hash
from aegisipc.eventstore.log import Record
from aegisipc.sdk.core.member import GroupMember
from tests.sdk.kit import ListLog
from tests.sdk.member_kit import MemberRig


def segments_in(log: ListLog) -> list[Record]:
    return [record for record in log.records if ".keys." in record.subject]


def owner_of(core: GroupMember, key: str) -> object:
    assert core.calls.keys is not None
    return core.calls.keys.find(key_hash(key))


def told(member: MemberRig, call: CallId) -> tuple[int, bytes | None]:
    return next((mark, body) for _, (call_id, mark, body) in member.replies if call_id == call)


def finish_all(member: MemberRig) -> None:
    member.run_everything()
    member.write_all()
