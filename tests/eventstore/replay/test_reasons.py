"""Why a group's pen is where it is: the answer, and the chain that led there."""

from __future__ import annotations

from pathlib import Path

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.checkpoints import SkippedSnapshot
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import format_call_id
from aegisipc.eventstore.replay import (
    Reason,
    Source,
    open_bundle,
    resolve,
    why,
)
from aegisipc.eventstore.replay.exporting import export
from aegisipc.eventstore.replay.reason_steps import MAX_LINKS
from tests.eventstore.replay.telling import OURS, causes, explain, link, whats
from tests.eventstore.replay.told_history import IN_DOUBT, Tale, frozen, tale_of
from tests.router.domain.world import pause
from tests.sdk.kit import GROUP, NS, POOL, SERVICE

# -- groups ------------------------------------------------------------------------------------------------


async def test_a_failover_is_told_from_the_missed_heartbeats_to_the_end_of_the_doubt() -> None:
    tale, begun, waiting = frozen()
    reason = await explain(tale, "group", OURS)
    promoted = next(r.seq for r in tale.log.records if r.subject == NS.fence(SERVICE, GROUP) and r.seq > 10)
    assert reason.answer.startswith(
        f"{OURS}: i2 is active at epoch 2 since 2027-01-15T08:00:01.500Z, because "
    )
    assert "silent for 1500 ms" in reason.answer
    assert "2 calls were open at that change, 1 of them claimed; 1 call in doubt, all ended" in reason.answer
    order = ["last_pulse", "silence", "decided", "fence", "late", "in_doubt", "first_outcome", "heard_again"]
    assert [what for what in whats(reason) if what in order] == order
    silence = link(reason, "silence")
    assert (silence.data["gap_ms"], silence.data["limit_ms"], silence.seq) == (1500, 1000, 0)
    assert link(reason, "last_pulse").data["is_in_stream"] is True
    assert causes(reason, "decided") == {"silence", "elected", "ready"}
    assert causes(reason, "suspected") == {"silence"}
    decided, fence = link(reason, "decided"), link(reason, "fence")
    assert (decided.data["decided_by"], decided.data["term"], decided.seq) == ("r1", 1, promoted)
    assert decided.data["others"] == [
        {"instance": "i3", "why_not": "it had joined after i2: first come, first served"}
    ]
    assert (fence.seq, fence.data["former_epoch"], fence.data["former_holder"]) == (promoted, 1, "i1")
    assert causes(reason, "in_doubt") == {"claimed", "fence"}
    assert causes(reason, "resolved") == {"in_doubt"}
    assert "operator ann@box: the venue has it" in link(reason, "resolved").said
    assert causes(reason, "ended") == {"resolved"}
    first = link(reason, "first_outcome")
    assert (first.data["call_id"], first.data["after_ms"]) == (format_call_id(waiting), 5)
    assert link(reason, "late").data["epoch"] == 1
    assert causes(reason, "recovered") == {"suspected"}
    assert any("refused 1 frame" in note for note in reason.notes)
    (doubt,) = reason.to_plain()["doubts"]
    assert doubt["call_id"] == format_call_id(begun)
    assert (doubt["resolution"]["source"], doubt["resolution"]["author"]) == ("operator", "ann@box")
    assert (doubt["end"]["what"], doubt["claimed_by"], doubt["claimed_epoch"]) == ("succeeded", "i1", 1)


async def test_a_point_before_the_failover_knows_nothing_of_it() -> None:
    tale, _, _ = frozen()
    reason = await explain(tale, "group", OURS, "before:last:group.promoted")
    assert f"{OURS}: i1 is active at epoch 1" in reason.answer
    assert "first instance of the group" in reason.answer
    assert not {"suspected", "silence", "in_doubt"} & set(whats(reason))
    just_after = await explain(tale, "group", OURS, "last:group.promoted")
    assert "i2 is active at epoch 2" in just_after.answer
    assert "1 of them claimed" in just_after.answer
    assert "in_doubt" not in whats(just_after)
    assert any("nobody has had an outcome" in note for note in just_after.notes)


async def test_without_heartbeats_the_evidence_in_the_log_tells_the_gap() -> None:
    tale, _, _ = frozen()
    kept = tale.source()
    source = Source(kept.log, kept.subjects, kept.about)
    reason = await why(source, "group", OURS, await resolve(source, "end"))
    assert link(reason, "silence").data["gap_ms"] == 1500
    assert link(reason, "last_pulse").data["is_in_stream"] is False
    assert "heard_again" not in whats(reason)


