r"""What a ticket must not tell: who ran it, on which machine, with which keys.

Each rule of the table is a kind, a pattern and what stands in its place; one more is one line.
The marks are `<path>`, `<home>`, `<host>`, `<ip>`, `<mac>`, `<uuid>`, `<serial>`, `<user>` and
`<secret>`. Numbers stay as they are, and so does what a maintainer needs: module paths, operators,
commits, links, hub ids, and of a file in a library the part from site-packages on.

Decisions where two readings are possible:
- Of a local path the last component stays; of a system path (/proc, /usr/lib, /dev/nvidia0) all.
  The name of a folder below /home or /Users may hold blanks where a / follows it ("/home/Jane
  Doe/x"), but no word such as "and": "/home/jane and a/b" is two paths.
- The host's own name goes wherever it stands; so does the user's where it has four letters or more,
  else in a path and before an @. Names that are also devices or English words ("grace", "mark")
  go in a path and before an @ only; words of the field ("vision", "runner", "ubuntu") are no names:
  they go only where a path, an @ or a key shows what they are.
- A host of another domain goes before a port, behind "connect to" and the like, and wherever three
  names end in a domain that no module path ends in (com, edu, uk). Sites that are open to all stay
  (github.com, pytorch.org), and so does the host of a link without a port.
- What is an address and what a version is told in `addresses`, what a secret in `credentials`.

Every pattern takes time linear in the text: what repeats without a bound begins where no other
attempt begins, or cannot fail any more.
"""

from __future__ import annotations

import re
from functools import cache

import msgspec

from qwenprof.record.published import writeup
from qwenprof.report.addresses import IPV4, IPV6, ipv4, ipv6
from qwenprof.report.credentials import SECRET_NAME, SECRETS, is_no_secret
from qwenprof.report.rule import IS, IS_OR_BLANK, QUOTE, Match, table

# What the patterns of the table are made of.

_HEX4 = r"[0-9A-Fa-f]{4}"
_SERIAL = r"(?=[A-Za-z_-]{0,32}\d)[A-Za-z0-9][\w-]{4,}(?!\w|\.\d)"
_LABELS = r"[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\."
_FQDN = rf"{_LABELS}[A-Za-z]{{2,}}"
_COUNTRIES = (
    "ae|ar|at|au|be|br|ca|ch|cl|cn|co|cz|de|dk|es|eu|fi|fr|gr|hk|hu|ie|il|in|it|jp|kr|lt|lu|mx|my|"
    "nl|no|nz|pt|ro|ru|se|sg|si|sk|th|tr|tw|ua|uk|us|vn|za"
)
_SITE = (
    rf"{_LABELS}(?i:com|org|net|edu|gov|mil|info|io|ai|dev|cloud|tech|xyz|{_COUNTRIES})"
    r"(?![\w(-]|\.\w)"
)
_SURE_SITE = (
    rf"{_LABELS}(?:[A-Za-z0-9-]+\.(?i:com|org|edu|gov|mil|au|cn|cz|de|dk|eu|fr|gr|jp|kr|nl|ru|tw"
    r"|uk)|(?i:ac|edu|gov)\.[A-Za-z]{2})(?![\w(-]|\.\w)"
)
_CONNECTING = (
    r"(?i:connect(?:ed|ing|ions?)?|resolv(?:e|ing)|reach(?:ed|ing)?|contact(?:ing)?|ping(?:ing)?)"
    r"\s{1,2}(?:(?:to|from|with|host|at)\s{1,2})?[\"'`\[]?"
)
_NUMBERED = r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*-[A-Za-z]*\d+"
_NO_SSH_HOST = r"(?!(?:keys?|agent|into|to|from|and|or|is|port|session|connection|config|access)\b)"
_INTERNAL = r"(?:internal|lan|corp|intranet|localdomain|local)(?![\w.(-])"

