"""The adaptive binary range coder of the packed file, and what is coded with it. docs/format.md defines both.

`Encoder` and `Decoder` have one method, `bit(context, value)`, that returns the bit: the encoder the one it is given, the decoder
the one it reads, whatever it is given. So each model of the data below is written once and serves both directions, and writer
and reader cannot disagree. `core/dn_coder.c` is the decoder in C. Before and after this module comes `dupnet.packed`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dupnet.errors import ModelFileError

COUNT_MAX = 4
"""A context learns with rate 1/2, 1/4, 1/8, 1/16, then 1/32 for ever."""
FRESH = 1 << 15
"""A context's state: its probability of a 1 in 8192ths, times 8, plus how often it was used, at most `COUNT_MAX`. At first 1/2 and 0."""

WEIGHT_CONTEXTS = 37
"""0 to 35 by copy, weight above and weight to the left; 36 where the copy before has a 0."""
INTEGER_CONTEXTS = 34
"""Of one kind of integer: is it 0, its sign, 16 for its length, 15 for the digit behind the leading 1, one for all other digits."""
FIRST, STEP, BEND = (WEIGHT_CONTEXTS + kind * INTEGER_CONTEXTS for kind in range(3))
"""Kinds of integers: a filter's first threshold, the step to its second, and how each further step differs from the one before."""
CONTEXTS = WEIGHT_CONTEXTS + 3 * INTEGER_CONTEXTS
MAGNITUDE_BITS = 34
"""No integer that is coded has more: thresholds are below 2^31, what is predicted for them below 2^32."""


def _learn(state: int, bit: int) -> int:
    probability, count = state >> 3, state & 7
    if bit:
        probability += (8192 - probability) >> (count + 1)
    else:
        probability -= probability >> (count + 1)
    return probability << 3 | min(count + 1, COUNT_MAX)


class Encoder:
    """Bits to bytes."""

    def __init__(self) -> None:
        self._contexts = [FRESH] * CONTEXTS
        self._low, self._range, self._bytes = 0, 0xFFFFFFFF, bytearray()

    def bit(self, context: int, value: int) -> int:
        state = self._contexts[context]
        bound = (self._range >> 13) * (state >> 3)
        if value:
            self._range = bound
        else:
            self._low += bound
            self._range -= bound
        self._contexts[context] = _learn(state, value)
        while self._range < 1 << 24:
            self._range <<= 8
            self._shift()
        return value

    def _shift(self) -> None:
        """Hand out the highest byte of `low`, and its carry to the bytes before."""
        if self._low >> 32:
            at = len(self._bytes) - 1
            while self._bytes[at] == 255:
                self._bytes[at] = 0
                at -= 1
            self._bytes[at] += 1
        self._bytes.append(self._low >> 24 & 255)
        self._low = self._low << 8 & 0xFFFFFFFF

    @property
    def length(self) -> int:
        """Bytes so far, as the decoder counts them."""
        return len(self._bytes) + 4

    def finish(self) -> bytes:
        """All bytes. The last four are `low` itself, so that the decoder's code ends as exactly 0."""
        for _ in range(4):
            self._shift()
        return bytes(self._bytes)


