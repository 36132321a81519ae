"""The fix as a diff against the installed transformers, for its maintainers to read and merge.

Every model file that holds a non-overlapping nn.Conv3d, modular files too, is changed in its
text alone: neither transformers nor torch is imported.

To apply: in the folder that holds the `transformers` folder, `git apply PATCH`; at the root of a
checkout of transformers, whose package lies in src, `git apply --directory=src PATCH`. Inside
another repository git skips the files without a word, unless it is given their folder's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from qwenprof.errors import UsageError
from qwenprof.fix._conv3d import Sees, Site, Style, find_sites, rewrite
from qwenprof.fix._layers import support_for
from qwenprof.fix._source import CannotRewrite, file_diff

STYLES: tuple[Style, ...] = get_args(Style)

_NOTES: dict[Style, tuple[str, ...]] = {
    "view": (
        "A PatchConv3d is an nn.Conv3d with a forward of its own: weights, their names,",
        "checkpoints, and what wraps or replaces an nn.Conv3d stay as they are.",
    ),
    "linear": (
        "Checkpoints keep the convolution's shape, so that either version loads them.",
        "Adapters trained on the Conv3d, such as a LoRA on proj, are not expected to load.",
        "A quantizer that replaces every nn.Linear must leave it out: modules_to_not_convert.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A non-overlapping nn.Conv3d in a model file.

    file: below the transformers folder, with slashes.
    sees: "patches" or "clip", see `qwenprof.fix._conv3d.Site`.
    """

    file: str
    class_name: str
    attribute: str
    sees: Sees

    @property
    def family(self) -> str:
        return self.file.split("/")[-2]


@dataclass(frozen=True, kw_only=True)
class Diff:
    """A patch for `git apply`; its first lines, which start with #, say what it is.

    skipped: files that have the pattern and stay as they are, each with the reason.
    """

    text: str
    files: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def checked_style(name: str) -> Style:
    """The style of that name.

    Raises:
        UsageError: there is none.
    """
    for style in STYLES:
        if style == name:
            return style
    raise UsageError(f"--style {name}: is no style; choose {' or '.join(STYLES)}")


def patterns(package: Path | None = None) -> list[Pattern]:
    """The non-overlapping Conv3d of every modeling file of transformers, by file.

    Args:
        package: the transformers folder; without it, that of the installed one.

    Raises:
        UsageError: transformers is not installed.
    """
    package = package or _installed()
    return [
        Pattern(
            file=file.relative_to(package).as_posix(),
            class_name=site.class_name,
            attribute=site.attribute,
            sees=site.sees,
        )
        for file in sorted(package.glob("models/*/modeling_*.py"))
        for site in find_sites(_read(file))
    ]


def upstream_diff(
    family: str | None = None, style: Style = "view", *, package: Path | None = None
) -> Diff:
    """The fix for one family, or for all that have the pattern.

    A modular file may inherit the method that is changed from another family, so the files of
    one family alone need not agree with transformers' own generator; those of all do.

    Args:
        family: the model folder, with hyphens or dots as in "qwen2.5-vl"; None for all.
        style: "view" keeps the convolution as a module, which multiplies by a view of its own
            weight; "linear" puts an nn.Linear in its place, and makes old checkpoints load and
            new ones look like them.
        package: the transformers folder; without it, that of the installed one.

    Raises:
        UsageError: transformers is not installed, or no such family has the pattern.
    """
    package = package or _installed()
    found = _wanted(patterns(package), family)
    support = support_for(style, package)
    if support.obstacle:
        skipped = [(file, support.obstacle) for file in sorted({each.file for each in found})]
        return _diff(package, (), {}, skipped)
    changed, skipped = _changed(package, found, style)
    notes = (*_NOTES[style], *([f"In this version {support.limit}"] if support.limit else []))
    return _diff(package, notes, changed | support.files if changed else {}, skipped)


def _installed() -> Path:
    spec = find_spec("transformers")
    if spec is None or not spec.origin:
        raise UsageError("transformers is not installed: pip install transformers")
    return Path(spec.origin).parent


def _wanted(found: list[Pattern], family: str | None) -> list[Pattern]:
    families = sorted({each.family for each in found})
    if not families:
        raise UsageError("no model file of the installed transformers has the pattern")
    if family is None:
        return found
    folder = family.strip().lower().replace("-", "_").replace(".", "_")
    if folder not in families:
        raise UsageError(
            f"--family {family}: has no non-overlapping Conv3d in the installed transformers; "
            f"these have one: {', '.join(families)}"
        )
    return [each for each in found if each.family == folder]


def _changed(
    package: Path, found: list[Pattern], style: Style
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The new text of each file that changes, and the files that cannot, with the reason."""
    changed, skipped = {}, []
    for file, sites in _files(package, found):
        old = _read(package / file)
        try:
            new = rewrite(old, sites, style)
        except CannotRewrite as reason:
            skipped.append((file, str(reason)))
            continue
        if new != old:
            changed[file] = new
    return changed, skipped


def _files(package: Path, found: list[Pattern]) -> Iterator[tuple[str, list[Site]]]:
    """Each modeling file and each modular file beside one, with what to look for in it."""
    for folder in sorted({each.file.rpartition("/")[0] for each in found}):
        here = [each for each in found if each.file.startswith(f"{folder}/")]
        for file in sorted({each.file for each in here}):
            yield file, [_site(each) for each in here if each.file == file]
        for path in sorted((package / folder).glob("modular_*.py")):
            yield path.relative_to(package).as_posix(), [_site(each) for each in here]


def _site(pattern: Pattern) -> Site:
    return Site(class_name=pattern.class_name, attribute=pattern.attribute, sees=pattern.sees)


def _diff(
    package: Path, notes: Sequence[str], changed: dict[str, str], skipped: list[tuple[str, str]]
) -> Diff:
    head = [
        f"# Non-overlapping Conv3d as a matrix product, for transformers {_version(package)}.",
        *(f"# {note}" for note in notes),
        "# Apply beside the transformers folder: git apply PATCH",
        "# or at the root of a checkout: git apply --directory=src PATCH",
        '# inside another repository add --directory="$(git rev-parse --show-prefix)"',
        *(f"# left as it is: {file}: {reason}" for file, reason in skipped),
    ]
    bodies = [
        file_diff(f"{package.name}/{file}", _read(package / file), text)
        for file, text in sorted(changed.items())
    ]
    return Diff(
        text="\n".join(head) + "\n" + "".join(bodies),
        files=tuple(sorted(changed)),
        skipped=tuple(skipped),
    )


def _version(package: Path) -> str:
    found = re.search(r'^__version__ = "([^"]+)"', _read(package / "__init__.py"), re.MULTILINE)
    return found[1] if found else "of unknown version"


def _read(file: Path) -> str:
    """The text with its line ends as they are."""
    return file.read_bytes().decode()
