"""Where a project lies and how it is set up: `replicate.yaml`, and the environment. Floor 1.

The only module that reads environment variables. SPEC has no part in this; `README.md` lists the keys.
"""

from __future__ import annotations

import difflib
import getpass
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

from replicate.errors import ConfigError, InvalidInputError, ProjectNotFoundError

CONFIG_NAME = "replicate.yaml"
STORE_NAME = ".replicate"
_STORAGE_KEYS = ("endpoint", "profile", "region", "anonymous")
_KEYS = ("repository", "store", "cache", "durability", "effort", *_STORAGE_KEYS)
_CHOICES = {"durability": ("safe", "fast"), "effort": ("normal", "high")}
_ONE_SLASH = re.compile(r"(s3|gs|gcs|az|abfs|sftp|ssh|file):/?(?!/)")
_CREDENTIALS = re.compile(r"://[^/@\s]*:[^/\s]*@")
_SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d{1,3})?) ?(?P<unit>[KMGT]?B|%)", re.ASCII | re.IGNORECASE)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MODES = ("online", "offline", "disabled")

Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True, slots=True)
class Project:
    """One project: its folder, where its local store lies, and how careful writing is.

    Attributes:
        root: The worktree, an absolute path without links.
        store: The local store's folder, absolute.
        durability: `safe`: a checkpoint survives power loss when the call returns; `fast`: a killed process only.
        effort: `high`: weights are stored a few percent smaller, at half the speed.
        storage: What the transport of the repository is told: `endpoint`, `profile`, `region`, `anonymous`, as text.
        repository: The store that checkpoints are copied to, for everyone: a URL, or the absolute path of a folder; ""
            when that is the local store itself.
        cache: How much of what lies in the repository stays in the local store too, as `cache_bytes` takes it; "": as
            much as is usual.
    """

    root: str
    store: str
    durability: Literal["safe", "fast"] = "safe"
    effort: Literal["normal", "high"] = "normal"
    storage: Mapping[str, str] = field(default_factory=dict, hash=False)
    repository: str = ""
    cache: str = ""


