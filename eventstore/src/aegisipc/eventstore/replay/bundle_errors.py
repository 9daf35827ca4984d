"""What can be wrong with incident bundles."""

from __future__ import annotations

from aegisipc.eventstore.errors import AegisError


class NotABundle(AegisError):
    """The file is no incident bundle. Field: ``path``."""

    code = "not_a_bundle"


class BundleDamaged(AegisError):
    """The file is not what was exported: some byte of it changed.

    Fields: ``path``; ``seq``, the sequence of the first record that cannot be trusted (``None``: not even the
    manifest can, so nothing is known of the records); ``offset``, where in the file; ``why``.
    """

    code = "bundle_damaged"


class BundleCutOff(BundleDamaged):
    """The file ends before its end. Fields: as of :class:`BundleDamaged`."""

    code = "bundle_cut_off"


class BundleTooNew(AegisError):
    """A later version made the file. Fields: ``path``, ``found``, ``known``."""

    code = "bundle_too_new"


class BundleOutdated(AegisError):
    """The state that the bundle begins with is of an older fold. Fields: ``path``, ``found``, ``known``."""

    code = "bundle_outdated"


class BundleExists(AegisError):
    """There is a file of that name already. Field: ``path``."""

    code = "bundle_exists"


class ReadOnly(AegisError):
    """A bundle is read, never written to."""

    code = "read_only"


class BadRange(AegisError):
    """The log does not have that range of records. Fields: ``from_seq``, ``until_seq``, ``first_seq``,
    ``last_seq`` (of the log).
    """

    code = "bad_range"


class LogHasGap(AegisError):
    """A record is missing from the log, so a bundle would not be whole. Field: ``seq``."""

    code = "log_has_gap"


class NamespaceInUse(AegisError):
    """The namespace has a log already: a bundle goes where there is none. Field: ``namespace``."""

    code = "namespace_in_use"


class CannotImport(AegisError):
    """The bundle cannot become a log of its own, or something went wrong on the way. Field: ``namespace``."""

    code = "cannot_import"
