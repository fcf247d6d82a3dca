"""Every error that weightcast raises on purpose.

One base class, so that ``except WeightcastError`` catches them all; each leaf also inherits the
builtin that fits, so that ``except FileNotFoundError`` works too. A message names the rule, the
value received and what to do, in one line.
"""

from __future__ import annotations


class WeightcastError(Exception):
    """Base class of all errors that weightcast raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line exits with: 1 for a failure, 2 for bad usage.
    """

    exit_code = 1


class WeightcastWarning(UserWarning):
    """What went on otherwise than asked for; the command line prints it as one line."""


class UsageError(WeightcastError, ValueError):
    """An argument breaks a rule that is known before any work starts."""

    exit_code = 2


class OutputExistsError(WeightcastError, FileExistsError):
    """The output path is taken and the caller did not ask to replace it."""

    exit_code = 2


class InputNotFoundError(WeightcastError, FileNotFoundError):
    """A file or folder to read is not there."""

    exit_code = 2


class FormatError(WeightcastError, ValueError):
    """A file or folder is not what it should be: foreign, damaged, or of a newer format."""


class StepNotRecordedError(WeightcastError, LookupError):
    """A step was asked for that the history does not hold."""


class ShapeError(WeightcastError, ValueError):
    """Names, shapes or dtypes of two things that must agree do not."""


class NonFiniteError(WeightcastError, ValueError):
    """A weight is NaN or infinite where a number is needed."""


class SamplingError(WeightcastError, ValueError):
    """A history cannot give the samples asked for: too short, or too few candidates."""


class RecordingError(WeightcastError, RuntimeError):
    """A recording cannot start or go on."""


class MissingExtraError(WeightcastError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class RemoteError(WeightcastError, OSError):
    """A store that is not a local folder does not answer, or refuses."""


class SchedulerError(WeightcastError, RuntimeError):
    """The workers of a job cannot be reached, or are gone."""