def find_project(start: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> Project | None:
    """Return the project that `start` lies in: the nearest folder with `replicate.yaml` or `.replicate`; or None.

    Raises:
        ConfigError: The file has an unknown key, a wrong value, or is no YAML; says which line.
    """
    folder = os.path.realpath(start)
    if not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    while True:
        config = os.path.join(folder, CONFIG_NAME)
        if os.path.isfile(config):
            return _project(folder, _read_config(config), environment)
        if os.path.isdir(os.path.join(folder, STORE_NAME)):
            return _project(folder, {}, environment)
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def require_project(start: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> Project:
    """Return the project that `start` lies in, or raise `ProjectNotFoundError`."""
    project = find_project(start, environment)
    if project is None:
        raise ProjectNotFoundError(
            f"{os.path.realpath(start)} is not in a project: no {CONFIG_NAME} and no {STORE_NAME} here or above",
            hint="go to a project's folder, name one with -D DIR, or start one with `replicate checkpoint`",
        )
    return project


def new_project(folder: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> Project:
    """Return the project that a first save in `folder` starts; nothing is created here.

    Raises:
        InvalidInputError: The folder is `/`, the home folder or a folder for temporary files.
    """
    root = os.path.realpath(folder)
    forbidden = {os.path.realpath(path) for path in ("/", os.path.expanduser("~"), tempfile.gettempdir(), "/tmp")}
    if root in forbidden:
        raise InvalidInputError(
            f"{root} is no place for a project: everything in it would be saved",
            hint=f"run in the project's folder, or put a {CONFIG_NAME} here if you mean it",
        )
    return _project(root, {}, environment)


def _project(root: str, values: Mapping[str, str], environment: Mapping[str, str]) -> Project:
    store = environment.get("REPLICATE_STORE") or values.get("store") or STORE_NAME
    if "://" in store or "$" in store:
        raise ConfigError(
            f"the store cannot be {store!r}: this version keeps it in a folder, whose path is taken as it is written",
            hint="name a folder; ~ stands for the home folder",
        )
    place = os.path.normpath(os.path.join(root, os.path.expanduser(store)))
    if place == root:
        raise ConfigError(
            f"the store cannot be the project's folder itself: {root}", hint="name a folder in it, or elsewhere"
        )
    durability: Literal["safe", "fast"] = "fast" if values.get("durability") == "fast" else "safe"
    effort: Literal["normal", "high"] = "high" if values.get("effort") == "high" else "normal"
    storage = {key: values[key] for key in _STORAGE_KEYS if key in values}
    repository = _repository(root, values.get("repository", STORE_NAME))
    is_own = "://" not in repository and os.path.realpath(repository) in map(
        os.path.realpath, (place, os.path.join(root, STORE_NAME))
    )
    return Project(root, place, durability, effort, storage, "" if is_own else repository, values.get("cache", ""))


def _read_config(path: str) -> dict[str, str]:
    # PyYAML takes 15 ms to import; a project without replicate.yaml does not need it.
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8 text") from exc
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigError(f"{path} line {line}: not YAML: {exc.reason}") from exc
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not YAML: {getattr(exc, 'problem', None) or exc}") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    if node is None or node.tag.endswith(":null"):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} line {node.start_mark.line + 1}: not `key: value` lines")
    values: dict[str, str] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _check_key(path, line, key_node.value, values)
        values[key] = _check_value(path, line, key, value_node)
    return values


def _check_key(path: str, line: int, key: Any, seen: Mapping[str, str]) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{path} line {line}: a key is text")
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, 1)
        raise ConfigError(
            f"{path} line {line}: unknown key {key!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(_KEYS)}",
        )
    if key in seen:
        raise ConfigError(f"{path} line {line}: {key!r} is there twice")
    return key


def _check_value(path: str, line: int, key: str, node: Any) -> str:
    value = node.value
    if not isinstance(value, str) or not value or node.tag.endswith(":null"):
        raise ConfigError(f"{path} line {line}: {key!r} needs a value that is text")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ConfigError(f"{path} line {line}: {key} is {' or '.join(_CHOICES[key])}, not {value!r}")
    if key == "cache" and value.lower() not in ("0", "none") and not _SIZE.fullmatch(value):
        raise ConfigError(
            f"{path} line {line}: cache is a size such as 20GB, 10% of the disk, 0 or none, not {value!r}"
        )
    if key == "anonymous" and value.lower() not in ("true", "false", "yes", "no"):
        raise ConfigError(f"{path} line {line}: anonymous is true or false, not {value!r}")
    if key == "repository":
        _check_repository(f"{path} line {line}", os.path.dirname(path), value)
    return value


def _check_repository(where: str, root: str, value: str) -> None:
    if _CREDENTIALS.search(value):
        raise ConfigError(
            f"{where}: there are credentials in the URL of the repository",
            hint="remove them, as others read this file, and give them by environment variables, a profile or a key",
        )
    if typo := _ONE_SLASH.match(value):
        raise ConfigError(
            f"{where}: the repository cannot be {value!r}", hint=f"did you mean {typo[1]}://{value[typo.end() :]}?"
        )
    if "$" in value:
        raise ConfigError(
            f"{where}: the repository cannot be {value!r}: it is taken as it is written, without variables",
            hint="write the URL or the path out; ~ stands for the home folder",
        )
    if _repository(root, value) == root:
        raise ConfigError(
            f"{where}: the repository cannot be the project's folder itself", hint="name a folder in it, or elsewhere"
        )


def _repository(root: str, value: str) -> str:
    """Return a URL as it is, and the path of a folder as an absolute one."""
    path = value.removeprefix("file://")
    return path if "://" in path else os.path.normpath(os.path.join(root, os.path.expanduser(path)))


def cache_bytes(text: str, disk_bytes: int) -> int | None:
    """Return how many bytes `cache: 20GB`, `10%` (of the disk) or `0` means; None for `none`, which is no limit."""
    size = _SIZE.fullmatch(text)
    if size is None:
        return None if text.lower() == "none" else 0
    unit = size["unit"].upper()
    return int(float(size["number"]) * (disk_bytes / 100 if unit == "%" else _UNITS[unit]))


def storage_options(place: str, project: Project | None) -> Mapping[str, str]:
    """Return what a project says of the storage of another store, if that is of the kind that it is about."""
    if project is None:
        return {}
    about = project.repository.partition("://")[0]
    return project.storage if about in ("", place.partition("://")[0]) else {}


def cache_folder(environment: Mapping[str, str] = os.environ) -> str:
    """Return where this user's caches of stores lie that are read without a project: below $XDG_CACHE_HOME."""
    given = environment.get("XDG_CACHE_HOME", "")
    above = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(above, "replicate")


def mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """Return `REPLICATE_MODE`: `online` (the default), `offline`, or `disabled` (nothing is recorded)."""
    value = environment.get("REPLICATE_MODE", "").strip().lower() or "online"
    if value == "offline":
        return "offline"
    if value == "disabled":
        return "disabled"
    if value == "online":
        return "online"
    raise ConfigError(f"REPLICATE_MODE is {value!r}; it must be online, offline or disabled")


def user(environment: Mapping[str, str] = os.environ) -> str:
    """Return who runs this: the login name, or the user's number where there is none."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if environment.get(variable):
            return environment[variable]
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def secret_values(is_secret: Callable[[str], bool], environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the values of the variables whose names mean secrets, the longest first: they are stored nowhere.

    Values under 8 characters and paths are left out: what is common would be masked everywhere.
    """
    found = {value for name, value in environment.items() if len(value) >= 8 and is_secret(name)}
    return sorted((value for value in found if not value.startswith(("/", "~", "."))), key=lambda one: (-len(one), one))


def notebook_path(environment: Mapping[str, str] = os.environ) -> str:
    """Return the path of the notebook that Jupyter says this process serves, or ""."""
    name = environment.get("JPY_SESSION_NAME", "")
    return name[: name.index(".ipynb") + 6] if ".ipynb" in name else ""


def git_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that `git` is run with to look at a folder: it asks, locks, pages, traces, fetches nothing.

    What names another repository than the folder's, as in a Git hook, is left out.
    """
    other = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE")
    changed = ("GIT_TRACE", "GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_PAGER", "GIT_REDIRECT", "GIT_OBJECT_DIRECTORY")
    kept = {name: value for name, value in environment.items() if not name.startswith((*changed, *other))}
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "LC_ALL": "C",
    }


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that this library is run with in a process of its own: it is found, and asks nobody."""
    unwanted = ("PYTHONINSPECT", "PYTHONWARNINGS", "PYTHONPROFILEIMPORTTIME", "PYTHONVERBOSE", "PYTHONBREAKPOINT")
    kept = {name: value for name, value in environment.items() if name not in unwanted}
    library = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = [os.path.abspath(path) for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path]
    return kept | {"PYTHONPATH": os.pathsep.join([*paths, library])}


def start_no_idle_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep numpy from starting a thread for each core when it is loaded: they spin, and nothing here is for them.

    For a process that is this library's own, before numpy is loaded there; what the user has set stays.
    """
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")


def other_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return this process's rank if it is a worker of a distributed run that should stay quiet, else None.

    That is a rank above 0 of an initialised `torch.distributed`, or RANK > 0 where WORLD_SIZE > 1 and LOCAL_RANK are
    set too (a SLURM task alone is a normal run). torch is never imported for this.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        rank = int(distributed.get_rank())
        return rank or None
    try:
        rank, world = int(environment.get("RANK", "")), int(environment.get("WORLD_SIZE", ""))
    except ValueError:
        return None
    return rank if rank > 0 and world > 1 and "LOCAL_RANK" in environment else None
