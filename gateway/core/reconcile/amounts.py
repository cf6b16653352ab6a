"""Amounts: numbers of an accounting file as whole millionths, and back. Nothing is lost on the way, nothing guessed.

The Accountant writes "%f", six places, and reads what it wrote (ClassAdLogAccountantDB.cpp, SetAttributeFloat): a
millionth is its own grain. Sums of integers do not depend on their order; sums of floats would.
"""

import decimal
import functools
from typing import Final

MICRO: Final = 1_000_000
TEXT_LENGTH_MAX: Final = 40  # "%f" of 1e30; no pool charges that much before the sun has gone out
EXPONENT_MAX: Final = 30


# The sides of a customer are read one after the other, and mostly say the same: a short memory saves most of the work.
@functools.lru_cache(maxsize=512)
def to_micro(text: str | None) -> int | None:
    """Return the number that `text` writes in millionths, rounded half to even; None where it writes none."""
    if text is None:
        return None
    if len(text) > TEXT_LENGTH_MAX:
        return None
    if text[-7:-6] == "." and (digits := text.replace(".", "", 1)).isdecimal():
        return int(digits)  # "%f" of what is not negative: nearly all
    whole, point, fraction = text.partition(".")
    digits = whole[1:] if whole[:1] == "-" else whole
    if digits.isdecimal() and (not point or (fraction.isdecimal() and len(fraction) <= 6)):
        amount = int(digits) * MICRO + int(fraction.ljust(6, "0"))
        return amount if digits is whole else -amount
    return _by_decimal(text)


def _by_decimal(text: str) -> int | None:
    """Read what a compaction may write: more places, an exponent (classad sink.cpp, "%.16G")."""
    try:
        number = decimal.Decimal(text.strip())
    except decimal.InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > EXPONENT_MAX:
        return None
    if number.adjusted() < -EXPONENT_MAX:
        return 0
    with decimal.localcontext(prec=80):
        return int((number * MICRO).to_integral_value(rounding=decimal.ROUND_HALF_EVEN))


@functools.lru_cache(maxsize=512)
def to_int(text: str | None) -> int:
    """Return the whole number that `text` writes, cut off as HTCondor does; 0 where it writes none."""
    amount = to_micro(text)
    if amount is None:
        return 0
    return amount // MICRO if amount >= 0 else -(-amount // MICRO)


def as_float(amount: int) -> str:
    """Write millionths as the Accountant writes a float: "%f"."""
    sign, rest = ("-", -amount) if amount < 0 else ("", amount)
    return f"{sign}{rest // MICRO}.{rest % MICRO:06d}"