# A path starts after what cannot belong to it, or is glued to an option as in -I/opt/x; the two
# slashes of a link are no start. A component ends at white space, quotes and the next path.
_START = r"(?:(?<![\w.~)\]}%*#?/\\])|(?<=[\s\"'=]-[A-Za-z])|(?<=^-[A-Za-z]))(?!(?<=:)//[^/])"
_COMPONENT = r"(?:[^\s/\\\"'`<>|:,;=]|[:,;=](?![/\s]|\Z)|\\[ ()])+"
_PROSE = (
    r"(?:and|or|but|to|into|in|is|are|was|were|on|at|by|for|from|with|of|as|has|had|not|no|than|"
    r"then|the|a)\b"
)
_BLANK = rf"(?<![.)]) (?!{_PROSE})"
_IN_HOME = rf"(?:(?<=/home/)|(?<=/Users/)){_COMPONENT}(?:{_BLANK}{_COMPONENT}){{1,3}}(?=/)"
_PATH = (
    rf"{_START}(?:(?:<path>|<home>|~|\$HOME|\$\{{HOME\}}|\.\.?)?"
    rf"(?:/+(?:{_IN_HOME}|{_COMPONENT})){{2,}}"
    rf"|~[A-Za-z_][\w.-]*(?:/+{_COMPONENT})+|/root(?![\w-]|\.\w|/+{_COMPONENT}))"
)
_WINDOWS_PART = r"[^\\/:*?\"<>|\s'`]{1,255}"
_WINDOWS_PATH = (
    r"(?:(?<![\w/\\.-])[A-Za-z]:(?=[\\/])|(?<![\w\\:>])\\\\(?=\w\w)|(?<![\w\\])~(?=\\))[\\/]*"
    rf"(?:[^\\/:*?\"<>|\r\n'`]{{1,255}}\\+|{_WINDOWS_PART}/+"
    rf"|(?<=Users/){_WINDOWS_PART}(?:{_BLANK}{_WINDOWS_PART}){{1,3}}/+)*[^\\/:*?\"<>|\s'`]*"
)
_SYSTEM = re.compile(
    r"/(?:(?:proc|sys/(?:class|module|kernel|bus)|lib(?:32|64)?|s?bin|usr/(?:lib(?:32|64)?|s?bin"
    r"|include|local/(?:cuda[\w.-]*|lib|bin)))/|dev/(?:nvidia|dri|kfd|null|zero))"
)
_LIBRARIES = ("site-packages", "dist-packages")
_HOME_PARENTS = ("home", "homes", "users", "user")
_PUNCTUATION = ".,:;)]}"

# fmt: off
_COMMON_NAMES = frozenset((
    "accelerate", "admin", "administrator", "azureuser", "backward", "breakdown", "build",
    "centos", "ci", "cluster", "codespace", "colab", "conda", "container", "cpu", "cuda", "cudnn",
    "data", "debian", "default", "deploy", "dev", "developer", "docker", "driver", "ec2-user",
    "fedora", "github", "gitlab", "gpu", "guest", "home", "host", "image", "infra", "ip",
    "jenkins", "jovyan", "jupyter", "kaggle", "language", "local", "localdomain", "localhost",
    "mac", "main", "master", "model", "models", "nobody", "node", "none", "numpy", "onednn",
    "path", "processor", "profile", "public", "qwen", "qwenprof", "report", "research", "rocky",
    "root", "runner", "safetensors", "scratch", "secret", "serial", "server", "service", "shared",
    "slurm", "staff", "student", "system", "team", "tensor", "test", "text", "tmp", "tokenizers",
    "torchvision", "trace", "train", "transfer", "triton", "ubuntu", "user", "username", "users",
    "uuid", "vagrant", "video", "vision", "vscode", "work", "worker",
))
# Names of people that a report may hold as words, of devices and of English.
ORDINARY_WORDS = frozenset((
    "ampere", "bench", "bill", "blackwell", "case", "chance", "dean", "flash", "float", "frank",
    "gene", "geforce", "grace", "grant", "graph", "hope", "hopper", "intel", "jack", "kepler",
    "kernel", "lovelace", "mamba", "mark", "miles", "nvidia", "page", "pascal", "perf", "price",
    "python", "pytorch", "quadro", "radeon", "rich", "rubin", "stage", "tesla", "torch", "turing",
    "volta", "will", "xeon",
))
# fmt: on
_HARMLESS = _COMMON_NAMES | {"", "null", "true", "false", "yes", "no", "unknown", "not measured"}
_NO_HOST = re.compile(
    r"(?i)v?\d[\w.]*|[0-9a-f]{7,40}|main|master|head|latest|dev|nightly|stable|plt|glibc\w*|file|"
    r"path|dir|folder|directory|model|cwd|\w*error|warning|x86-64|threading\.local|"
    r".*\.(?:py|so|json|md|txt|log|toml|ya?ml|sh|cpp|cu|h|png|html)|"
    r"(?:[\w-]+\.)?(?:github|gitlab|huggingface|pytorch|pypi)\.(?:com|org|co)"
)
_MODULE = re.compile(
    r"(?:torch|torchvision|transformers|triton|numpy|scipy|qwenprof|concurrent|importlib|self|model"
    r"|visual|blocks|layers?|nn|aten|c10|at)\."
)
_PUBLIC_SITE = re.compile(
    r"(?i)(?:[\w-]+\.){0,2}(?:(?:github|githubusercontent|gitlab|stackoverflow|qwenlm)\.com|"
    r"(?:pytorch|python|pypi|pythonhosted|arxiv|kernel|debian|apache|anaconda|gnu|llvm|numpy|"
    r"opencv|openreview|wikipedia|w3)\.org|huggingface\.co|hf\.co|modelscope\.cn|wandb\.ai|"
    r"(?:readthedocs|github|docker|conda|quay|ghcr|nvcr)\.io)|"
    r"(?:(?:www|docs?|developer|developers|download|forums|blog|catalog\.ngc|ngc|learn|archive|api|"
    r"storage)\.)?(?:nvidia|amd|intel|microsoft|google|googleapis|ubuntu|docker|anaconda|amazonaws)"
    r"\.com"
)

