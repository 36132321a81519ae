"""What lets somebody in: tokens by their shape, and values by the name that stands before them.

Decisions where two readings are possible:
- `token` with a number is a count, with `<|...|>` one of a tokenizer's; both stay.
- A value behind a blank ("HF_TOKEN hf_1x") is taken for one only behind a name as environment
  variables have it, or "password", and where it looks like no word: it holds a digit, or a capital
  after a small letter.
- "Basic" goes with what follows where that is base64 of a name, a colon and a password.
- A cookie goes up to the end of its line, or of the quotes around it.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress

from qwenprof.report.rule import IS, QUOTE, Match, table

_QUOTED_OR_WORD = r"(?:\\{0,3}(?:\"[^\"\n]*\"?|'[^'\n]*'?|`[^`\n]*`?)|[^\s\"'`]+)"
_NEW = r"(?!\\{0,3}[\"'`]?<secret>)"
_VALUE = rf"{_NEW}(?P<value>{_QUOTED_OR_WORD})"
SECRET_NAME = (
    r"[\w.-]*?(?:(?i:pass(?:word|wd|phrase)s?|secrets?|credentials?|cookies?|token|(?:api|access|"
    r"secret|private|auth|signing|encryption|master|account|shared|license|client)[ _-]?keys?)"
    r"|(?<=[A-Za-z0-9]_)(?:KEY|PASS|PWD|AUTH)|(?<![\w.-])KEY|(?<=--)key)"
    r"(?:[_-](?i:id|hash|value|b64|\d{1,2}))?"
)
_VARIABLE = r"[A-Z][A-Z0-9_]{0,60}_(?:TOKEN|SECRET|KEY|PASS(?:WORD|WD|PHRASE)?|PWD|AUTH)"
_NO_WORD = r"(?=[\"'`]?[^\s\"'`]{0,64}?(?:\d|[a-z][A-Z]))(?=\S{6})"
_SCHEME = r"(?i:basic|bearer|digest|negotiate|token|apikey)"
_IN_QUERY = r"(?:token|sig|signature|secret|passw|credential|auth|key|code|session|policy)"
_SLASH, _QUERY = r"%(?:25)?2F", r"%(?:25)?3F"

_TOKEN_KEY = re.compile(r"(?i)token(?:[_-]id)?$")
_TOKEN_COUNT = re.compile(r"[\d.,]{1,15}(?:[mun]?s|%|x|k)?|<[^<>]{1,40}>|[(\[{]*|\[[A-Z]{2,8}\d*\]")


def is_no_secret(key: str, value: str) -> bool:
    """Whether what stands under the name of a secret is none: a yes or no, a count of tokens."""
    is_token = _TOKEN_KEY.search(key) and _TOKEN_COUNT.fullmatch(value)
    return bool(is_token) or value.lower() in ("", "none", "null", "true", "false")


def _assigned(match: Match) -> str:
    """A secret's name with its value gone; the quotes around it stay."""
    value = match["value"]
    bare = value.lstrip("\\\"'`")
    quote = value[: len(value) - len(bare)][:4] if value[:4].strip("\\")[:1] in "\"'`" else ""
    if is_no_secret(match["name"], bare.rstrip("\\\"'`,;)]}")):
        return match[0]
    return f"{match['name']}{match['is']}{quote}<secret>{quote}"


def _basic(match: Match) -> str:
    """The word with its value gone, where that is no word of a sentence as in "basic usage"."""
    bare = match["value"].rstrip("=")
    is_padded = bare != match["value"]
    with suppress(ValueError):
        padded = bare + "=" * (-len(bare) % 4)
        if is_padded or ":" in base64.b64decode(padded, validate=True).decode():
            return f"{match['basic']}<secret>"
    return match[0]


