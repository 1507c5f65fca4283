"""The errors of this library. Each message gives the rule, the value and the remedy in one line."""

__all__ = ["BuildLocked", "CorruptPart", "HaspError", "InvalidGraph", "StaleParts"]


class HaspError(ValueError):
    """Base of every error that this library raises on purpose: bad input, bad settings, bad files."""


class InvalidGraph(HaspError):
    """The graph itself breaks a rule: an id out of range, a ragged table, an unknown type."""


class CorruptPart(HaspError):
    """A file of a parts folder does not hold what its manifest says."""


class StaleParts(HaspError):
    """The folder holds parts of another graph, of other settings, or of another format version."""


class BuildLocked(HaspError):
    """Another process is building into the same folder."""
