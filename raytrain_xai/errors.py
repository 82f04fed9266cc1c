"""Errors a user can cause or must act on. Every message says what was wrong, what was expected and what to do."""

from __future__ import annotations


class XaiError(Exception):
    """Base of all errors raised on purpose by this package; the command line prints it without a traceback."""


class ConfigError(XaiError):
    """A configuration key, value or combination is wrong."""


class DataError(XaiError):
    """A data set, record or image cannot be used."""


class CheckpointError(XaiError):
    """Weights or a checkpoint are missing, incomplete, corrupted or of another model."""


class RunError(XaiError):
    """A run failed or may not go on (non-finite loss, superseded attempt, lost workers)."""


class StoppedError(RunError):
    """A run was asked to stop and did so at a checkpoint; it is neither finished nor failed.

    Attributes:
        exit_code: of the process, 128 and the number of the signal that asked (130 SIGINT, 143 SIGTERM).
    """

    def __init__(self, message: str, exit_code: int = 143) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RelocatedError(RunError):
    """The workers of a run left at a checkpoint, so that others continue from there."""


class SupersededError(RunError):
    """A newer attempt owns the run: whatever happens to it from here on is that one's to tell."""


class NotFoundError(XaiError):
    """Something that was asked for by name does not exist: a model, a version, a concept, an image."""