async def test_the_end_of_a_connection_is_named_with_its_reason() -> None:
    tale = tale_of("i1", "i2")
    tale.later(5)
    tale.disconnect("i1", "Slow Consumer")
    tale.pulse("i2")
    tale.settle()
    reason = await explain(tale, "group", OURS)
    ended = link(reason, "disconnected")
    assert (ended.data["reason"], ended.data["client_id"]) == ("Slow Consumer", 1)
    assert "Slow Consumer" in ended.said
    assert "disconnected" in causes(reason, "decided")
    assert causes(reason, "disconnected") == {"last_pulse"}


async def test_probes_without_an_answer_are_named() -> None:
    tale = tale_of("i1", "i2")
    tale.miss_probes("i1")
    tale.pulse("i1", "i2", after_ms=10)
    tale.settle()
    reason = await explain(tale, "group", OURS)
    assert "i2 is active at epoch 2" in reason.answer
    assert "probe_failed" in causes(reason, "decided")


async def test_a_handover_names_the_operator_and_the_holders_word() -> None:
    tale = tale_of("i1", "i2")
    tale.promote("i2")
    tale.later(40)
    tale.yields("i1")
    tale.settle()
    reason = await explain(tale, "group", OURS)
    assert "i2 is active at epoch 2" in reason.answer
    assert "alice" in link(reason, "handover").said
    assert causes(reason, "yielded") == {"handover"}
    assert "yielded" in causes(reason, "decided")
    assert "handover" not in causes(reason, "decided")
    assert "planned" in link(reason, "decided").said
    assert "alice" in link(reason, "decided").said
    assert "No call was open at that change." in reason.answer


async def test_a_handover_that_is_under_way_is_told() -> None:
    tale = tale_of("i1", "i2")
    tale.promote("i2")
    reason = await explain(tale, "group", OURS)
    assert "i1 is active at epoch 1" in reason.answer
    assert any("handover to i2 is under way" in note for note in reason.notes)


async def test_an_unhealthy_holder_that_leaves_is_told() -> None:
    tale = tale_of("i1", "i2")
    tale.fall_ill("i1", "no venue")
    tale.settle()
    tale.yields("i1")
    tale.settle()
    reason = await explain(tale, "group", OURS)
    assert causes(reason, "handover") == {"unhealthy"}
    assert "no venue" in link(reason, "unhealthy").said
    tale.drain("i2")
    tale.leave("i2")
    tale.settle()
    reason = await explain(tale, "group", OURS)
    assert causes(reason, "left") == {"draining"}
    assert "left" in causes(reason, "decided")


async def test_a_vacancy_and_its_end_are_told() -> None:
    tale = tale_of("i1")
    call = tale.call()
    tale.pen("i1", (Mark.CLAIMED, call, None))
    for _ in range(14):
        tale.pulse(after_ms=250)
        tale.settle()
    reason = await explain(tale, "group", OURS)
    assert f"{OURS}: nobody is active since" in reason.answer
    assert "wait for the next holder" in reason.answer
    assert causes(reason, "lost") == {"suspected"}
    assert "lost" in causes(reason, "decided")
    assert "first_outcome" not in whats(reason)
    assert link(reason, "claimed").data["call_id"] == format_call_id(call)
    tale.joined("i2")
    reason = await explain(tale, "group", OURS)
    assert "i2 is active at epoch 2" in reason.answer
    assert "(nobody was active for 250 ms)" in reason.answer
    assert "vacated" in causes(reason, "decided")
    assert causes(reason, "vacated") == {"lost"}
    assert causes(reason, "lost") == {"suspected"}
    assert causes(reason, "suspected") == {"silence"}


async def test_what_speaks_against_the_holder_is_in_the_answer() -> None:
    tale = tale_of("i1")
    for _ in range(5):
        tale.pulse(after_ms=250)
        tale.settle()
    reason = await explain(tale, "group", OURS)
    assert "i1 is active at epoch 1" in reason.answer
    assert ". But it is suspected since 2027-01-15T08:00:01" in reason.answer
    assert "(silent for 1250 ms), and nobody can take over from it. No call" in reason.answer
    assert causes(reason, "suspected") == {"silence"}
    assert link(reason, "silence").data["gap_ms"] == 1250
    for _ in range(9):
        tale.pulse(after_ms=250)
        tale.settle()
    lost = await explain(tale, "group", OURS, "instance.lost")
    assert "i1 is active at epoch 1" in lost.answer  # the fence is where it was
    assert "But it is lost since" in lost.answer
    assert causes(lost, "lost") == {"suspected"}


