"""G4 and the epochs: who may write, and since when."""

from __future__ import annotations

from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.keys import Segment, encode_segment
from tests.chaos.checking.scene import GROUP, NS, SERVICE, Scene, a_scene, broken_by, holds


def vacate(scene: Scene) -> int:
    event = ev.GroupVacated(epoch=scene.epoch, cause="test", decided_by="r")
    return scene.say(NS.fence(SERVICE, GROUP), event)


def elect(scene: Scene, router: str, term: int) -> int:
    event = ev.RouterElected(term=term, router=router, incarnation="1", cause="test")
    return scene.say(NS.term, event)


# -- G4 --------------------------------------------------------------------------------------------------


def test_a_former_holder_that_still_writes_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.ran(call_id)
    scene.promote("b")
    seq = scene.mark(Mark.SUCCEEDED, call_id, encode(1), writer="a", epoch=1)
    assert broken_by(scene, "G4").seqs == (seq,)
    broken_by(scene, "G2", call_id)  # what it says does not count


def test_an_older_epoch_of_the_holder_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.promote("b")
    scene.promote("a")
    seq = scene.mark(Mark.EXPIRED, call_id, epoch=1)
    assert broken_by(scene, "G4").seqs == (seq,)


def test_a_second_run_of_the_holder_in_one_epoch_is_found() -> None:
    scene = a_scene()
    scene.whole_call()
    call_id = scene.accept(scene.invoke())
    seq = scene.mark(Mark.EXPIRED, call_id, session=4711)
    assert broken_by(scene, "G4").seqs == (seq,)


def test_nobody_may_write_while_the_group_is_vacant() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    vacate(scene)
    seq = scene.mark(Mark.EXPIRED, call_id)
    assert broken_by(scene, "G4").seqs == (seq,)


def test_a_segment_of_keys_or_a_snapshot_by_another_one_is_found() -> None:
    scene = a_scene()
    keys = scene.store(NS.keys(SERVICE, GROUP, "b"), encode_segment(Segment(1, 1, 0, 1, [])))
    state = scene.store(NS.state(SERVICE, GROUP, "b"), b"a snapshot")
    assert {finding.seqs for finding in scene.verdict("G4").findings} == {(keys,), (state,)}


def test_a_start_under_an_epoch_that_its_instance_never_held_is_found() -> None:
    scene = a_scene()
    call_id = scene.accept(scene.invoke())
    scene.began(call_id, "b")
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))
    broken_by(scene, "G4", call_id)


def test_a_holder_may_write_on_after_its_promotion_was_written_again_and_during_a_handover() -> None:
    scene = a_scene()
    scene.whole_call()
    scene.promote("a", 1)
    scene.whole_call()
    event = ev.GroupHandoverStarted(
        epoch=1, holder="a", to="b", to_incarnation="b-1", cause="test", decided_by="r"
    )
    scene.say(NS.fence(SERVICE, GROUP), event)
    scene.whole_call()
    scene.promote("b")
    scene.whole_call()
    vacate(scene)
    scene.promote("a")
    scene.whole_call()
    holds(scene, "failovers")  # nobody had a reason for all that


def test_in_a_pool_anybody_may_write() -> None:
    scene = Scene()
    for writer in ("a", "b"):
        scene.register(writer, "_pool")
        scene.holder = writer
        call_id = scene.accept(scene.invoke(), "get", group="_pool")
        scene.mark(Mark.SUCCEEDED, call_id, encode(1), group="_pool")
    holds(scene)


# -- epochs ----------------------------------------------------------------------------------------------


def test_two_holders_of_one_epoch_are_found() -> None:
    scene = a_scene()
    second = scene.promote("b", 1)
    assert second in broken_by(scene, "epochs").seqs


def test_an_epoch_that_falls_is_found() -> None:
    scene = a_scene()
    scene.promote("b", 3)
    third = scene.promote("a", 2)
    assert third in broken_by(scene, "epochs").seqs


def test_a_word_on_the_fence_about_another_epoch_is_found() -> None:
    scene = a_scene()
    scene.promote("b")
    scene.epoch = 1
    assert vacate(scene) in broken_by(scene, "epochs").seqs


def test_a_term_that_was_won_twice_is_found() -> None:
    scene = a_scene()
    elect(scene, "r1", 2)
    elect(scene, "r2", 3)
    assert elect(scene, "r1", 3) in broken_by(scene, "epochs").seqs


def test_epochs_may_be_left_out_and_said_again() -> None:
    scene = a_scene()
    scene.promote("a", 1)
    scene.promote("b", 5)
    vacate(scene)
    scene.promote("b", 6)
    elect(scene, "r1", 2)
    elect(scene, "r2", 4)
    holds(scene, "failovers")
