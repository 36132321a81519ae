"""What goes with a ticket as one file: raw data, report, pictures and script, in a zip archive.

The same files give the same bytes: names are sorted, times fixed, and no path but the file's own
name is kept.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qwenprof.record.record import Record

NAME = "attachments.zip"
RECORD = "record.json"
LIMIT_BYTES = 25_000_000  # GitHub takes files of up to 25 MB
EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip archive can tell
READABLE = 0o644 << 16
# what goes first where all is too large: the page repeats report.md, and pictures its tables
DROPPED_FIRST = ((".html",), (".png",), (".md", ".json"))


@dataclass(frozen=True, kw_only=True)
class Packed:
    """The archive.

    names: of the files in it. dropped: of those that would have made it too large.
    """

    content: bytes
    names: tuple[str, ...]
    dropped: tuple[str, ...] = ()


def pack(
    record: Record,
    attachments: Sequence[Path],
    script: tuple[str, str] | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> Packed:
    """Everything in one archive, or as much of it as fits.

    Args:
        record: goes in as record.json.
        attachments: files to read; of two with one name the last is taken.
        script: its name and text.

    Raises:
        OSError: a file cannot be read.
    """
    files = {path.name: path.read_bytes() for path in attachments if path.name != RECORD}
    files[RECORD] = msgspec.json.format(msgspec.json.encode(record), indent=1)
    if script:
        files[script[0]] = script[1].encode()
    return _fitting(files, limit_bytes)


def _fitting(files: Mapping[str, bytes], limit_bytes: int) -> Packed:
    kept, content = dict(files), _archive(files)
    for suffixes in DROPPED_FIRST:
        if len(content) <= limit_bytes:
            break
        kept = {name: data for name, data in kept.items() if not name.endswith(suffixes)}
        content = _archive(kept)
    dropped = tuple(sorted(files.keys() - kept.keys()))
    return Packed(content=content, names=tuple(sorted(kept)), dropped=dropped)


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, EARLIEST)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, READABLE
            entry.create_system = 3  # Unix, wherever it was written
            archive.writestr(entry, files[name])
    return buffer.getvalue()
