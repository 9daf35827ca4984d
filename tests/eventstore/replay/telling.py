"""What the tests of explanations share."""

from __future__ import annotations

from aegisipc.eventstore.replay import Link, Reason, resolve, why
from tests.eventstore.replay.told_history import Tale
from tests.sdk.kit import GROUP, SERVICE

OURS = f"{SERVICE}/{GROUP}"


async def explain(tale: Tale, kind: str, text: str, until: str = "end") -> Reason:
    source = tale.source()
    return await why(source, kind, text, await resolve(source, until))


def whats(reason: Reason) -> list[str]:
    """The kinds of the links, in their order; which is that of time."""
    assert [link.at_ns for link in reason.links] == sorted(link.at_ns for link in reason.links)
    assert [link.number for link in reason.links] == list(range(1, len(reason.links) + 1))
    return [link.what for link in reason.links]


def link(reason: Reason, what: str) -> Link:
    """The one link of that kind."""
    (found,) = [each for each in reason.links if each.what == what]
    return found


def causes(reason: Reason, what: str) -> set[str]:
    """What it follows from; never anything later."""
    found = link(reason, what)
    assert all(number < found.number for number in found.follows)
    return {reason.links[number - 1].what for number in found.follows}
