r"""What a ticket must not tell: who ran it, on which machine, with which keys.

Each rule of the table is a kind, a pattern and what stands in its place; one more is one line.
The marks are `<path>`, `<home>`, `<host>`, `<ip>`, `<mac>`, `<uuid>`, `<serial>`, `<user>` and
`<secret>`. Numbers stay as they are, and so does what a maintainer needs: module paths, operators,
commits, links, hub ids, and of a file in a library the part from site-packages on.

Decisions where two readings are possible:
- Four numbers with dots are an address, unless software is named before them ("cuDNN 9.10.2.21",
  "nvidia-curand-cu12 10.3.9.90", "x==9.1.0.70"), a suffix follows ("-py3", "+cu128"), or they are
  all that a key such as "cudnn_wheel" holds. 127.0.0.1 and 0.0.0.0 are nobody's.
- Of a local path the last component stays; of a system path (/proc, /usr/lib, /dev/nvidia0) all.
- The names of this host and this user go wherever they stand (the user's in a path or before an
  @), unless they are words of the field ("vision", "runner"); then only where a path, an @ or a
  key shows what they are.
- `token` with a number is a count, with `<|...|>` one of a tokenizer's; both stay.

Every pattern takes time linear in the text: what repeats without a bound begins where no other
attempt begins, or cannot fail any more.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import msgspec

from qwenprof.record.published import writeup

Match = re.Match[str]
Replacement = str | Callable[[Match], str]


class Rule(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    replacement: Replacement


# What the patterns of the table are made of.

_Q = r"(?:\\{0,3}[\"'`])?"
_IS = rf"{_Q}\s{{0,48}}(?::=|=>|[:=])\s{{0,4}}"
_VALUE = (
    r"(?!\\{0,3}[\"'`]?<secret>)"
    r"(?P<value>\\{0,3}(?:\"[^\"\n]*\"?|'[^'\n]*'?|`[^`\n]*`?)|[^\s\"'`]+)"
)
_SECRET = (
    r"[\w.-]*?(?:(?i:pass(?:word|wd|phrase)s?|secrets?|credentials?|cookie|token|(?:api|access|"
    r"secret|private|auth|signing|encryption|master|account|shared|license|client)[ _-]?keys?)"
    r"|(?<=[A-Za-z0-9]_)(?:KEY|PASS|PWD|AUTH)|(?<![\w.-])KEY|(?<=--)key)"
    r"(?:[_-](?i:id|hash|value|b64|\d{1,2}))?"
)
_SCHEME = r"(?i:basic|bearer|digest|negotiate|token|apikey)"
_IN_QUERY = r"(?:token|sig|signature|secret|passw|credential|auth|key|code|session|policy)"
_HEX4 = r"[0-9A-Fa-f]{4}"
_SERIAL = r"(?=[A-Za-z_-]{0,32}\d)[A-Za-z0-9][\w-]{4,}(?!\w|\.\d)"
_FQDN = r"[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
_NUMBERED = r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*-[A-Za-z]*\d+"
_NO_SSH_HOST = r"(?!(?:keys?|agent|into|to|from|and|or|is|port|session|connection|config|access)\b)"
_INTERNAL = r"(?:internal|lan|corp|intranet|localdomain|local)(?![\w.(-])"

# A path starts after what cannot belong to it, or is glued to an option as in -I/opt/x; the two
# slashes of a link are no start. A component ends at white space, quotes and the next path.
_START = r"(?:(?<![\w.~)\]}%*#?/\\])|(?<=[\s\"'=]-[A-Za-z])|(?<=^-[A-Za-z]))(?!(?<=:)//[^/])"
_COMPONENT = r"(?:[^\s/\\\"'`<>|:,;=]|[:,;=](?![/\s]|\Z)|\\[ ()])+"
_PATH = (
    rf"{_START}(?:(?:<path>|<home>|~|\$HOME|\$\{{HOME\}}|\.\.?)?(?:/+{_COMPONENT}){{2,}}"
    rf"|~[A-Za-z_][\w.-]*(?:/+{_COMPONENT})+|/root(?![\w-]|\.\w|/+{_COMPONENT}))"
)
_WINDOWS_PATH = (
    r"(?:(?<![\w/\\.-])[A-Za-z]:(?=[\\/])|(?<![\w\\:>])\\\\(?=\w\w)|(?<![\w\\])~(?=\\))[\\/]*"
    r"(?:[^\\/:*?\"<>|\r\n'`]{1,255}\\+|[^\\/:*?\"<>|\s'`]{1,255}/+)*[^\\/:*?\"<>|\s'`]*"
)
_SYSTEM = re.compile(
    r"/(?:(?:proc|sys/(?:class|module|kernel|bus)|lib(?:32|64)?|s?bin|usr/(?:lib(?:32|64)?|s?bin"
    r"|include|local/(?:cuda[\w.-]*|lib|bin)))/|dev/(?:nvidia|dri|kfd|null|zero))"
)
_LIBRARIES = ("site-packages", "dist-packages")
_HOME_PARENTS = ("home", "homes", "users", "user")
_PUNCTUATION = ".,:;)]}"

_SOFTWARE = re.compile(
    r"(?i)\w*version|ver|release|\w*cudnn\w*|cuda\w*|cublas\w*|cufft|curand|nvcc|cusolver|cusparse\w*|"
    r"nvidia[_-][\w-]+|[\w-]+[_-]cu\d\d|nccl|nvrtc|nvjitlink|driver|torch\w*|triton|rocm|hip|"
    r"miopen|onednn|mkl|tensorrt|openssl|linux|kernel|wheel|\w*cudnn_\w+"
)
_BEFORE_A_VERSION = ("is", "runtime", "compiled", "and", "or", "to")
VERSION_KEY = re.compile(r"(?i)version|cudnn|cuda|wheel|release|nccl|rocm|hip|nvidia|cu\d\d$")
VERSION = re.compile(r"\d+(?:\.\d+){1,4}(?:[.+-]\w{1,20})?")
_NOBODYS_ADDRESS = ("127.0.0.1", "0.0.0.0", "255.255.255.255")
_ROUTED = re.compile(r"(?i)[23][0-9a-f]{3}|f[cdef][0-9a-f]{2}|64:ff9b|::ffff:\d")

# fmt: off
_COMMON_NAMES = frozenset((
    "accelerate", "admin", "administrator", "backward", "breakdown", "build", "ci", "container",
    "cpu", "cuda", "cudnn", "data", "default", "dev", "docker", "driver", "ec2-user", "gpu",
    "guest", "home", "host", "image", "jovyan", "language", "local", "localdomain", "localhost",
    "main", "master", "model", "models", "nobody", "node", "none", "numpy", "onednn",
    "processor", "profile", "qwen", "qwenprof", "report", "root", "runner", "safetensors",
    "server", "system", "tensor", "test", "text", "tmp", "tokenizers", "torchvision", "trace",
    "train", "transfer", "triton", "ubuntu", "user", "username", "users", "vagrant", "video",
    "vision", "work", "worker",
))
# fmt: on
_HARMLESS = _COMMON_NAMES | {"", "null", "true", "false", "yes", "no", "unknown", "not measured"}
_NO_HOST = re.compile(
    r"(?i)v?\d[\w.]*|[0-9a-f]{7,40}|main|master|head|latest|dev|nightly|stable|plt|glibc\w*|file|"
    r"path|dir|folder|directory|model|cwd|\w*error|warning|x86-64|threading\.local|"
    r".*\.(?:py|so|json|md|txt|log|toml|ya?ml|sh|cpp|cu|h|png|html)|"
    r"(?:[\w-]+\.)?(?:github|gitlab|huggingface|pytorch|pypi)\.(?:com|org|co)"
)
_TOKEN_KEY = re.compile(r"(?i)token(?:[_-]id)?$")
_TOKEN_COUNT = re.compile(r"[\d.,]{1,15}(?:[mun]?s|%|x|k)?|<[^<>]{1,40}>|[(\[{]*|\[[A-Z]{2,8}\d*\]")

KEYS = (
    ("secret", re.compile(_SECRET)),
    ("host", re.compile(r"(?i)\w*(?:host_?name|node_?name|node_?list|master_addr)|host|fqdn")),
    ("user", re.compile(r"(?i)user|\w*user_?name|log_?name|e?mail")),
    ("serial", re.compile(r"(?i)\w*(?:serial(?:_?(?:number|no))?|asset_?tag|board_?id)")),
    ("uuid", re.compile(r"(?i)(?:\w*_)?(?:uuid|guid|machine_?id)")),
    ("mac", re.compile(r"(?i)(?:\w*_)?mac(?:_?addr(?:ess)?)?")),
    ("ip", re.compile(r"(?i)(?:\w*_)?ip(?:_?addr(?:ess)?)?")),
)


# What stands in the place of a match, where that depends on it.


def _assigned(match: Match) -> str:
    """A secret's name with its value gone; the quotes around it stay."""
    value = match["value"]
    bare = value.lstrip("\\\"'`")
    quote = value[: len(value) - len(bare)][:4] if value[:4].strip("\\")[:1] in "\"'`" else ""
    if _is_harmless("secret", match["name"], bare.rstrip("\\\"'`,;)]}")):
        return match[0]
    return f"{match['name']}{match['is']}{quote}<secret>{quote}"


