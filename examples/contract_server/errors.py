"""Errors with the codes that TensorFlow, gRPC and HTTP share."""

import tensorflow as tf

INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = 3, 5, 9
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
# As in http_server.cc; any other code is a 500.
HTTP = {1: 499, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 14: 503, 16: 401}


class ServingError(Exception):
    """An error that a request is answered with.

    Args:
        code: int. A value of `google.rpc.Code`.
        message: string.
    """

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


def invalid(message):
    """Returns the error of an invalid request or file."""
    return ServingError(INVALID_ARGUMENT, message)


def of(error):
    """Converts any exception to a new `ServingError`, so that several threads can raise it."""
    if isinstance(error, (ServingError, tf.errors.OpError)):
        code = error.code if isinstance(error, ServingError) else error.error_code
        return ServingError(code, error.message)
    return ServingError(INTERNAL, f"{type(error).__name__}: {error}")
