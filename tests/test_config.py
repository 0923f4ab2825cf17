"""Where a project lies, `replicate.yaml`, and the environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path

import pytest

from replicate import config
from replicate.config import (
    find_project,
    mode,
    new_project,
    other_rank,
    require_project,
    start_no_idle_threads,
    user,
)
from replicate.errors import ConfigError, InvalidInputError, ProjectNotFoundError
from tests.projects import reads_everything

NO_VARIABLES: Mapping[str, str] = {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(os.path.realpath(tmp_path))


def configured(root: Path, text: str | bytes) -> config.Project:
    """Return the project that a configuration file makes of a folder."""
    (root / "replicate.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    found = find_project(root, NO_VARIABLES)
    assert found is not None
    return found


def refusal(root: Path, text: str | bytes) -> str:
    """Return what is said of a wrong file, without its path."""
    with pytest.raises(ConfigError) as raised:
        configured(root, text)
    return str(raised.value).replace(f"{root}/", "")


# -- where the project lies -----------------------------------------------------------------------------------------


def test_a_folder_with_neither_file_nor_store_is_no_project(root: Path) -> None:
    assert find_project(root, NO_VARIABLES) is None
    with pytest.raises(ProjectNotFoundError) as raised:
        require_project(root, NO_VARIABLES)
    assert str(raised.value) == (
        f"{root} is not in a project: no replicate.yaml and no .replicate here or above (hint: go to a project's "
        "folder, name one with -D DIR, or start one with `replicate checkpoint`)"
    )


@pytest.mark.parametrize("mark", ["replicate.yaml", ".replicate"])
def test_the_nearest_folder_with_a_mark_is_the_project(root: Path, mark: str) -> None:
    (root / ".replicate").mkdir()
    (root / "a" / "b" / "c").mkdir(parents=True)
    if mark == ".replicate":
        (root / "a" / mark).mkdir()
    else:
        (root / "a" / mark).write_text("")
    found = require_project(root / "a" / "b" / "c", NO_VARIABLES)
    assert found == config.Project(str(root / "a"), str(root / "a" / ".replicate"), "safe")


def test_a_file_of_the_project_leads_to_it(root: Path) -> None:
    (root / ".replicate").mkdir()
    (root / "train.py").write_text("")
    assert require_project(root / "train.py", NO_VARIABLES).root == str(root)


def test_links_are_resolved(root: Path) -> None:
    (root / "real" / ".replicate").mkdir(parents=True)
    (root / "alias").symlink_to("real")
    assert require_project(root / "alias", NO_VARIABLES).root == str(root / "real")


def test_a_file_called_like_the_store_is_no_mark(root: Path) -> None:
    (root / ".replicate").write_text("")
    assert find_project(root, NO_VARIABLES) is None


def test_a_new_project_is_the_folder_itself_and_nothing_is_created(root: Path) -> None:
    assert new_project(root, NO_VARIABLES) == config.Project(str(root), str(root / ".replicate"), "safe")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("place", ["/", "~", "/tmp", tempfile.gettempdir()])
def test_a_project_is_never_begun_where_everything_would_be_saved(place: str) -> None:
    folder = os.path.realpath(os.path.expanduser(place))
    with pytest.raises(InvalidInputError) as raised:
        new_project(os.path.expanduser(place), NO_VARIABLES)
    assert str(raised.value) == (
        f"{folder} is no place for a project: everything in it would be saved "
        "(hint: run in the project's folder, or put a replicate.yaml here if you mean it)"
    )


def test_the_home_folder_is_refused_under_any_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "home").mkdir()
    (root / "alias").symlink_to("home")
    monkeypatch.setenv("HOME", str(root / "alias"))
    for name in ("home", "alias"):
        with pytest.raises(InvalidInputError, match="is no place for a project"):
            new_project(root / name, NO_VARIABLES)


def test_a_folder_for_temporary_files_is_refused_wherever_it_lies(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(root / "scratch"))
    with pytest.raises(InvalidInputError, match="is no place for a project"):
        new_project(root / "scratch", NO_VARIABLES)
    (root / "scratch" / "below").mkdir()
    assert new_project(root / "scratch" / "below", NO_VARIABLES).root == str(root / "scratch" / "below")


def test_a_configuration_file_makes_even_the_home_folder_a_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))
    assert configured(root, "").root == str(root)


# -- replicate.yaml -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "null\n", "~", b"\xef\xbb\xbf"])
def test_an_empty_file_means_the_defaults(root: Path, text: str | bytes) -> None:
    assert configured(root, text) == config.Project(str(root), str(root / ".replicate"), "safe")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("data/store", "{root}/data/store"),
        ("../store", "{above}/store"),
        ("/scratch/store", "/scratch/store"),
        ("~/store", "{home}/store"),
        ("'with space'", "{root}/with space"),
        ("123", "{root}/123"),
        ("a/../b", "{root}/b"),
    ],
)
def test_the_store_may_lie_elsewhere(root: Path, value: str, place: str) -> None:
    wanted = place.format(root=root, above=root.parent, home=os.path.expanduser("~"))
    assert configured(root, f"store: {value}\n").store == wanted


def test_what_the_storage_of_a_repository_is_told_is_kept_as_text(root: Path) -> None:
    assert configured(root, "").storage == {}
    text = "endpoint: http://host:9000\nprofile: me\nregion: eu-west-1\nanonymous: true\n"
    told = {"endpoint": "http://host:9000", "profile": "me", "region": "eu-west-1", "anonymous": "true"}
    assert configured(root, text).storage == told


def test_the_variable_outweighs_the_file(root: Path) -> None:
    (root / "replicate.yaml").write_text("store: a\n")
    found = find_project(root, {"REPLICATE_STORE": "b"})
    assert found is not None
    assert found.store == str(root / "b")
    again = find_project(root, {"REPLICATE_STORE": ""})
    assert again is not None
    assert again.store == str(root / "a")


@pytest.mark.parametrize("value", [".", "./", "a/.."])
def test_the_store_is_not_the_project_itself(root: Path, value: str) -> None:
    message = f"the store cannot be the project's folder itself: {root} (hint: name a folder in it, or elsewhere)"
    with pytest.raises(ConfigError) as raised:
        configured(root, f"store: {value}\n")
    assert str(raised.value) == message
    with pytest.raises(ConfigError) as raised:
        new_project(root, {"REPLICATE_STORE": value})
    assert str(raised.value) == message


@pytest.mark.parametrize("value", ["safe", "fast"])
def test_durability_is_safe_or_fast(root: Path, value: str) -> None:
    assert configured(root, f"durability: {value}\n").durability == value


@pytest.mark.parametrize("value", [".replicate", "./.replicate", ".replicate/", "file://.replicate"])
def test_the_repository_may_be_named_as_what_it_is(root: Path, value: str) -> None:
    found = configured(root, f"repository: {value}\n")
    assert (found.store, found.repository) == (str(root / ".replicate"), "")


def test_the_repository_is_the_store_when_it_is_the_same_folder(root: Path) -> None:
    assert configured(root, "store: data\nrepository: ./data/\n").repository == ""
    assert configured(root, "store: data\n").repository == ""


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("s3://bucket/path", "s3://bucket/path"),
        ("sftp://me@server:22/path", "sftp://me@server:22/path"),
        ("/nfs/team", "/nfs/team"),
        ("file:///nfs/team/", "/nfs/team"),
        ("../team", "{above}/team"),
        ("~/team", "{home}/team"),
        ("shared", "{root}/shared"),
    ],
)
def test_the_repository_may_be_elsewhere(root: Path, value: str, place: str) -> None:
    found = configured(root, f"repository: {value}\n")
    assert found.repository == place.format(root=root, above=root.parent, home=os.path.expanduser("~"))
    assert found.store == str(root / ".replicate")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("20GB", 20 * 10**9),
        ("1.5 gb", 1_500_000_000),
        ("500MB", 500_000_000),
        ("0.5TB", 5 * 10**11),
        ("12b", 12),
        ("10%", 10**11),
        ("2.5 %", 25 * 10**9),
        ("0", 0),
        ("none", None),
        ("None", None),
    ],
)
def test_the_cache_is_a_size_or_a_share_of_the_disk(root: Path, value: str, size: int | None) -> None:
    assert config.cache_bytes(configured(root, f"cache: {value}\n").cache, 10**12) == size


@pytest.mark.parametrize("value", ["20", "-1GB", "GB", "10%%", "20GiB", "1e3GB", "much", "20GB 1", "٣GB"])
def test_other_values_of_the_cache_are_refused(root: Path, value: str) -> None:
    assert refusal(root, f"cache: {value}\n") == (
        f"replicate.yaml line 1: cache is a size such as 20GB, 10% of the disk, 0 or none, not {value!r}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stor: a\n", "replicate.yaml line 1: unknown key 'stor' (hint: did you mean 'store'?)"),
        (
            "# a\n\nbucket: a\n",
            "replicate.yaml line 3: unknown key 'bucket' (hint: the keys are repository, store, cache, durability, "
            "effort, endpoint, profile, region, anonymous)",
        ),
        ("store: a\nstore: b\n", "replicate.yaml line 2: 'store' is there twice"),
        ("store:\n", "replicate.yaml line 1: 'store' needs a value that is text"),
        ("durability: safe\nstore: ~\n", "replicate.yaml line 2: 'store' needs a value that is text"),
        ("store: ''\n", "replicate.yaml line 1: 'store' needs a value that is text"),
        ("store: [a, b]\n", "replicate.yaml line 1: 'store' needs a value that is text"),
        ("store: {a: b}\n", "replicate.yaml line 1: 'store' needs a value that is text"),
        ("\ndurability: quick\n", "replicate.yaml line 2: durability is safe or fast, not 'quick'"),
        ("durability: Fast\n", "replicate.yaml line 1: durability is safe or fast, not 'Fast'"),
        ("anonymous: 1\n", "replicate.yaml line 1: anonymous is true or false, not '1'"),
        ("effort: max\n", "replicate.yaml line 1: effort is normal or high, not 'max'"),
        (
            "\nrepository: s3://me:secret@bucket\n",
            "replicate.yaml line 2: there are credentials in the URL of the repository (hint: remove them, as others "
            "read this file, and give them by environment variables, a profile or a key)",
        ),
        (
            "repository: s3://$BUCKET/path\n",
            "replicate.yaml line 1: the repository cannot be 's3://$BUCKET/path': it is taken as it is written, "
            "without variables (hint: write the URL or the path out; ~ stands for the home folder)",
        ),
        (
            "repository: .\n",
            "replicate.yaml line 1: the repository cannot be the project's folder itself (hint: name a folder in it, "
            "or elsewhere)",
        ),
        ("just text\n", "replicate.yaml line 1: not `key: value` lines"),
        ("\n- a\n- b\n", "replicate.yaml line 2: not `key: value` lines"),
        ("store: a\n  b: c\n", "replicate.yaml line 2: not YAML: mapping values are not allowed here"),
        ("store: 'a\n", "replicate.yaml line 2: not YAML: found unexpected end of stream"),
        ("store: a\n---\nstore: b\n", "replicate.yaml line 2: not YAML: but found another document"),
        ("\tstore: a\n", "replicate.yaml line 1: not YAML: found character '\\t' that cannot start any token"),
        ("? [a]\n: b\n", "replicate.yaml line 1: a key is text"),
        (b"store: \xff\n", "replicate.yaml is not UTF-8 text"),
        (b"store: a\nx: \x00\n", "replicate.yaml line 2: not YAML: special characters are not allowed"),
    ],
)
def test_what_is_wrong_in_the_file_is_told_with_its_line(root: Path, text: str | bytes, message: str) -> None:
    assert refusal(root, text) == message


def test_a_folder_or_a_link_in_a_circle_is_no_configuration_file(root: Path) -> None:
    (root / "replicate.yaml").symlink_to("replicate.yaml")
    assert find_project(root, NO_VARIABLES) is None
    (root / "replicate.yaml").unlink()
    (root / "replicate.yaml").mkdir()
    assert find_project(root, NO_VARIABLES) is None


@pytest.mark.skipif(reads_everything(), reason="permissions mean nothing to this user, who is root")
def test_a_file_that_may_not_be_read_is_told(root: Path) -> None:
    (root / "replicate.yaml").write_text("store: a\n")
    (root / "replicate.yaml").chmod(0)
    with pytest.raises(ConfigError) as raised:
        find_project(root, NO_VARIABLES)
    assert str(raised.value) == f"cannot read {root}/replicate.yaml: Permission denied"


# -- the environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", "online"),
        ("online", "online"),
        ("offline", "offline"),
        ("disabled", "disabled"),
        (" Disabled ", "disabled"),
    ],
)
def test_the_mode_is_online_unless_it_is_said(value: str, wanted: str) -> None:
    assert mode({"REPLICATE_MODE": value}) == wanted
    assert mode({}) == "online"


def test_another_mode_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        mode({"REPLICATE_MODE": "off"})
    assert str(raised.value) == "REPLICATE_MODE is 'off'; it must be online, offline or disabled"


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_the_user_is_who_logged_in(variable: str) -> None:
    assert user({variable: "ada"}) == "ada"


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    assert user({}) == str(os.getuid())


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1),
        ({"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 7),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, None),
        ({"RANK": "1", "WORLD_SIZE": "1", "LOCAL_RANK": "1"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "1"}, None),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, None),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, None),
    ],
)
def test_a_rank_needs_three_variables(variables: dict[str, str], rank: int | None) -> None:
    assert other_rank(variables) == rank


@pytest.mark.parametrize(
    ("available", "initialised", "rank", "found"),
    [
        (True, True, 3, 3),
        (True, True, 0, None),
        (True, False, 3, None),
        (False, False, 3, None),
    ],
)
def test_an_initialised_torch_knows_its_rank(
    monkeypatch: pytest.MonkeyPatch, available: bool, initialised: bool, rank: int, found: int | None
) -> None:
    distributed = types.ModuleType("torch.distributed")
    vars(distributed).update(is_available=lambda: available, is_initialized=lambda: initialised, get_rank=lambda: rank)
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    assert other_rank({}) == found


def test_an_initialised_torch_outweighs_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = types.ModuleType("torch.distributed")
    vars(distributed).update(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 0)
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    assert other_rank({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}) is None


def test_a_link_to_the_own_store_is_no_repository_elsewhere(tmp_path: Path) -> None:
    (tmp_path / ".replicate").mkdir()
    (tmp_path / "link").symlink_to(".replicate")
    (tmp_path / "replicate.yaml").write_text("repository: link\n")
    assert require_project(tmp_path).repository == ""


def test_a_url_with_one_slash_is_told(tmp_path: Path) -> None:
    (tmp_path / "replicate.yaml").write_text("repository: s3:/team/ml\n")
    with pytest.raises(ConfigError, match="cannot be 's3:/team/ml'") as raised:
        require_project(tmp_path)
    assert raised.value.hint == "did you mean s3://team/ml?"


def test_numpy_starts_no_threads_in_our_own_processes() -> None:
    counted = "import os, numpy; print(len(os.listdir('/proc/self/task')))"
    environment: dict[str, str] = {}
    start_no_idle_threads(environment)
    command = [sys.executable, "-c", counted]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert found.stdout == "1\n"
    environment = {"OPENBLAS_NUM_THREADS": "4"}
    start_no_idle_threads(environment)
    assert environment == {"OPENBLAS_NUM_THREADS": "4"}
