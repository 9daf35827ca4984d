"""What part of a system somebody wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aegisipc.eventstore.names import POOL_GROUP, check_name
from aegisipc.eventstore.subjects import Place, Subjects


@dataclass(frozen=True, slots=True)
class Filters:
    """Only this service, this group, or what this resource belongs to. Each may be ``None``: all of them."""

    service: str | None = None
    group: str | None = None
    resource: str | None = None

    @property
    def said(self) -> str:
        """The filters in words; empty if there is none."""
        parts = (("service", self.service), ("group", self.group), ("resource", self.resource))
        return ", ".join(f"{name} {value}" for name, value in parts if value is not None)

    def holds(self, service: str, group: str) -> bool:
        """Tell whether a group is wanted, as far as its name says."""
        return self.service in (None, service) and self.group in (None, group)

    def holds_place(self, place: Place) -> bool:
        """Tell whether what is written at `place` is about a group that is wanted."""
        return self.holds(place.service, place.group)

    def subject(self, subjects: Subjects, kind: str = ">") -> str:
        """Return the subject filter of the groups that are wanted; `kind` ends it."""
        return f"{subjects.log_root}.{self.service or '*'}.{self.group or '*'}.{kind}"


ALL: Final = Filters()


def filters_of(service: str | None, group: str | None, resource: str | None) -> Filters:
    """Return the filters for what was given.

    Raises:
        InvalidName: service or group cannot be names.
    """
    if service is not None:
        check_name(service, "service")
    if group not in (None, POOL_GROUP):
        check_name(group, "group")
    return Filters(service, group, resource)
