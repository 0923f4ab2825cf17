"""What may be secret, made `***`. Floor 7.

By the name that a value stands under (`token`, `api_key`), by its shape (`ghp_…`, `user:pass@` in a URL), or because an
environment variable with such a name holds it. In doubt text is masked: it is kept to be read, not to be run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from replicate import config

MASK = "***"
_KEYS = "api|access|private|account|signing|encryption|auth"
_SECRET_WORDS = rf"(?:token|passphrase|secret|(?:{_KEYS})_?key|credentials?)"
_SECRET = re.compile(rf"(?:(?:^|[^a-z]){_SECRET_WORDS}|password|passwd)(?:$|[^a-z])", re.IGNORECASE)
_COUNTED = re.compile(r"(?:max|min|num|n|new|total)[_-]?tokens?$|tokens?[_-](?:id|count|length|limit)$", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_HINT = re.compile(r"token|passw|passphrase|secret|key|credential", re.IGNORECASE)

# Every count below has a bound: a line of a megabyte must not take a minute.
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_[A-Za-z0-9_]{20,255}|gl(?:pat|dt|rt)-[\w-]{16,255}"  # GitHub, GitLab
    r"|hf_[A-Za-z0-9]{20,255}|r8_[A-Za-z0-9]{30,255}|npm_[A-Za-z0-9]{30,255}|pypi-[\w-]{40,255}"
    r"|sk-(?=[\w-]{0,80}\d)[\w-]{20,255}|[sr]k_(?:live|test)_[A-Za-z0-9]{10,255}"  # OpenAI, Anthropic; Stripe
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}|AIza[\w-]{35}|ya29\.[\w-]{20,500}"  # Slack, Google
    r"|eyJ[\w-]{8,4000}\.eyJ[\w-]{8,4000}(?:\.[\w-]{0,4000})?"  # JSON web tokens
    r")"
)
_BEARER = re.compile(r"(?i:\b(bearer|basic)[ \t]{1,4})(?=[A-Za-z._~+/=-]{0,80}\d)[A-Za-z0-9._~+/=-]{12,4000}")
_HOOK = re.compile(r"(hooks\.slack\.com/services/)[\w/]{8,200}")
_SIGNED = re.compile(
    r"([?&](?:X-(?:Amz|Goog)-)?(?:sig|signature|credential|security-token)=)[^&\s'\"]{1,4000}", re.IGNORECASE
)
_SCHEME = r"(?<![A-Za-z0-9])(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]{1,30}://)"
_WITH_PASSWORD = re.compile(
    rf"""{_SCHEME}(?:[^\s/?#'"<>:@]{{0,500}}:[^\s/?#'"<>]{{0,500}}"""  # a password may hold an @
    r"""|[^\s/?#'"<>:@]{1,500}:(?!\d{1,5}(?:/|$))[^\s'"<>@]{0,500})@"""  # or even a slash, but a port is none
)
_WITH_USER = re.compile(r"""(?P<scheme>(?i:https?)://)[^\s/?#'"<>:@]{1,500}@""")
_OPTION = re.compile(
    r"""(?<!\w)(?P<name>-{2,3}[A-Za-z][\w.-]{0,80})(?P<between>[ =])(?P<value>"[^"\n]*"|'[^'\n]*'|\S+)"""
)
_NAME = r"""(?<![\w.])(?=[\w.\-]{0,80}(?i:token|pass|secret|key|credential))(?P<name>[A-Za-z_][\w.\-]{0,80})"""
_QUOTED = (
    r"""(?:"{3}[^\n]*?"{3}|'{3}[^\n]*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|"[^"\n]*"|'[^'\n]*'"""
    r"""|\\{1,7}"[^"\n]*"|\\{1,7}'[^'\n]*')"""  # code in JSON, as in a notebook: \"…\"
)
_VALUE = rf"""(?P<value>[rbfuRBFU]{{0,2}}{_QUOTED}|[^\s,;&|"'<>(){{}}\[\]]+)(?P<after>[(\[]?)"""
_STRICT_NAME = re.compile(rf"""{_NAME}(?P<between>=|\\{{0,7}}["']\s{{0,8}}:\s{{0,8}})""")
_STRICT = re.compile(_STRICT_NAME.pattern + _VALUE)
_LOOSE_NAME = re.compile(
    rf"""{_NAME}(?P<between>(?:\\{{0,7}}["'])?\]?[ \t]{{0,16}}"""
    rf"""(?::[ \t]{{0,8}}[\w.\[\]| ]{{1,60}}=|=>|:=|[:=])[ \t]{{0,16}})"""
)
_LOOSE = re.compile(_LOOSE_NAME.pattern + _VALUE)
_CODE = re.compile(
    r"(?:None|True|False|null|true|false|str|int|bytes|float|bool|Any|object|Optional|Union|\d{1,3}"
    r"|(?:self|cls|os|sys|args|cfg|config|params|opts|options|settings|tokenizer|torch|np)\.[\w.]*)$"
)
_KEY_BEGIN, _KEY_END = (
    re.compile(rf"-----{word} [^-\n]{{0,40}}PRIVATE KEY[^-\n]{{0,10}}-----") for word in ("BEGIN", "END")
)
_KEY_LINE = re.compile(r"[+\-\s\"',\\n()]*(?:[A-Za-z0-9+/=]*|[\w-]+: .*)[\s\"',\\n()]*$")


def is_secret_name(name: str) -> bool:
    """Tell whether a param, argument or variable of this name usually holds a secret."""
    return _SECRET.search(_CAMEL.sub("_", name).replace("-", "_")) is not None


def mask(values: Any) -> Any:
    """Return values with everything under a name that usually holds a secret masked; texts as by `mask_value`."""
    return _mask(values, _known())


def _mask(values: Any, known: Sequence[str]) -> Any:
    if isinstance(values, dict):
        return {key: MASK if _holds_secret(key, value) else _mask(value, known) for key, value in values.items()}
    if isinstance(values, list):
        return [_mask(value, known) for value in values]
    return _mask_value(values, known) if isinstance(values, str) else values


def _holds_secret(name: str, value: Any) -> bool:
    """Tell whether a value is masked: `max_token=5` counts tokens, `token="5"` is one."""
    if not is_secret_name(name) or value in (None, "", True, False):
        return False
    return not (isinstance(value, int | float) and _COUNTED.search(name) is not None)


def mask_arguments(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with the values of options with secret names masked; others as by `mask_value`."""
    known = _known()
    masked: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next and not argument.startswith("--"):
            masked.append(MASK)
            hide_next = False
        elif equals and is_secret_name(name):
            masked.append(f"{name}={MASK}")
            hide_next = False
        else:
            masked.append(_mask_value(argument, known))
            hide_next = argument.startswith("-") and not equals and is_secret_name(argument)
    return masked


def mask_value(text: str) -> str:
    """Return a param, an argument or an address without what is surely secret.

    That is: what looks like a well-known token or a private key, user and password in URLs, `password=…`,
    `"password": "…"`, `--password …`, and the value of an environment variable whose name means a secret.
    """
    return _mask_value(text, _known())


def _mask_value(text: str, known: Sequence[str]) -> str:
    text = _mask_shapes(text, known)
    if _HINT.search(text):
        text = _mask_names(_STRICT_NAME, _STRICT, _mask_options(text))
    return text


def mask_text(text: str) -> str:
    """Return a message, code or configuration without what may be secret, line by line; the lines stay as many.

    Beyond what `mask_value` finds: every `password = …` or `password: …`, quoted or not.
    """
    lines = _mask_shapes(text, _known()).split("\n")
    for number, line in enumerate(lines):
        if _HINT.search(line):
            lines[number] = _mask_names(_LOOSE_NAME, _LOOSE, _mask_options(line))
    return "\n".join(lines)


def _known() -> list[str]:
    return config.secret_values(is_secret_name)


def _mask_shapes(text: str, known: Sequence[str]) -> str:
    text = _mask_private_keys(text)
    for value in known:
        text = text.replace(value, MASK)
    if "://" in text:
        text = _WITH_PASSWORD.sub(rf"\g<scheme>{MASK}@", text)
        text = _WITH_USER.sub(rf"\g<scheme>{MASK}@", text)
        text = _SIGNED.sub(rf"\g<1>{MASK}", text)
        text = _HOOK.sub(rf"\g<1>{MASK}", text)
    return _BEARER.sub(rf"\g<1> {MASK}", _SHAPES.sub(MASK, text))


def _mask_options(text: str) -> str:
    """Mask the values of options with secret names; under another name, what the value itself names."""

    def masked(match: re.Match[str]) -> str:
        if is_secret_name(match["name"]):
            return _mask_assigned(match)
        return match["name"] + _mask_names(_LOOSE_NAME, _LOOSE, match["between"] + match["value"])

    return _OPTION.sub(masked, text)


def _mask_names(name: re.Pattern[str], whole: re.Pattern[str], text: str) -> str:
    """Mask what stands under secret names. Values of other names are not matched: each may be as long as the text."""
    parts: list[str] = []
    at = copied = 0
    while found := name.search(text, at):
        if not is_secret_name(found["name"]):
            at = found.end("name")
            continue
        match = whole.match(text, found.start())
        at = match.end() if match else found.start() + 1
        if match:
            parts += [text[copied : match.start()], _mask_assigned(match)]
            copied = at
    return "".join(parts) + text[copied:]


def _mask_assigned(match: re.Match[str]) -> str:
    """Return `name = value` with the value masked, unless it is none: a call, a type, None, a small number."""
    name, between, value = match["name"], match["between"], match["value"]
    after = match.groupdict().get("after") or ""
    if after or _CODE.match(value):
        return match[0]
    body = value.lstrip("rbfuRBFU")
    if body[:1] in ("'", '"') and body[-1:] == body[:1]:
        return match[0] if len(body) == 2 else f"{name}{between}{body[0]}{MASK}{body[0]}"
    return f"{name}{between}{MASK}"


def _mask_private_keys(text: str) -> str:
    """Mask what lies between the marks of private keys; where an end mark is missing, what looks like a key."""
    if "PRIVATE KEY" not in text:
        return text
    lines = text.split("\n")
    inside = False
    for number, line in enumerate(lines):
        begin, end = _KEY_BEGIN.search(line), _KEY_END.search(line)
        if begin and end and begin.end() <= end.start():
            lines[number] = line[: begin.end()] + MASK + line[end.start() :]
        elif begin:
            rest = line[begin.end() :].strip("\"',\\n() ")
            lines[number] = line[: begin.end()] + (MASK if rest else line[begin.end() :])
            inside = True
        elif inside and (end or not _KEY_LINE.match(line)):
            inside = False
        elif inside and line.strip("+- \t"):
            lines[number] = (line[0] if line[0] in "+- " else "") + MASK
    return "\n".join(lines)
