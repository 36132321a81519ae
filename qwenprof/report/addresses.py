"""Addresses of a network, and the versions of libraries that look like them.

Four numbers below 256 with dots are an address, but for these:
- No version of four numbers begins with 40 or more, so what does is an address wherever it stands:
  192.168/16, 172.16/12 and 169.254/16 among others.
- What begins with 10 is a version only of a library that has such versions (cuDNN, cuRAND, cuFFT,
  TensorRT and the like, the nvidia-* packages) or behind a pin ("x==10.3.9.90"): "driver 10.0.0.5"
  and torch 10.0.0.5 in a list of packages are addresses.
- All else is a version where software is named before it ("version: 8.9.7.29"), where something is
  glued to it ("v1.2.3.4", "1.2.3.4-py3", "1.2.3.4+cu128"), and where it is all that a key such as
  "cudnn_wheel" or the list of packages holds.
- 127.0.0.1 and 0.0.0.0 are nobody's.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

from qwenprof.report.rule import Match

IPV4 = r"(?<!\d)(?<!\d\.)\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)"
IPV6 = (
    r"(?<![\w:.-])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]+(?:\.\d{1,3}){0,3}"
    r"(?![\w:])(?:%\w+)?"
)

_NO_VERSION_BEGINS_WITH = 40
_NOBODYS = ("127.0.0.1", "0.0.0.0", "255.255.255.255")
_ROUTED = re.compile(r"(?i)[23][0-9a-f]{3}|f[cdef][0-9a-f]{2}|64:ff9b|::ffff:\d")

_LIBRARY = (
    r"\w*cudnn\w*|(?:lib)?(?:cublas|cufft|curand|cusolver|cusparse|npp|nvjpeg|nvinfer)[\w.-]*|"
    r"nvidia[_-](?!driver)[\w-]+|[\w-]+[_-]cu\d\d|tensorrt[\w-]*|trt"
)
_LIBRARIES = re.compile(rf"(?i){_LIBRARY}")
_SOFTWARE = re.compile(
    rf"(?i){_LIBRARY}|\w*version|ver|release|cuda\w*|nvcc|nccl|nvrtc|nvjitlink|driver|torch\w*|"
    r"triton|rocm|hip|miopen|onednn|mkl|openssl|linux|kernel|wheel"
)
_BETWEEN = ("is", "runtime", "compiled", "and", "or", "to", "version", "ver", "release", "wheel")
_PINS = ("==", ">=", "<=", "~=", "!=")
_GLUED_BEFORE, _GLUED_AFTER = re.compile(r"[\w.]\Z"), re.compile(r"[\w+]|[-_~][A-Za-z]")
_SURE_BEFORE = re.compile(r"(?:(?<!\w)v|\.so\.)\Z")
_SURE_AFTER = re.compile(r"\+\w|-(?:py|cp)\d|-\d+[+~]")
_VERSION_KEY = re.compile(r"(?i)version|cudnn|cuda|wheel|release|nccl|rocm|hip|nvidia|cu\d\d$")
_VERSION = re.compile(r"\d+(?:\.\d+){1,4}(?:[.+-]\w{1,20})?")


def ipv4(match: Match) -> str:
    """`<ip>`, unless what stands around it says that it is a version."""
    first = _first_of_address(match[0])
    if first is None or match[0] in _NOBODYS or _is_version_here(match, first):
        return match[0]
    return "<ip>"


def _first_of_address(text: str) -> int | None:
    """The first of the four numbers of an address; None where one is too large for one."""
    numbers = [int(part) for part in text.split(".")]
    return numbers[0] if max(numbers) < 256 else None


def _is_version_here(match: Match, first: int) -> bool:
    if first >= _NO_VERSION_BEGINS_WITH:
        return False
    before = match.string[max(0, match.start() - 96) : match.start()]
    after = match.string[match.end() : match.end() + 8]
    needs_library = first == 10
    glued_before = _SURE_BEFORE if needs_library else _GLUED_BEFORE
    glued_after = _SURE_AFTER if needs_library else _GLUED_AFTER
    if glued_before.search(before) or glued_after.match(after):
        return True
    return _names(_LIBRARIES if needs_library else _SOFTWARE, before)


def _names(software: re.Pattern[str], before: str) -> bool:
    """Whether text ends in the name of software, or in that and versions of it: "cuDNN 9.8, "."""
    for _ in range(8):
        bare = before.rstrip(" \t:=<>~!(,\"'[/|-")
        gap, word = before[len(bare) :], (bare.split() or [""])[-1].lstrip("(\"'[")
        if gap in _PINS or software.fullmatch(word):
            return bool(word)
        is_listed = _VERSION.fullmatch(word) and gap.strip() in ("", ",", "/")
        if word.lower() not in _BETWEEN and not is_listed:
            return False
        before = bare[: len(bare) - len(word)]
    return False


def is_version(text: str, key: str, *, of_package: bool = False) -> bool:
    """Whether all of a text is a version, as its key announces."""
    if not (of_package or _VERSION_KEY.search(key)) or not _VERSION.fullmatch(text):
        return False
    found = re.match(IPV4, text)
    first = None if found is None else _first_of_address(found[0])
    if first is None:
        return True
    return first < _NO_VERSION_BEGINS_WITH and (first != 10 or bool(_LIBRARIES.fullmatch(key)))


def ipv6(match: Match) -> str:
    """`<ip>`, but not for the names in `c10::add` or the slice `1::2`."""
    bare = match[0].partition("%")[0]
    address = bare if bare.endswith("::") else bare.rstrip(":")
    with suppress(ValueError):
        groups = ipaddress.IPv6Address(address if len(address) < 46 else "").exploded
        if address.strip(":").count(":") > 2 or (groups and _ROUTED.match(address)):
            return "<ip>" + bare[len(address) :]
    return match[0]
