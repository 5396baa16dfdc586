"""One id of a signer, which makes them by batches."""

from gateway.exchange import Exchange, Placed
from gateway.predictions import NO_MARK, UNCOUNTED, signed
from gateway.signing import Signer


def placed_job(unit: int, stratum: int = UNCOUNTED) -> Exchange:
    """A request that a policy placed, of which nothing else is known."""
    placed = Placed.__new__(Placed)
    placed.bits, placed.stratum = signed(unit), stratum
    job = Exchange()
    job.placed = placed
    return job


def id_by(signer: Signer, variant: int, unit: int, stratum: int = UNCOUNTED, marked: int = NO_MARK) -> str:
    """The id of a prediction alone."""
    job = placed_job(unit, stratum)
    signer.name([job], variant, [marked])
    return job.prediction.decode()
