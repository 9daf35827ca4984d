"""Time travel: the state of the whole system at any moment, and the reasons for it, from the log alone."""

from aegisipc.eventstore.checkpoints import NoBeginning
from aegisipc.eventstore.replay.bundle_errors import (
    BadRange,
    BundleCutOff,
    BundleDamaged,
    BundleExists,
    BundleOutdated,
    BundleTooNew,
    CannotImport,
    LogHasGap,
    NamespaceInUse,
    NotABundle,
    ReadOnly,
)
from aegisipc.eventstore.replay.bundle_files import Manifest
from aegisipc.eventstore.replay.bundles import Summary, open_bundle, verify
from aegisipc.eventstore.replay.checking import Check, Finding, Report, check
from aegisipc.eventstore.replay.differences import Change, PointsReversed, check_order, diff
from aegisipc.eventstore.replay.exporting import export
from aegisipc.eventstore.replay.filters import ALL, Filters, filters_of
from aegisipc.eventstore.replay.finding import AmbiguousCall
from aegisipc.eventstore.replay.folding import GAP_MS, board_at, fold_on, state_at
from aegisipc.eventstore.replay.importing import Imported, import_bundle
from aegisipc.eventstore.replay.point_texts import BadPoint, parse_point
from aegisipc.eventstore.replay.points import Extent, NoSuchEvent, Point, PointOutsideLog, extent_of, resolve
from aegisipc.eventstore.replay.ranges import Range, around, between
from aegisipc.eventstore.replay.reasons import (
    AmbiguousInstance,
    BadCallId,
    BadQuestion,
    CallAfterPoint,
    Link,
    Reason,
    UnknownGroup,
    UnknownInstance,
    why,
)
from aegisipc.eventstore.replay.redaction import BadField, Redactor
from aegisipc.eventstore.replay.router_claims import router_claims
from aegisipc.eventstore.replay.sources import Claim, Source, open_live
from aegisipc.eventstore.replay.stepping import Jump, Stepper
from aegisipc.eventstore.replay.timeline import Moment, first_from, timeline
from aegisipc.eventstore.replay.views import NothingMatches, check_filters, names_in, view_of

__all__ = [
    "ALL",
    "GAP_MS",
    "AmbiguousCall",
    "AmbiguousInstance",
    "BadCallId",
    "BadField",
    "BadPoint",
    "BadQuestion",
    "BadRange",
    "BundleCutOff",
    "BundleDamaged",
    "BundleExists",
    "BundleOutdated",
    "BundleTooNew",
    "CallAfterPoint",
    "CannotImport",
    "Change",
    "Check",
    "Claim",
    "Extent",
    "Filters",
    "Finding",
    "Imported",
    "Jump",
    "Link",
    "LogHasGap",
    "Manifest",
    "Moment",
    "NamespaceInUse",
    "NoBeginning",
    "NoSuchEvent",
    "NotABundle",
    "NothingMatches",
    "Point",
    "PointOutsideLog",
    "PointsReversed",
    "Range",
    "ReadOnly",
    "Reason",
    "Redactor",
    "Report",
    "Source",
    "Stepper",
    "Summary",
    "UnknownGroup",
    "UnknownInstance",
    "around",
    "between",
    "board_at",
    "check",
    "check_filters",
    "check_order",
    "diff",
    "export",
    "extent_of",
    "filters_of",
    "first_from",
    "fold_on",
    "import_bundle",
    "names_in",
    "open_bundle",
    "open_live",
    "parse_point",
    "resolve",
    "router_claims",
    "state_at",
    "timeline",
    "verify",
    "view_of",
    "why",
]
