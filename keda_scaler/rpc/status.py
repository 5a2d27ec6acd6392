"""Which gRPC status each of our errors becomes."""

from grpc import StatusCode

from keda_scaler import errors

STATUS: tuple[tuple[type[errors.KedaScalerError], StatusCode], ...] = (
    (errors.TriggerError, StatusCode.INVALID_ARGUMENT),
    (errors.UnknownMetricError, StatusCode.NOT_FOUND),
    (errors.UnavailableError, StatusCode.UNAVAILABLE),
    (errors.TooManyTargetsError, StatusCode.RESOURCE_EXHAUSTED),
)


def status_of(error: Exception) -> StatusCode:
    """Give the status of an error; INTERNAL for one that should not get here."""
    return next((code for kind, code in STATUS if isinstance(error, kind)), StatusCode.INTERNAL)
