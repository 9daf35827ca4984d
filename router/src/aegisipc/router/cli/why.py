"""``aegis replay --why``: the reasons for what is."""

from __future__ import annotations

from argparse import Namespace

from aegisipc.eventstore.cli.output import Paint, print_json
from aegisipc.eventstore.replay import Point, Source
from aegisipc.eventstore.replay.moments import iso
from aegisipc.eventstore.replay.reasons import why
from aegisipc.router.cli.replaying import warn_of
from aegisipc.router.cli.why_text import as_text


async def run(args: Namespace, source: Source, point: Point) -> int:
    """Print why a group, an instance or a call is as it is at a point."""
    kind, text = args.why
    reason = await why(source, kind, text, point, on_skip=warn_of)
    if args.json:
        asked = {"asked": point.said, "seq": point.seq, "at": iso(point.at_ns), "at_ns": point.at_ns}
        print_json({"source": source.about, "point": asked, **reason.to_plain()})
    else:
        print(as_text(reason, point, source.about, Paint()))
    return 0