def short_path(path: str) -> str:
    """What a maintainer needs of a path: from site-packages on, else its last component."""
    is_windows = path[1:2] == ":" or "\\" in path[:2]
    parts = [part for part in re.split(r"[\\/]+" if is_windows else "/+", path) if part]
    library = [i for i, part in enumerate(parts) if part in _LIBRARIES and ".." not in parts]
    if not parts or (_SYSTEM.match(path) and not library and ".." not in parts):
        return path
    if parts == ["root"]:
        return "<home>"
    if len(parts) > 1 and parts[-2].lower() in _HOME_PARENTS:
        return "<home>" + parts[-1][len(parts[-1].rstrip(_PUNCTUATION)) :]
    separator = "\\" if is_windows and "\\" in path else "/"
    return separator.join(["<path>", *parts[library[-1] if library else -1 :]])


def _path(match: Match) -> str:
    return short_path(match[0])


def _quoted_path(match: Match) -> str:
    """A whole path in quotes, which may hold spaces; two paths in one pair are left to `_path`."""
    path = match[0]
    several = " /" in path or len(re.findall(r"[\\/]+", path)) < 2
    return path if several else short_path(path)


def _windows_path(match: Match) -> str:
    parts = [part for part in re.split(r"[\\/]+", match[0]) if part]
    least = 2 if match[0].startswith("\\\\") else 3
    return match[0] if len(parts) < least else short_path(match[0])