async def test_a_holder_that_is_well_again_has_nothing_against_it() -> None:
    tale = tale_of("i1")
    for _ in range(5):
        tale.pulse(after_ms=250)
        tale.settle()
    tale.pulse("i1", after_ms=50)
    tale.settle()
    tale.command(pause(GROUP))
    reason = await explain(tale, "group", OURS)
    assert causes(reason, "recovered") == {"suspected"}
    assert "suspected" not in reason.answer
    assert "But the group is paused by alice" in reason.answer
    tale.register("i1", "2")
    restarted = await explain(tale, "group", OURS)
    assert "But that run of i1 is over, and nobody has been promoted yet." in restarted.answer
    assert link(restarted, "registered").data["event"]["incarnation"] == "2"


async def test_what_only_heartbeats_tell_yet_is_noted() -> None:
    """The holder and the router are dead, and nobody is there to write that down."""
    tale = tale_of("i1", "i2")
    tale.call()
    assert not any("had not been heard" in note for note in (await explain(tale, "group", OURS)).notes)
    tale.later(1200)
    tale.says("i2")
    tale.call()
    reason = await explain(tale, "group", OURS)
    assert "i1 is active at epoch 1" in reason.answer
    assert "i1, which holds the pen, had not been heard for 1200 ms at this point" in reason.notes
    assert any(note.startswith("router r1, which leads, had not been heard for") for note in reason.notes)
    tale.later(60_000)
    tale.says("i2")
    tale.call()
    notes = (await explain(tale, "group", OURS)).notes
    assert "i1, which holds the pen, had not been heard for 30 s at least" in notes


async def test_a_call_that_was_begun_alone_is_told() -> None:
    tale = tale_of("i1", "i2")
    call = tale.call()
    tale.pen("i1", (Mark.ATTEMPTED, call, None))
    of_call = await explain(tale, "call", format_call_id(call))
    assert "runs alone at i1 (active at epoch 1) since" in of_call.answer
    assert "(attempt 1)" in of_call.answer
    tale.silence(1250, "i2")
    tale.settle()
    reason = await explain(tale, "group", OURS)
    assert "1 call was open at that change, 0 of them claimed" in reason.answer
    assert any("had been begun alone 1 time" in note for note in reason.notes)
    of_call = await explain(tale, "call", format_call_id(call))
    assert "waits at i2 (active at epoch 2)" in of_call.answer


async def test_a_restarted_holder_is_told() -> None:
    tale = tale_of("i1", "i2")
    tale.register("i1", "2")
    tale.settle()
    reason = await explain(tale, "group", OURS)
    assert "i2 is active at epoch 2" in reason.answer
    assert "restarted" in causes(reason, "decided")


async def test_a_promotion_that_is_written_again_is_no_other_one() -> None:
    tale, _, _ = frozen()
    before = await explain(tale, "group", OURS)
    again = tale.log.last(NS.fence(SERVICE, GROUP))
    assert again is not None
    tale.log.append(again.subject, again.payload)
    after = await explain(tale, "group", OURS)
    assert after.links == before.links
    assert after.answer == before.answer


async def test_who_could_not_take_over_is_named_with_the_reason() -> None:
    tale = tale_of("i1", "i2", "i3", "i4", "i5")
    tale.never_ready.add("i6")
    tale.joined("i6")
    tale.fall_ill("i3", "no venue")
    tale.asked_to_drain("i4")
    tale.drain("i5")
    tale.silence(1250, "i2", "i3", "i4", "i5", "i6")
    tale.settle()
    others = link(await explain(tale, "group", OURS), "decided").data["others"]
    assert {each["instance"]: each["why_not"] for each in others} == {
        "i3": "it was unhealthy: no venue",
        "i4": "it was asked to leave by alice: r",
        "i5": "it was draining",
        "i6": "it had not caught up with the log yet",
    }


async def test_a_group_that_nobody_ever_held_and_a_paused_one() -> None:
    tale = Tale()
    tale.register("i1")
    reason = await explain(tale, "group", SERVICE)
    assert "nobody has been active yet" in reason.answer
    assert "i1 (joining)" in reason.answer
    tale.settle()
    tale.command(pause(GROUP))
    reason = await explain(tale, "group", SERVICE)
    assert "i1 is active at epoch 1" in reason.answer
    assert any("is paused by alice" in note for note in reason.notes)


