"""G6: one key, one effect; and whoever asks for a key is led to the call that has it."""

from __future__ import annotations

from aegisipc.chaos.history import Deed, Stage
from aegisipc.eventstore import events as ev
from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import parse_call_id
from aegisipc.eventstore.keys import Segment, encode_segment
from tests.chaos.checking.scene import NS, POOL, SERVICE, Scene, a_scene, broken_by, error, holds


def ask(scene: Scene, argument: int = 1, *, key: str = "k", client: str = "c") -> str:
    """A call with a key, not concluded."""
    return scene.accept(scene.invoke(key=key, client=client), key=key, client=client, argument=argument)


def own(scene: Scene, call_id: str) -> None:
    scene.mark(Mark.KEYED, call_id, bytes(32))
    scene.ran(call_id)
    scene.mark(Mark.SUCCEEDED, call_id, encode(1))


def conflict(scene: Scene, call_id: str, first: str) -> None:
    scene.mark(Mark.FAILED, call_id, error("idempotency_conflict", first=first, key="k"))


def test_two_effects_of_one_key_are_found() -> None:
    scene = a_scene()
    calls = ask(scene), ask(scene, client="d")
    for call_id in calls:
        own(scene, call_id)
    broken_by(scene, "G6", *calls)


def test_two_effects_are_found_though_one_says_that_it_had_none() -> None:
    scene = a_scene()
    first, second = ask(scene), ask(scene)
    scene.began(first)
    scene.pen((Mark.RELEASED, first, bytes(16)), (Mark.CANCELLED, first, error("cancelled", started=True)))
    own(scene, second)
    broken_by(scene, "G6", first, second)


def test_a_duplicate_of_a_call_that_asked_for_something_else_is_found() -> None:
    scene = a_scene()
    first, second = ask(scene), ask(scene, 2)
    own(scene, first)
    scene.mark(Mark.DUPLICATE, second, parse_call_id(first))
    broken_by(scene, "G6", first, second)


def test_a_duplicate_of_a_call_with_another_key_is_found() -> None:
    scene = a_scene()
    first, second = ask(scene), ask(scene, key="l")
    own(scene, first)
    scene.mark(Mark.DUPLICATE, second, parse_call_id(first))
    broken_by(scene, "G6", first, second)


def test_a_duplicate_of_nothing_is_found() -> None:
    scene = a_scene()
    one = ask(scene)
    scene.mark(Mark.DUPLICATE, one, bytes(16))
    broken_by(scene, "G6", one)


def test_duplicates_of_each_other_are_found() -> None:
    scene = a_scene()
    first, second = ask(scene), ask(scene)
    scene.pen((Mark.DUPLICATE, first, parse_call_id(second)), (Mark.DUPLICATE, second, parse_call_id(first)))
    broken_by(scene, "G6", first, second)


def test_a_conflict_between_calls_that_ask_for_the_same_is_found() -> None:
    scene = a_scene()
    first, second = ask(scene), ask(scene, client="d")
    own(scene, first)
    conflict(scene, second, first)
    broken_by(scene, "G6", first, second)


def test_a_call_without_a_key_repeats_nothing() -> None:
    scene = a_scene()
    first = ask(scene)
    own(scene, first)
    second = scene.accept(scene.invoke())
    scene.mark(Mark.DUPLICATE, second, parse_call_id(first))
    broken_by(scene, "G6", second)


def test_repeats_conflicts_and_keys_that_are_free_again_are_legal() -> None:
    scene = a_scene()
    expired = ask(scene)
    scene.pen((Mark.KEYED, expired, bytes(32)))
    scene.pen((Mark.RELEASED, expired, bytes(16)), (Mark.EXPIRED, expired, None))
    first, second, other = ask(scene), ask(scene, client="d"), ask(scene, 3)
    own(scene, first)
    scene.mark(Mark.DUPLICATE, second, parse_call_id(first))
    conflict(scene, other, first)
    own(scene, ask(scene, key="l"))
    holds(scene)


# -- whoever asks for a key -------------------------------------------------------------------------------


def a_library(*groups: str) -> Scene:
    """Owned groups of one service, each with a resource of its own name, and no pen held yet; a pool, if that
    is among them.
    """
    scene = Scene()
    for group in groups or ("acc",):
        event = ev.InstanceRegistered(
            incarnation=f"{group}-1",
            mode="pool" if group == POOL else "owned",
            resources=() if group == POOL else (f"of-{group}",),
            contract={},
            host="h",
            pid=1,
            version="0",
        )
        scene.say(NS.instance(SERVICE, group, f"i-{group}"), event)
        if group != POOL:
            scene.promote(f"i-{group}", 1, group=group)
    scene.holder = f"i-{(groups or ('acc',))[0]}"
    return scene


def find(scene: Scene, call_id: str | None, *, key: str = "k", resource: str | None = "of-acc") -> int:
    """Somebody asks for a key, and is told that it is this call's; ``None``: nobody's."""
    scene.wait(1.0)
    number = scene.invoke(Deed.FIND, key=key, resource=resource)
    if call_id is None:
        scene.answer(number, Stage.INFO, error="call_unknown")
    else:
        scene.answer(number, call_id=call_id)
    return number


def keys_hold(scene: Scene, looked_at: int = 1) -> None:
    verdict = scene.verdict("keys")
    assert verdict.holds, verdict.findings
    assert verdict.looked_at == looked_at


def keys_broken(scene: Scene, *call_ids: str) -> None:
    broken_by(scene, "keys", *call_ids)


def asked_for(scene: Scene, group: str = "acc", key: str = "k") -> str:
    return scene.accept(scene.invoke(key=key), key=key, argument=1, group=group)