def _ipv4(match: Match) -> str:
    """An address, unless what stands before it says that it is a version."""
    is_address = all(int(part) < 256 for part in match[0].split("."))
    before = match.string[max(0, match.start() - 96) : match.start()]
    if not is_address or match[0] in _NOBODYS_ADDRESS or _names_software(before):
        return match[0]
    return "<ip>"


def _names_software(before: str) -> bool:
    """Whether text ends in the name of software, or in that and versions of it: "cuDNN 9.8, "."""
    for _ in range(8):
        bare = before.rstrip(" \t:=<>~!(,\"'[/|-")
        gap, word = before[len(bare) :], (bare.split() or [""])[-1].lstrip("(\"'[")
        if gap in ("==", ">=", "<=", "~=", "!=") or _SOFTWARE.fullmatch(word):
            return bool(word)
        is_listed = VERSION.fullmatch(word) and gap.strip() in ("", ",", "/")
        if word.lower() not in _BEFORE_A_VERSION and not is_listed:
            return False
        before = bare[: len(bare) - len(word)]
    return False


def _ipv6(match: Match) -> str:
    """An address, and not the names in `c10::add` or the slice `1::2`."""
    bare = match[0].partition("%")[0]
    address = bare if bare.endswith("::") else bare.rstrip(":")
    with suppress(ValueError):
        groups = ipaddress.IPv6Address(address if len(address) < 46 else "").exploded
        if address.strip(":").count(":") > 2 or (groups and _ROUTED.match(address)):
            return "<ip>" + bare[len(address) :]
    return match[0]


def _user_at_host(match: Match) -> str:
    """`alice@gpu-17`, but not `git@github.com`, `pkg@1.2` or `query@key`."""
    user, host = match["user"], match["host"].rstrip(".-")
    is_field = {user.lower(), host.lower().partition(".")[0]} <= words_of_the_field()
    if is_field or min(len(user), len(host)) < 2 or _NO_HOST.fullmatch(host):
        return match[0]
    mark = host if host in ("<ip>", "<host>") else "<host>"
    return f"<user>@{mark}{match['host'][len(host) :]}"


