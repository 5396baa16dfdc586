"""What a policy decides. By itself because compiled code would not keep it frozen."""

from typing import Final

from msgspec import Struct

REFUSED: Final = -1
"""The variant of a request without a unit where the policy wants one: 400."""


class Decision(Struct, frozen=True, gc=False):
    """Which variant answers, and what that is worth as evidence.

    Attributes:
        variant: index in the policy's names; REFUSED = answer 400, the policy wants a unit.
        name: the variant's; "" when refused.
        stratum: index in the policy's strata: what randomised, or would have.
        rule: name of the rule that decided; "" = the default split.
        slot: 0 to 9,999, of the unit, or of the request's id where there is none.
        unit_hash: 64 bits independent of the slot (`router.hashing`); of the request's id where there is no unit. Never
            written: who knows the salt could try names.
        has_unit: a unit was found, or each request is one.
        counted: randomised, so that its outcome is evidence (evidence rules: forced, rule-pinned, without a unit and
            overridden requests are neutral).
        override: a variant was taken out, and that decided or spoils the comparison.
        shadow: index of the variant that answers unseen; NO_SHADOW = none.
    """

    variant: int
    name: str
    stratum: int
    rule: str
    slot: int
    unit_hash: int
    has_unit: bool
    counted: bool
    override: bool
    shadow: int
