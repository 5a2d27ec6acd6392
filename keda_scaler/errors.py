"""Everything that can go wrong, as one tree.

    KedaScalerError
    ├── TriggerError          a trigger's metadata is wrong; lists every problem at once
    ├── UnknownMetricError    a metric was asked for that the trigger does not have
    ├── UnavailableError      the answer is unknown, and holding is not (or no longer) an option
    ├── TooManyTargetsError   the cap on targets is reached
    ├── SettingsError         the server's own settings are wrong
    ├── BrokenError           a task of the whole process dies again and again
    ├── EvidenceError         evidence cannot be written where it was asked for
    ├── SourceError           a source could not be read; becomes a Missing reading, never an answer
    │   ├── PageError         a page was answered, and is not one that we can read
    │   └── TooMuchError      an answer is longer than we take
    ├── ReportsError          reports cannot be taken; all of a request, or none
    │   ├── TooManyReportsError      a cap on reporters or reported ScaledObjects is reached
    │   └── ReportsUnavailableError  they cannot be kept where all replicas of the scaler see them
    ├── ExplainError          a scaler does not say why a target is what it is
    └── ScaledObjectError     a ScaledObject manifest cannot be used by the command line

Which gRPC status each of these becomes is one table, in `keda_scaler/rpc/status.py`.
"""

from collections.abc import Sequence


class KedaScalerError(Exception):
    """Anything that this package raises on purpose."""


class TriggerError(KedaScalerError):
    """A trigger's metadata is wrong; `problems` name the key, what was given, what is accepted."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class BrokenError(KedaScalerError):
    """A task of the whole process dies again and again: the process had better begin anew."""


class UnknownMetricError(KedaScalerError):
    """A metric was asked for that the trigger does not have."""


class UnavailableError(KedaScalerError):
    """The answer is unknown, and holding is not, or no longer, an option."""


class TooManyTargetsError(KedaScalerError):
    """The cap on targets is reached."""


class SettingsError(KedaScalerError):
    """The server's own settings are wrong."""


class EvidenceError(KedaScalerError):
    """Evidence cannot be written where it was asked for."""


class SourceError(KedaScalerError):
    """A source could not be read.

    The text is short and free of secrets and times: it ends up in answers to KEDA and so in
    Kubernetes Events.
    """


class PageError(SourceError):
    """A page was answered, and is not one that we can read."""


class TooMuchError(SourceError):
    """An answer is longer than we take."""


class ReportsError(KedaScalerError):
    """Reports cannot be taken. None of those given together is."""


class TooManyReportsError(ReportsError):
    """A cap on reporters or reported ScaledObjects is reached."""


class ReportsUnavailableError(ReportsError):
    """Reports cannot be kept where all replicas of the scaler see them."""


class ScaledObjectError(KedaScalerError):
    """A ScaledObject manifest cannot be used by the command line."""


class ExplainError(KedaScalerError):
    """A scaler does not say why a target is what it is."""