def _host(match: Match) -> str:
    """The host after or before what announces one, unless it is made of words of the field."""
    host = match["host"].rstrip(_PUNCTUATION)
    is_field = set(host.lower().split(".")) <= words_of_the_field() | _HARMLESS
    if is_field or len(host) < 2 or _NO_HOST.fullmatch(host):
        return match[0]
    start = match.start("host") - match.start()
    return f"{match[0][:start]}<host>{match[0][start + len(host) :]}"


def _user(match: Match) -> str:
    return match[0] if match["user"].lower() in _HARMLESS else f"{match['before']}<user>"


# fmt: off
TABLE = tuple(Rule(kind, re.compile(pattern), replacement) for kind, pattern, replacement in (
    ("secret", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?s:.*?)"
               r"(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])hf_(?:(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{10,}|[A-Za-z0-9]{16,})",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,})", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:sk-[\w-]{16,}|[rs]k_(?:live|test)_\w{10,})", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{12,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:AIza[\w-]{20,}|ya29\.[\w-]{16,}|GOCSPX-[\w-]{10,})",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:xox[a-z]|xapp)-[\w-]{8,}", "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])(?:glpat-[\w-]{16,}|npm_[A-Za-z0-9]{20,}|pypi-\w{16,}[\w-]*)",
     "<secret>"),
    ("secret", r"(?<![A-Za-z0-9])eyJ[\w-]{10,}(?:\.[\w-]+)*", "<secret>"),
    ("secret", r"ssh-(?:rsa|dss|ed25519)\s{1,4}AAAA[\w+/=]+", "<secret>"),
    ("secret", r"(?<=hooks\.slack\.com/services/)[\w/]+", "<secret>"),
    ("secret", rf"((?i:authorization){_IS}{_Q}(?:{_SCHEME}\s{{1,4}})?)"
               rf"(?!<secret>|{_SCHEME}\b)[^\s\"'`\\]+", r"\1<secret>"),
    ("secret", r"(?i)\b(bearer\s{1,4}[\"']?)[\w.~+/=-]{6,}", r"\1<secret>"),
    ("secret", r"(?<=://)(?!git@)[^\s/\"'`]+@", "<secret>@"),
    ("secret", r"(?<![^\s\"'])(-u|--user)([ =])(?!<secret>)[^\s:]+:\S+", r"\1\2<secret>"),
    ("secret", rf"(?i)(?<=[?&;])([\w-]{{0,40}}{_IN_QUERY}[\w-]{{0,20}}=)"
               r"(?!<secret>)[^&#\s\"'`<>]+", r"\1<secret>"),
    ("secret", rf"(?<![\w.-])(?P<name>{_SECRET})(?P<is>{_IS}){_VALUE}", _assigned),
    ("secret", rf"(?<![\w.-])(?P<name>-{_SECRET})(?P<is>\s{{1,4}})(?!-){_VALUE}", _assigned),
    ("secret", r"(?<![\w.-])(key[\"']?\s{0,2}[=:]\s{0,2}[\"']?)(?=[A-Za-z_-]{0,64}\d)[\w-]{20,}"
               r"(?![\w./])", r"\1<secret>"),
    ("uuid", r"(?:\b(?:GPU|MIG)-(?:GPU-)?)?(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}"
             rf"(?:-{_HEX4}){{3}}-[0-9A-Fa-f]{{12}}(?![0-9A-Fa-f])(?:/\d+/\d+)?", "<uuid>"),
    ("uuid", r"\b(?:GPU|MIG)-[0-9A-Fa-f]{8}(?![0-9A-Za-z])[0-9A-Fa-f-]*", "<uuid>"),
    ("uuid", rf"(?i)\b((?:uuid|guid|machine[ _-]?id){_IS}{_Q})(?:0x)?[0-9a-f][0-9a-f:-]{{7,}}",
     r"\1<uuid>"),
    ("mac", r"(?<![0-9A-Fa-f:-])[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5,19}|(?:-[0-9A-Fa-f]{2}){5})"
            r"(?![0-9A-Fa-f:-])", "<mac>"),
    ("mac", rf"(?<![\w.])(?=[\d.]{{0,14}}[A-Fa-f]){_HEX4}\.{_HEX4}\.{_HEX4}(?![\w.])", "<mac>"),
    ("ip", r"(?<![\w:.-])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]*:)[0-9A-Fa-f:]+(?:\.\d{1,3}){0,3}"
           r"(?![\w:])(?:%\w+)?", _ipv6),
    ("ip", r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w+]|\.\d|[-_~][A-Za-z])", _ipv4),
    ("serial", r"(?i)(?<![a-z0-9])((?:serial(?:[ _-]?(?:number|num|no\.?))?|s/n|asset[ _-]?tag|"
               rf"board[ _-]?id){_IS}{_Q}){_SERIAL}", r"\1<serial>"),
    ("serial", rf"(?i)(?<![a-z0-9])((?:serial (?:number|no\.?)|s/n)\s{{1,4}}){_SERIAL}",
     r"\1<serial>"),
    ("user", r"(?<![\w.+/@-])(?P<user>[A-Za-z_][\w.+-]*)@"
             r"(?P<host><ip>|<host>|[A-Za-z0-9][\w.-]*)(?![\w@/(])", _user_at_host),
    ("user", r"(?<![\w.-])(?P<before>(?:--)?(?:USER|LOGNAME|USERNAME|username|logname|logged in as|"
             r"user(?==|[\"']:\s?[\"']))"
             rf"{_IS}{_Q})(?P<user>[A-Za-z_][\w.-]*)", _user),
    ("host", r"(?<![\w.-])(?:ssh|scp|sftp|mosh)(?:\s{1,4}-\w+(?:\s{1,4}\d+)?){0,8}\s{1,4}"
             rf"{_NO_SSH_HOST}(?P<host>[A-Za-z][\w.-]*)", _host),
    ("host", r"(?i)(?<![\w-])[\w-]*?(?:host_?name|node_?name|computer_?name|node_?list|master_addr)"
             rf"{_IS}{_Q}(?P<host>[a-z0-9][\w.\[\],-]*)", _host),
    ("host", rf"(?<![\w-])(?:--host[ =]|(?:host|HOST){_Q}=){_Q}(?P<host>[A-Za-z][\w.-]*)", _host),
    ("host", r"(?<=[\"'])(?:host|HOST)[\"']:\s?[\"'](?P<host>[A-Za-z][\w.-]*)", _host),
    ("host", rf"(?<![\w-])(?:host|HOST){_Q}:\s?{_Q}(?P<host>[A-Za-z]+[0-9.-][\w.-]*)", _host),
    ("host", r"(?i)\b(?:host|hostname|node|server|machine|worker)\s{1,2}[\"'`]?"
             rf"(?P<host>{_FQDN}|{_NUMBERED})(?![\w-]|\.\w)", _host),
    ("host", r"(?i)(?<=://|t>@)(?P<host>[a-z0-9-]+)(?=[:/?#\s\"'`]|$)", _host),
    ("host", r"(?i)(?<![\w.-])(?P<host>[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\."
             rf"{_INTERNAL})", _host),
    ("host", r"\bip(?:-\d{1,3}){4}(?:\.[A-Za-z0-9-]+)*", "<host>"),
    ("host", r"(?<![\w./~$>-])(?P<host>[A-Za-z][\w.-]+):(?=/[^/\s])", _host),
    ("path", r"(?<=[\"'`])(?:[A-Za-z]:(?=\\)|~(?=[\\/])|(?=/))[^\"'`\n<>]+(?=[\"'`])",
     _quoted_path),
    ("path", _WINDOWS_PATH, _windows_path),
    ("path", _PATH, _path),
))
# fmt: on


@cache
def words_of_the_field() -> frozenset[str]:
    """Every word of the published record: a name that is one of them betrays nobody."""
    text = msgspec.json.encode(writeup()).decode().lower()
    return _COMMON_NAMES.union(re.findall(r"[a-z]\w+", text), re.findall("[a-z][a-z0-9]+", text))


def kind_of(key: str, value: str) -> str | None:
    """The kind of private thing that a key announces, None where its value is none."""
    kind = next((kind for kind, pattern in KEYS if pattern.fullmatch(key)), None)
    return None if kind is None or _is_harmless(kind, key, value) else kind


def _is_harmless(kind: str, key: str, value: str) -> bool:
    """Whether a value tells nothing: a yes or no, a count of tokens, a name of everybody's."""
    if kind == "secret":
        is_token = _TOKEN_KEY.search(key) and _TOKEN_COUNT.fullmatch(value)
        return bool(is_token) or value.lower() in ("", "none", "null", "true", "false")
    return value.lower() in _HARMLESS | words_of_the_field()
