"""G6: one key, one effect."""

from __future__ import annotations

from aegisipc.eventstore.codec import encode
from aegisipc.eventstore.frames import Mark
from aegisipc.eventstore.ids import parse_call_id
from tests.chaos.checking.scene import Scene, a_scene, broken_by, error, holds


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