async def test_a_pool_has_no_pen() -> None:
    tale = Tale()
    tale.joined("w1", "w2", group=POOL)
    tale.call("get", None, POOL)
    reason = await explain(tale, "group", f"{SERVICE}/{POOL}")
    assert "2 workers ready (w1, w2); 1 call open" in reason.answer
    assert whats(reason).count("instance.ready") == 2


async def test_evidence_of_the_former_holder_is_part_of_the_chain() -> None:
    tale = tale_of("i1", "i2")
    call = tale.call()
    tale.pen("i1", (Mark.CLAIMED, call, None))
    tale.silence(1250, "i2")
    tale.settle()
    tale.pen("i2", (Mark.IN_DOUBT, call, IN_DOUBT))
    open_still = await explain(tale, "group", OURS)
    assert f"(aegis doubt show {format_call_id(call)})" in open_still.answer
    tale.pen("i1", (Mark.SUCCEEDED, call, b"\x01"), epoch=1, kind="evidence")
    by_i1 = encode(ev.Resolution(source="evidence", author="i1"))
    tale.pen("i2", (Mark.EXECUTED, call, by_i1), (Mark.SUCCEEDED, call, b"\x01"))
    reason = await explain(tale, "group", OURS)
    assert causes(reason, "resolved") == {"in_doubt", "evidence"}
    assert "says the evidence of i1" in link(reason, "resolved").said


async def test_a_chain_is_bounded_and_says_what_it_leaves_out() -> None:
    reason = Reason("group", {})
    numbers = [reason.add("x", "said", at_ns=number) for number in range(MAX_LINKS + 3)]
    assert numbers[-3:] == [0, 0, 0]
    assert (len(reason.links), reason.omitted) == (MAX_LINKS, 3)
    tale = tale_of("i1", "i2")
    calls = [tale.call() for _ in range(30)]
    tale.pen("i1", *((Mark.CLAIMED, call, None) for call in calls))
    tale.silence(1250, "i2")
    tale.settle()
    tale.pen("i2", *((Mark.IN_DOUBT, call, IN_DOUBT) for call in calls))
    told_of = await explain(tale, "group", OURS)
    assert whats(told_of).count("in_doubt") == 20
    assert (
        f"30 without an outcome yet (aegis doubt list --service {SERVICE} --group {GROUP})" in told_of.answer
    )
    assert any(note.startswith("10 more calls") for note in told_of.notes)
    assert len(told_of.to_plain()["doubts"]) == 30


# -- bundles and snapshots ---------------------------------------------------------------------------------


async def test_a_bundle_that_begins_amid_the_incident_is_explained_all_the_same(tmp_path: Path) -> None:
    tale, begun, _ = frozen()
    whole = tale.source()
    end = await resolve(whole, "end")
    claimed = await resolve(whole, "claimed")
    await export(whole, tmp_path / "incident.aegis", from_seq=claimed.seq - 2, until_seq=end.seq)
    source = open_bundle(tmp_path / "incident.aegis")
    of_group = await why(source, "group", OURS, await resolve(source, "end"))
    expected = await why(whole, "group", OURS, end)
    assert of_group.answer == expected.answer
    assert set(whats(expected)) - set(whats(of_group)) == {"ready"}  # that was before
    early = await why(source, "group", OURS, await resolve(source, "claimed"))
    assert "i1 is active at epoch 1" in early.answer
    assert any("before this history begins" in note for note in early.notes)
    of_instance = await why(source, "instance", "i1", await resolve(source, "end"))
    assert {"demoted", "suspected", "recovered"} <= set(whats(of_instance))
    of_call = await why(source, "call", format_call_id(begun), await resolve(source, "in_doubt"))
    assert "is in doubt since" in of_call.answer
    assert all(each.data["counts"] for each in of_call.links if each.what == "claimed")


async def test_a_snapshot_of_no_use_is_told_and_changes_nothing() -> None:
    tale, _, _ = frozen()
    source = tale.source()
    before = await explain(tale, "group", OURS)
    await source.log.append(NS.snapshot_index, b"nothing of the kind")
    skipped: list[SkippedSnapshot] = []
    end = await resolve(source, "end")
    after = await why(source, "group", OURS, end, on_skip=skipped.append)
    assert len(skipped) == 1
    assert after.links == before.links