KEYS = (
    ("secret", re.compile(SECRET_NAME)),
    ("host", re.compile(r"(?i)\w*(?:host_?name|node_?name|node_?list|master_addr)|host|fqdn")),
    ("user", re.compile(r"(?i)user|\w*user_?name|log_?name|e?mail")),
    ("serial", re.compile(r"(?i)\w*(?:serial(?:_?(?:number|no))?|asset_?tag|board_?id)")),
    ("uuid", re.compile(r"(?i)(?:\w*_)?(?:uuid|guid|(?:machine|boot)[ _-]?id)")),
    ("mac", re.compile(r"(?i)(?:\w*_)?(?:mac(?:_?addr(?:ess)?)?|hwaddr|ether|lladdr)")),
    ("ip", re.compile(r"(?i)(?:\w*_)?ip(?:_?addr(?:ess)?)?")),
)


# What stands in the place of a match, where that depends on it.


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


def _user_at_host(match: Match) -> str:
    """`alice@gpu-17`, but not `git@github.com`, `pkg@1.2` or `query@key`."""
    user, host = match["user"], match["host"].rstrip(".-")
    is_field = {user.lower(), host.lower().partition(".")[0]} <= words_of_the_field()
    is_mail = user != "git" and _PUBLIC_SITE.fullmatch(host)
    is_none = is_field or (_NO_HOST.fullmatch(host) and not is_mail)
    if is_none or min(len(user), len(host)) < 2:
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


def _site(match: Match) -> str:
    """A host of another domain, but no site that is open to all and no module as torch.utils.io."""
    host = match["host"]
    is_known = _MODULE.match(host) or _PUBLIC_SITE.fullmatch(host)
    return match[0] if is_known else _host(match)


def _user(match: Match) -> str:
    return match[0] if match["user"].lower() in _HARMLESS else f"{match['before']}<user>"


