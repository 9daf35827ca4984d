"""Time travel: the state of the whole system at any moment, and the reasons for it, from the log alone."""

from aegisipc.eventstore.replay.sources import Source, open_live
from aegisipc.eventstore.replay.timeline import Moment, first_from, timeline

__all__ = ["Moment", "Source", "first_from", "open_live", "timeline"]
