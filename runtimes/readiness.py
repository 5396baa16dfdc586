"""What every request asks of its runtime first: one flag, which compiled code reads without asking Python."""


class Readiness:
    """Whether a runtime takes requests without a further question.

    Attributes:
        clear: it is READY, and the watchdog has never ended an execution. False = `Runtime.refusal` says more.
    """

    def __init__(self) -> None:
        self.clear = False
