"""Errors of the runtimes: expected failures, each a class with a stable code.

Nothing here knows HTTP; `gateway.errors` maps the codes to statuses in one table. Programmer errors are
`assert`, never one of these.

    ServingError
      InvalidInput             invalid_input            the caller's tensors do not fit the model
      ModelRejectedInput       model_rejected_input     ONNX Runtime refused valid-looking values
      UnknownModel             unknown_model
      ModelNotReady            model_not_ready          loading, failed, quarantined; retry later
      QueueFull                overloaded               a bound or the estimated wait refused it
      DeadlineExceeded         deadline_exceeded        expired before, in, or during execution
      Draining                 draining
      ExecutionFailed          execution_failed         our or the model's failure while running
      NonFiniteOutput          non_finite_output
      LoadFailed               load_failed              with the stage that failed
      Conflict                 conflict                 same version, other bytes; illegal transition
      Forbidden                forbidden                not allowed in this mode or to this caller
      Unsupported              unsupported
      OutOfMemory              out_of_memory
"""

from typing import ClassVar


class ServingError(Exception):
    """Base of every expected failure.

    Attributes:
        message: what went wrong, expected versus got; no path, class name or stack.
        code: stable machine-readable name.
        retry_after_s: seconds after which a retry may succeed, or None.
        executed: the execution itself failed or came too late; False for what was refused before.
    """

    code: ClassVar[str] = "internal"
    executed: bool = False

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class InvalidInput(ServingError):
    """The caller's tensors do not fit the model."""

    code = "invalid_input"


class ModelRejectedInput(ServingError):
    """ONNX Runtime refused values that passed every check of ours."""

    code = "model_rejected_input"


class UnknownModel(ServingError):
    """No such model, version or alias."""

    code = "unknown_model"


class ModelNotReady(ServingError):
    """The model exists but cannot answer now."""

    code = "model_not_ready"


class QueueFull(ServingError):
    """Refused at admission: a bound was reached or the estimated wait is too long.

    Attributes:
        reason: "queue_full", "estimated_wait" or "bytes_in_flight", for the count of rejections.
    """

    code = "overloaded"

    def __init__(self, message: str, *, reason: str = "queue_full", retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.reason = reason


class DeadlineExceeded(ServingError):
    """The time given by the caller has passed."""

    code = "deadline_exceeded"


class Draining(ServingError):
    """The runtime or the server is stopping and takes nothing new."""

    code = "draining"


class ExecutionFailed(ServingError):
    """The model failed while it ran, through no fault of the input that we can name."""

    code = "execution_failed"


class NonFiniteOutput(ServingError):
    """An output holds NaN or infinity where the model's contract says finite."""

    code = "non_finite_output"


class LoadFailed(ServingError):
    """A version could not be loaded.

    Attributes:
        stage: one of fetch, check, parse, session, golden, warmup.
    """

    code = "load_failed"

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(f"{stage}: {message}")
        self.stage = stage


class Conflict(ServingError):
    """The request contradicts what is already true."""

    code = "conflict"


class Forbidden(ServingError):
    """Not allowed in this mode, or to this caller."""

    code = "forbidden"


class Unsupported(ServingError):
    """Understood, but not offered."""

    code = "unsupported"


class OutOfMemory(ServingError):
    """The execution needed more memory than it may have."""

    code = "out_of_memory"