def release(scene: Scene, call_id: str) -> None:
    scene.pen((Mark.RELEASED, call_id, bytes(16)), (Mark.EXPIRED, call_id, None))


def test_a_key_leads_to_the_call_that_has_it_and_not_to_one_that_repeats_it() -> None:
    scene = a_library()
    first, second = asked_for(scene), asked_for(scene)
    own(scene, first)
    scene.mark(Mark.DUPLICATE, second, parse_call_id(first))
    find(scene, first)
    keys_hold(scene)
    find(scene, second)
    keys_broken(scene, first, second)


def test_a_key_that_somebody_has_is_not_nobodys() -> None:
    scene = a_library()
    first = asked_for(scene)
    own(scene, first)
    find(scene, None)
    keys_broken(scene, first)


def test_a_key_that_was_given_back_is_nobodys_until_the_next_call_has_it() -> None:
    scene = a_library()
    first = asked_for(scene)
    scene.mark(Mark.KEYED, first, bytes(32))
    release(scene, first)
    find(scene, None)
    second = asked_for(scene)
    own(scene, second)
    find(scene, second)
    keys_hold(scene, 2)
    find(scene, first)
    keys_broken(scene, first, second)


def test_a_call_that_ended_without_the_key_never_had_it() -> None:
    scene = a_library()
    expired = asked_for(scene)
    scene.mark(Mark.EXPIRED, expired, None)
    find(scene, None)
    keys_hold(scene)
    find(scene, expired)
    keys_broken(scene, expired)


def test_a_call_that_waits_for_a_free_key_may_be_told_or_nobody() -> None:
    scene = a_library()
    waiting = asked_for(scene)
    find(scene, waiting)
    find(scene, None)
    keys_hold(scene, 2)


def test_while_a_key_changes_hands_each_answer_is_right_that_was_so_at_that_time() -> None:
    scene = a_library()
    first = asked_for(scene)
    scene.mark(Mark.KEYED, first, bytes(32))
    scene.wait(10.0)
    numbers = [scene.invoke(Deed.FIND, key="k", resource="of-acc") for _ in range(3)]
    release(scene, first)
    second = asked_for(scene)
    own(scene, second)
    scene.answer(numbers[0], call_id=first)
    scene.answer(numbers[1], call_id=second)
    scene.answer(numbers[2], Stage.INFO, error="call_unknown")
    keys_hold(scene, 3)
    late = scene.invoke(Deed.FIND, key="k", resource="of-acc")
    scene.wait(1.0)
    scene.answer(late, call_id=first)  # who answers may be behind, but not for long
    keys_hold(scene, 4)
    find(scene, first)
    keys_broken(scene, first, second)


def test_each_group_has_keys_of_its_own() -> None:
    scene = a_library("acc", "bcc")
    first = asked_for(scene)
    own(scene, first)
    find(scene, None, resource="of-bcc")
    keys_hold(scene)
    find(scene, first, resource="of-bcc")
    keys_broken(scene, first)


def test_after_the_faults_an_error_is_no_answer() -> None:
    scene = a_library()
    number = scene.invoke(Deed.FIND, key="k", resource="of-acc")
    scene.answer(number, Stage.INFO, error="call_timeout")
    scene.evidence.healed_at_ns = scene.now_ns
    keys_hold(scene)
    scene.evidence.healed_at_ns = 1
    assert not scene.verdict("keys").holds


def test_a_question_without_an_answer_or_about_an_unknown_resource_is_not_judged() -> None:
    scene = a_library()
    scene.invoke(Deed.FIND, key="k", resource="of-acc")
    find(scene, None, resource="of-nothing")
    keys_hold(scene, 0)


def keyed_in_pool(scene: Scene, call_id: str, checked_to: int) -> None:
    scene.mark(Mark.KEYED, call_id, bytes(32) + checked_to.to_bytes(8), writer="w", group=POOL)


def released_in_pool(scene: Scene, call_id: str, checked_to: int) -> None:
    scene.mark(Mark.RELEASED, call_id, bytes(16) + checked_to.to_bytes(8), writer="w", group=POOL)


def segment(scene: Scene, since: int, covers: int) -> None:
    scene.store(NS.keys(SERVICE, POOL, "w"), encode_segment(Segment(1, 0, since, covers, ())))


def test_in_a_pool_the_first_word_that_counts_decides() -> None:
    scene = a_library(POOL)
    first, second = asked_for(scene, POOL), asked_for(scene, POOL)
    keyed_in_pool(scene, second, 3)  # before the pool has keys
    segment(scene, 0, 3)
    keyed_in_pool(scene, second, 2)  # its writer had read too little
    keyed_in_pool(scene, first, 5)
    keyed_in_pool(scene, second, 5)
    find(scene, first, resource=None)
    keys_hold(scene)
    find(scene, second, resource=None)
    keys_broken(scene, first, second)


def test_in_a_pool_a_key_is_given_back_by_a_word_that_counts() -> None:
    scene = a_library(POOL)
    first = asked_for(scene, POOL)
    segment(scene, 0, 1)
    keyed_in_pool(scene, first, 2)
    scene.mark(Mark.EXPIRED, first, None, writer="w", group=POOL)
    segment(scene, 1, 4)
    segment(scene, 1, 100)  # it is not the next one
    released_in_pool(scene, first, 3)
    find(scene, first, resource=None)
    released_in_pool(scene, first, 5)
    find(scene, None, resource=None)
    keys_hold(scene, 2)
    find(scene, first, resource=None)
    keys_broken(scene, first)
