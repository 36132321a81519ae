"""Numbers as people read them: three significant digits and the unit that fits.

Everything inside qwenprof is seconds, bytes and FLOP. Here they become ms, GiB and GFLOP. What
was not measured (None, or a float that is no number) reads "not measured", never 0 or nan.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

NOT_MEASURED = "not measured"
LONGEST_TEXT = 2000

_Units = Sequence[tuple[float, str]]
_SECONDS: _Units = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTES: _Units = ((1024.0**4, "TiB"), (1024.0**3, "GiB"), (1024.0**2, "MiB"), (1024.0, "KiB"))
_DECIMAL = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and thousands separators: 1,230 or 0.0553."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    if abs(rounded) < 1e-4 or abs(rounded) >= 1e12:
        return f"{value:.{digits - 1}e}"
    return f"{rounded:,.{max(0, _decimals(rounded, digits))}f}"


def seconds(value: float | None) -> str:
    """A duration: `seconds(0.0553)` is "55.3 ms"."""
    return _with_unit(value, _SECONDS)


def size(value: float | None) -> str:
    """Bytes in binary units: "9.70 GiB"."""
    return _with_unit(value, (*_BYTES, (1.0, "B")))


def flop(value: float | None) -> str:
    """An amount of arithmetic: "103 MFLOP"."""
    return _decimal_unit(value, "FLOP")


def flop_rate(value: float | None) -> str:
    """FLOP per second: "224 TFLOPS"."""
    return _decimal_unit(value, "FLOPS")


def bandwidth(value: float | None) -> str:
    """Bytes per second in decimal units, as datasheets give them: "1.79 TB/s"."""
    return _decimal_unit(value, "B/s")


def percent(fraction: float | None) -> str:
    """A share: `percent(0.9938)` is "99.4 %"; less than one per mille reads "< 0.1 %"."""
    if fraction is None or not math.isfinite(fraction):
        return NOT_MEASURED
    if 0 < abs(fraction) < 0.001:
        return "< 0.1 %"
    return f"{significant(fraction * 100, 2 if abs(fraction) < 0.01 else 3)} %"


def times(ratio: float | None) -> str:
    """A ratio: "1.33 x" or "53,700 x"."""
    if ratio is None or not math.isfinite(ratio):
        return NOT_MEASURED
    return f"{significant(ratio)} x"


def count(value: float | None) -> str:
    """A whole number with thousands separators: "6,080"."""
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:,.0f}"


def seconds_with_interval(
    value: float | None, interval: tuple[float, float] | None, n: int | None = None
) -> str:
    """A median with its interval in the same unit and its n: "55.3 ms [54.1, 56.0], n = 40"."""
    text = _with_interval(value, interval, _SECONDS)
    return text if n is None or text == NOT_MEASURED else f"{text}, n = {n}"


def flop_rate_with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """A rate with its interval in the same unit: "224 TFLOPS [221, 226]"."""
    return _with_interval(value, interval, _decimal("FLOPS"))


def bandwidth_with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    """A bandwidth with its interval in the same unit: "1.53 TB/s [1.52, 1.54]"."""
    return _with_interval(value, interval, _decimal("B/s"))


def times_with_interval(ratio: float | None, interval: tuple[float, float] | None) -> str:
    """A ratio with its interval: "1.33 x [1.30, 1.36]"."""
    if ratio is None or not math.isfinite(ratio) or interval is None:
        return times(ratio)
    return f"{times(ratio)} {_interval(interval, 1.0, ratio)}"


def plural(number: float, noun: str) -> str:
    """ "1 image" or "8 images"."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def listed(items: Sequence[str]) -> str:
    """Items as a sentence has them: "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def clean(text: str, longest: int = LONGEST_TEXT) -> str:
    """Text from a record on one line, without what could deceive or break a page.

    Control, format and bidirectional characters become U+FFFD, white space one space, and what
    is longer than `longest` loses its middle.
    """
    spaced = re.sub(r"\s+", " ", text[: 4 * LONGEST_TEXT]).strip()
    return shortened(visible(spaced), longest)


def visible(text: str) -> str:
    """Text whose control, format and bidirectional characters have become U+FFFD."""
    return "".join(_visible(character) for character in text)


def shortened(text: str, longest: int) -> str:
    """Text of at most `longest` characters; the middle goes, since paths differ at their ends.

    Words stay whole, so that no number loses digits; what is one word is cut within it.
    """
    if len(text) <= longest:
        return text
    whole = _whole_words(text, (longest - 3) // 2) if " " in text else None
    if whole is not None:
        return whole
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def _whole_words(text: str, room: int) -> str | None:
    """The first and last words that fit in `room` characters each; None where one does not."""
    head = text[: room + 1].rpartition(" ")[0].rstrip() if room > 0 else ""
    tail = text[len(text) - room - 1 :].partition(" ")[2].lstrip() if room > 0 else ""
    return f"{head} … {tail}" if head and tail else None


def first_sentences(text: str, longest: int) -> str:
    """The sentences at the start that fit in `longest` characters; at least the first one."""
    if len(text) <= longest:
        return text
    ends = [found.end() for found in re.finditer(r"[.!?](?= )", text)]
    fitting = [end for end in ends if end <= longest] or ends[:1]
    return text[: fitting[-1]] if fitting else text


def without_homes(text: str) -> str:
    """Text in which no home folder tells whose machine it was: /home/name/x becomes ~/x."""
    return re.sub(
        r"(/home/|/Users/|[A-Za-z]:\\Users\\)[^/\\\s:'\"]+|(?<![\w.~/-])/root\b", "~", text
    )


def _visible(character: str) -> str:
    return (
        "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character
    )


def _decimals(value: float, digits: int = 3) -> int:
    """Decimals that give `value` so many significant digits; negative from thousands on."""
    return digits - 1 - math.floor(math.log10(abs(value))) if value else 0


def _unit_of(value: float, units: _Units) -> tuple[float, str]:
    """The largest unit in which the rounded value is at least one, else the smallest unit."""
    fitting = (unit for unit in units if float(f"{abs(value) / unit[0]:.2e}") >= 1)
    return next(fitting, units[-1])


def _with_unit(value: float | None, units: _Units) -> str:
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return f"0 {units[0][1] if units is _SECONDS else units[-1][1]}"
    scale, unit = _unit_of(value, units)
    return f"{significant(value / scale)} {unit}"


def _decimal_unit(value: float | None, unit: str) -> str:
    return _with_unit(value, _decimal(unit))


def _decimal(unit: str) -> _Units:
    return (*((scale, prefix + unit) for scale, prefix in _DECIMAL), (1.0, unit))


def _with_interval(value: float | None, interval: tuple[float, float] | None, units: _Units) -> str:
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    text = _with_unit(value, units)
    if interval is None or not all(map(math.isfinite, interval)):
        return text
    scale, _ = _unit_of(value, units)
    return f"{text} {_interval(interval, scale, value)}"


def _interval(interval: tuple[float, float], scale: float, like: float) -> str:
    decimals = _decimals(float(f"{like / scale:.2e}"))
    low, high = (_rounded(bound / scale, decimals) for bound in interval)
    return f"[{low}, {high}]"


def _rounded(value: float, decimals: int) -> str:
    """With these decimals, or with three digits where that would leave nothing of the value."""
    text = f"{round(value, decimals):,.{max(0, decimals)}f}"
    return text if value == 0 or float(text.replace(",", "")) != 0 else significant(value)
