"""One id of a signer, which makes them by batches."""

from gateway.exchange import Exchange
from gateway.predictions import NO_MARK, UNCOUNTED, signed
from gateway.signing import Signer


def id_by(signer: Signer, variant: int, unit: int, stratum: int = UNCOUNTED, marked: int = NO_MARK) -> str:
    """The id of a prediction alone."""
    job = Exchange()
    signer.add(job, variant, signed(unit), stratum, marked)
    signer.sign()
    return job.prediction.decode()