class Decoder:
    """Bytes to bits.

    Args:
        data: at least 4 bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._contexts = [FRESH] * CONTEXTS
        self._data = data
        self._code, self._range, self.length = int.from_bytes(data[:4], "big"), 0xFFFFFFFF, 4

    def bit(self, context: int, value: int = 0) -> int:
        """The next bit; `value` means nothing.

        Raises:
            ModelFileError: there are no bytes left.
        """
        state = self._contexts[context]
        bound = (self._range >> 13) * (state >> 3)
        bit = int(self._code < bound)
        if bit:
            self._range = bound
        else:
            self._code -= bound
            self._range -= bound
        self._contexts[context] = _learn(state, bit)
        while self._range < 1 << 24:
            self._range <<= 8
            if self.length == len(self._data):
                raise ModelFileError("the code ends too early")
            self._code = self._code << 8 | self._data[self.length]
            self.length += 1
        return bit

    @property
    def is_complete(self) -> bool:
        """Whether all bytes were read, and the last four of them are those that `Encoder.finish` writes."""
        return self.length == len(self._data) and self._code == 0


Coder = Encoder | Decoder


def integer(coder: Coder, kind: int, value: int = 0) -> int:
    """One integer of a kind: is it not 0; is it negative; the length of its magnitude in unary; the digits behind the leading 1.

    Raises:
        ModelFileError: the magnitude has more than `MAGNITUDE_BITS` bits.
    """
    if not coder.bit(kind, int(value != 0)):
        return 0
    negative = coder.bit(kind + 1, int(value < 0))
    given, length = abs(value), 1
    while coder.bit(kind + 2 + min(length - 1, 15), int(given >> length != 0)):
        length += 1
        if length > MAGNITUDE_BITS:
            raise ModelFileError(f"an integer is coded with more than {MAGNITUDE_BITS} bits")
    magnitude = 1
    for place in range(length - 2, -1, -1):
        context = kind + 18 + min(length - 2, 14) if place == length - 2 else kind + 33
        magnitude = magnitude << 1 | coder.bit(context, given >> place & 1)
    return -magnitude if negative else magnitude


def weights(coder: Coder, kernel: int, stored_channels: int, channels: int, bits: NDArray[np.uint8]) -> None:
    """The 1-bit weights of one stage, in the order of the plane.

    A weight is guessed from its neighbours in the kernel, above and to the left, and from the same weight of the copy before: the
    copies of a duplicated map often have the same sign, and after a 0 a 1 is rare (dupnet.nn.duplication, `SPREAD`).

    Args:
        kernel: rows and columns of a filter.
        stored_channels: of a filter.
        channels: of the map that is read, before duplication: how far copies are apart.
        bits: `(filters, kernel * kernel * stored_channels)`, 0 or 1; what is coded is stored there too.
    """
    count, plan = kernel * kernel * stored_channels, []
    for index in range(count):  # where the neighbours are; none is at `count`, where a 2 stands
        place, channel = divmod(index, stored_channels)
        above = index - kernel * stored_channels if place >= kernel else count
        left = index - stored_channels if place % kernel else count
        copy = channel // channels
        plan.append((9 * min(copy, 3), above, left, index - channels if copy else count))
    code, found = coder.bit, [0] * count + [2]
    for number, given in enumerate(bits.tolist()):
        for index, (first, above, left, before) in enumerate(plan):
            context = first + 3 * found[above] + found[left] if found[before] else WEIGHT_CONTEXTS - 1
            found[index] = code(context, given[index])
        bits[number] = found[:count]


def thresholds(coder: Coder, expected: NDArray[np.int64], bound: int, values: NDArray[np.int64]) -> None:
    """The thresholds of one stage.

    A first threshold is where the weights let it be expected, plus what the filters before had on top, on average; so is the step
    to the second. Further steps are the one before, or hardly different: the levels are evenly spaced numbers, rounded.

    Args:
        expected: `(filters,)`, the first threshold as far as the weights tell it.
        bound: thresholds are in `[-bound, bound + 1]`.
        values: `(filters, 2^bits - 1)`, ascending; what is coded is stored there too.

    Raises:
        ModelFileError: a threshold is out of bounds or below the one before.
    """
    surplus = steps = 0  # running means, times 32; the first value counts in full, later ones by 1/32
    for number, guess in enumerate(expected.tolist()):
        given = values[number].tolist()
        guess += (surplus + 16) >> 5
        error = integer(coder, FIRST, given[0] - guess)
        surplus += error if number else 32 * error
        found = [_checked(guess + error, -bound, bound, number, 0)]
        step = 0
        for index in range(1, len(given)):
            rise = given[index] - given[index - 1]
            if index == 1:
                step = (steps + 16) >> 5
                error = integer(coder, STEP, rise - step)
                steps += error if number else 32 * error
                step += error
            else:
                step += integer(coder, BEND, rise - step)
            found.append(_checked(found[-1] + step, found[-1], bound, number, index))
        values[number] = found


def _checked(value: int, least: int, bound: int, number: int, index: int) -> int:
    if not least <= value <= bound + 1:
        raise ModelFileError(f"threshold {index} of filter {number} is {value}, expected within [{-bound}, {bound + 1}], ascending")
    return value