# fmt: off
TABLE = SECRETS + table((
    ("uuid", r"(?:\b(?:GPU|MIG)-(?:GPU-)?)?(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}"
             rf"(?:-{_HEX4}){{3}}-[0-9A-Fa-f]{{12}}(?![0-9A-Fa-f])(?:/\d+/\d+)?", "<uuid>"),
    ("uuid", r"\b(?:GPU|MIG)-[0-9A-Fa-f]{8}(?![0-9A-Za-z])[0-9A-Fa-f-]*", "<uuid>"),
    ("uuid", rf"(?i)\b((?:uuid|guid|(?:machine|boot)[ _-]?id){IS_OR_BLANK}{QUOTE})"
             r"(?:0x)?[0-9a-f][0-9a-f:-]{7,}(?!\w)", r"\1<uuid>"),
    ("mac", r"(?<![0-9A-Fa-f:-])[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5,19}|(?:-[0-9A-Fa-f]{2}){5})"
            r"(?![0-9A-Fa-f:-])", "<mac>"),
    ("mac", rf"(?<![\w.])(?=[\d.]{{0,14}}[A-Fa-f]){_HEX4}\.{_HEX4}\.{_HEX4}(?![\w.])", "<mac>"),
    ("mac", rf"(?i)\b((?:mac(?:[ _-]?addr(?:ess)?)?|hwaddr|ether|lladdr){IS_OR_BLANK}{QUOTE})"
            r"(?=\d{0,11}[a-f])[0-9a-f]{12}(?!\w)", r"\1<mac>"),
    ("ip", IPV6, ipv6),
    ("ip", IPV4, ipv4),
    ("serial", r"(?i)(?<![a-z0-9])((?:serial(?:[ _-]?(?:number|num|no\.?))?|s/n|asset[ _-]?tag|"
               rf"board[ _-]?id){IS}{QUOTE}){_SERIAL}", r"\1<serial>"),
    ("serial", rf"(?i)(?<![a-z0-9])((?:serial (?:number|no\.?)|s/n)\s{{1,4}}){_SERIAL}",
     r"\1<serial>"),
    ("serial", r"\b([Ss]erial\s{1,4})(?=[A-Z-]{0,16}\d)[A-Z0-9][A-Z0-9-]{6,}(?!\w|\.\d)",
     r"\1<serial>"),
    ("user", r"(?<![\w.+/@-])(?P<user>[A-Za-z_][\w.+-]*)@"
             r"(?P<host><ip>|<host>|[A-Za-z0-9][\w.-]*)(?![\w@/(])", _user_at_host),
    ("user", r"(?<![\w.-])(?P<before>(?:--)?(?:USER|LOGNAME|USERNAME|username|logname|logged in as|"
             r"user(?==|[\"']:\s?[\"']))"
             rf"{IS}{QUOTE})(?P<user>[A-Za-z_][\w.-]*)", _user),
    ("host", r"(?<![\w.-])(?:ssh|scp|sftp|mosh)(?:\s{1,4}-\w+(?:\s{1,4}\d+)?){0,8}\s{1,4}"
             rf"{_NO_SSH_HOST}(?P<host>[A-Za-z][\w.-]*)", _host),
    ("host", r"(?i)(?<![\w-])[\w-]*?(?:host_?name|node_?name|computer_?name|node_?list|master_addr)"
             rf"{IS}{QUOTE}(?P<host>[a-z0-9][\w.\[\],-]*)", _host),
    ("host", rf"(?<![\w-])(?:--host[ =]|(?:host|HOST){QUOTE}=){QUOTE}(?P<host>[A-Za-z][\w.-]*)",
     _host),
    ("host", r"(?<=[\"'])(?:host|HOST)[\"']:\s?[\"'](?P<host>[A-Za-z][\w.-]*)", _host),
    ("host", rf"(?<![\w-])(?:host|HOST){QUOTE}:\s?{QUOTE}(?P<host>[A-Za-z]+[0-9.-][\w.-]*)", _host),
    ("host", r"(?i)\b(?:host|hostname|node|server|machine|worker)\s{1,2}[\"'`]?"
             rf"(?P<host>{_FQDN}|{_NUMBERED})(?![\w-]|\.\w)", _host),
    ("host", rf"\b{_CONNECTING}(?P<host>{_SITE})", _site),
    ("host", rf"(?<![\w.@-])(?P<host>{_SITE})(?=\]?:\d{{2,5}}(?![\w.])|<\d{{2,5}}>)",
     _site),
    ("host", rf"(?<![\w./@-])(?P<host>{_SURE_SITE})", _site),
    ("host", r"(?<=addresses of \()(?P<host>[A-Za-z][\w.-]*)(?=, \d)", _host),
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
        return is_no_secret(key, value)
    return value.lower() in _HARMLESS | words_of_the_field()
