"""What a golden history comes to: its digests, its views, its reasons, and the words in which it is written.

``python -m tests.golden.reading`` prints what :func:`facts` gives for each: so that another process, or
another version of Python, can be asked.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from aegisipc.eventstore import replay
from aegisipc.eventstore.frames import decode_pen
from aegisipc.eventstore.log import Record
from aegisipc.eventstore.replay import Source
from aegisipc.eventstore.replay.reasons import why
from aegisipc.eventstore.subjects import CONCLUSIONS, EVIDENCE, STATE, Subjects
from aegisipc.eventstore.system import SystemState
from aegisipc.eventstore.system_snapshots import FOLD_VERSION, digest_of

HERE: Final = Path(__file__).parent
EVERY: Final = 10
"""At so many records there is a digest."""

type Plain = dict[str, Any]


def expected_of(path: Path) -> Plain:
    """What was written down when a history was recorded."""
    found: Plain = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return found


def bundles() -> list[Path]:
    """All histories that were ever recorded."""
    return sorted(HERE.glob("*/*.aegis"))


def readable() -> list[Path]:
    """Those that begin with nothing, or with a state of this version of the fold."""
    return [path for path in bundles() if expected_of(path)["base_fold"] in {None, FOLD_VERSION}]


async def records_of(source: Source) -> AsyncIterator[Record]:
    async for record in source.log.read([source.subjects.everything]):
        yield record


async def digests(source: Source) -> dict[str, str]:
    """The digest of the state after every tenth record, and after the last."""
    state = source.base() if source.base is not None else SystemState(source.subjects)
    found = {}
    async for record in records_of(source):
        state.apply(record)
        if record.seq % EVERY == 0:
            found[str(record.seq)] = digest_of(state)
    return found | {str(state.position): digest_of(state)}


async def view(source: Source, text: str) -> Plain:
    """What ``aegis replay --until`` shows."""
    point = await replay.resolve(source, text)
    state, board = await replay.state_at(source, point), await replay.board_at(source, point)
    return _as_json(replay.view_of(state, board, point))


async def chain(source: Source, kind: str, text: str, until: str) -> list[list[Any]]:
    """What ``aegis replay --why`` names: sequence and kind of each link."""
    reason = await why(source, kind, text, await replay.resolve(source, until))
    return [[link.seq, link.what] for link in reason.links]


async def facts(source: Source, points: Iterable[str], questions: Sequence[Sequence[str]]) -> Plain:
    """All that a history comes to."""
    return {
        "digests": await digests(source),
        "views": {point: await view(source, point) for point in points},
        "why": [{"asked": list(asked), "chain": await chain(source, *asked)} for asked in questions],
    }


def _as_json(value: Plain) -> Plain:
    """As it is after it was written to a file and read again."""
    found: Plain = json.loads(json.dumps(value))
    return found


# -- the words -------------------------------------------------------------------------------------------


async def words_in(source: Source) -> Counter[str]:
    """Types of records and marks in a history, as they are stored, and how often."""
    found: Counter[str] = Counter()
    async for record in records_of(source):
        found.update(words_of(record, source.subjects))
    return found


def words_of(record: Record, subjects: Subjects) -> list[str]:
    """The type of a record, and the marks in it: ``mark claimed``."""
    place = subjects.parse(record.subject)
    payload = zlib.decompress(record.payload) if place.kind == STATE else record.payload
    words = [type_of(payload)]
    if place.kind in CONCLUSIONS or place.kind == EVIDENCE:
        words += [f"mark {entry.mark.name.lower()}" for entry in decode_pen(record.payload).entries]
    return words


def type_of(payload: bytes) -> str:
    """The first value of the array that every record begins with."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(1, len(payload)))
    unpacker.feed(payload)
    unpacker.read_array_header()
    found = unpacker.unpack()
    assert isinstance(found, str)
    return found


async def all_facts() -> dict[str, Plain]:
    """What every golden history comes to, by the path of its file in this folder."""
    found = {}
    for path in readable():
        expected = expected_of(path)
        questions = [asked["asked"] for asked in expected["why"]]
        found[str(path.relative_to(HERE))] = await facts(
            replay.open_bundle(path), expected["views"], questions
        )
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(all_facts()), sort_keys=True))  # noqa: T201 - whoever started it reads that