# fmt: off
SECRETS = table((
    ("secret", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?s:.*?)"
               r"(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])hf_(?:(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{10,}|[A-Za-z0-9]{16,})",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])hf_(?:oauth|jwt)_(?=[a-z_.-]{0,40}[A-Z0-9])[\w.-]{10,}",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,})", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,}|[rs]k_(?:live|test)_\w{10,})", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{12,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:AIza[\w-]{20,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{10,})",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:xox[a-z]|xapp)-[\w-]{8,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:glpat-[\w-]{16,}|npm_[A-Za-z0-9]{20,}|pypi-\w{16,}[\w-]*)",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:nvapi|xai|pplx|tskey)-[\w-]{16,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:gsk|r8|rpa)_[A-Za-z0-9]{24,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:dapi|do[opr]_v1_)[0-9a-f]{24,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:SG\.[\w-]{8,}\.[\w-]{8,}|hvs\.[\w-]{16,})", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:AGE-SECRET-KEY-[0-9A-Z]{16,}|dckr_pat_[\w-]{16,})",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])eyJ[\w-]{10,}(?:\.[\w-]+)*", "<secret>"),
    ("secret", r"ssh-(?:rsa|dss|ed25519)\s{1,4}AAAA[\w+/=]+", "<secret>"),
    ("secret", r"(?<=hooks\.slack\.com/services/)[\w/]+", "<secret>"),
    ("secret", r"(?<=/api/webhooks/)[\w/-]+", "<secret>"),
    ("secret", rf"(?i)(?P<quote>[\"'`])?(?P<name>(?<![\w-])(?:set-)?cookies?2?{IS}{QUOTE}){_NEW}"
               r"(?!\s|(?:none|null|true|false)\b)"
               r"(?(quote)(?:(?!(?P=quote))[^\r\n])+|[^\r\n]+)", r"\g<quote>\g<name><secret>"),
    ("secret", rf"((?i:authorization){IS}{QUOTE}(?:{_SCHEME}\s{{1,4}})?)"
               rf"(?!<secret>|{_SCHEME}\b)[^\s\"'`\\]+", r"\1<secret>"),
    ("secret", r"(?i)\b(bearer\s{1,4}[\"']?)[\w.~+/=-]{6,}", r"\1<secret>"),
    ("secret", r"(?i)(?<![\w-])(?P<basic>basic\s{1,4}[\"']?)(?P<value>[\w+/]{6,}={0,2})"
               r"(?![\w+/=])", _basic),
    ("secret", r"(?<=://)(?!git@)[^\s/\"'`]+@", "<secret>@"),
    ("secret", rf"(?i)(%(?:25)?3A(?:{_SLASH}){{2}})(?!<secret>|git%)(?:(?!{_SLASH}|{_QUERY})"
               r"[^\s/\"'`&])+(?=%(?:25)?40)", r"\1<secret>"),
    ("secret", r"(?<![^\s\"'])(-u|--user)([ =])(?!<secret>)[^\s:]+:\S+", r"\1\2<secret>"),
    ("secret", rf"(?i)(?<=[?&;])([\w-]{{0,40}}{_IN_QUERY}[\w-]{{0,20}}=)"
               r"(?!<secret>)[^&#\s\"'`<>]+", r"\1<secret>"),
    ("secret", rf"(\bsshpass\s{{1,4}}-p\s{{0,4}})(?!\s){_NEW}{_QUOTED_OR_WORD}", r"\1<secret>"),
    ("secret", r"(\bwandb\s{1,4}login(?:\s{1,4}-[\w=-]+){0,4}\s{1,4})[\w-]{20,}", r"\1<secret>"),
    ("secret", rf"(?<![\w.-])(?P<name>{SECRET_NAME})(?P<is>{IS}){_VALUE}", _assigned),
    ("secret", rf"(?<![\w.-])(?P<name>-{SECRET_NAME})(?P<is>\s{{1,4}})(?!-){_VALUE}", _assigned),
    ("secret", rf"(?<![\w.-])(?P<name>{_VARIABLE})(?P<is>[ \t]{{1,4}}){_NO_WORD}{_VALUE}",
     _assigned),
    ("secret", rf"(?<![\w.-])(?P<name>(?i:password))(?P<is>[ \t]{{1,4}})(?=\S{{0,40}}?[A-Za-z])"
               rf"{_NO_WORD}{_VALUE}", _assigned),
    ("secret", r"(?<![\w.-])(key[\"']?\s{0,2}[=:]\s{0,2}[\"']?)(?=[A-Za-z_-]{0,64}\d)[\w-]{20,}"
               r"(?![\w./])", r"\1<secret>"),
))
# fmt: on
