"""Secrets that a training run meets are in no byte of the store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from replicate.collection import ExperimentCollection
from tests.projects import everything_in, git, run_script

SCRIPT = """\
import os, sys
import replicate

def load(name):
    with open(os.environ["SECRETS"]) as file:
        import json
        return json.load(file)[name]

replicate.init(
    params={
        "lr": 0.125,
        "password": load("param"),
        "nested": {"client_secret": [load("nested param")]},
        "database": f"postgres://ada:{load('url in a param')}@db/x",
        "note": f"run with token={load('text in a param')} please",
        "key": load("token in a param"),
    },
)
replicate.checkpoint(metrics={"loss": 0.5})
login = load("exception")
raise ConnectionError(
    f"https://ada:{login}@host refused token={login}, see {os.environ['WANDB_API_KEY']} or {load('token in exception')}"
)
"""


def plant(name: str) -> str:
    """Return a secret that nothing else is like."""
    return f"planted{os.urandom(8).hex()}x{abs(hash(name)) % 997}"


@pytest.fixture
def secrets() -> dict[str, str]:
    names = (
        *("option", "option with equals", "pair", "url", "json", "param", "nested param", "url in a param"),
        *("text in a param", "exception", "variable", "other variable", ".env", "id_rsa", "removed line"),
        *("removed key", "remote", "remote query", "ignored", "removed yaml", "presigned"),
    )
    found = {name: plant(name) for name in names}
    for name in ("token", "token in a param", "token in exception", "removed token"):
        found[name] = "ghp_" + plant(name)
    found["removed key"] = os.urandom(24).hex() + "0123456789abcdef"
    return found


@pytest.fixture
def root(tmp_path: Path, secrets: dict[str, str]) -> Path:
    """A Git worktree whose last commit holds secrets that the files of today do not."""
    folder = Path(os.path.realpath(tmp_path)) / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    files = {
        ".env": f"API={secrets['.env']}\n",
        "deploy/id_rsa": f"{secrets['id_rsa']}\n",
        "private/notes.txt": f"{secrets['ignored']}\n",
        "settings.py": f"api_key = '{secrets['removed line']}'\nhub = \"{secrets['removed token']}\"\nlr = 1\n",
        "settings.yaml": f"password: {secrets['removed yaml']}\nlr: 1\n",
        "server.txt": f"-----BEGIN PRIVATE KEY-----\n{secrets['removed key']}\n-----END PRIVATE KEY-----\n",
        ".replicateignore": "private/\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "with secrets")
    address = f"https://ada:{secrets['remote']}@example.org/team/vision.git?private_token={secrets['remote query']}"
    git(folder, "remote", "add", "origin", address)
    for name in (".env", "deploy/id_rsa", "private/notes.txt"):
        with open(folder / name, "a") as file:
            file.write("another line\n")
    (folder / "settings.py").write_text("lr = 2\n")
    (folder / "settings.yaml").write_text("lr: 2\n")
    (folder / "server.txt").unlink()
    return folder


def test_planted_secrets_are_in_no_byte_of_the_store(root: Path, tmp_path: Path, secrets: dict[str, str]) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps(secrets))
    ended = run_script(
        root,
        SCRIPT,
        *("--token", secrets["option"], f"--api-key={secrets['option with equals']}", f"db.password={secrets['pair']}"),
        *(f"--url=https://ada:{secrets['url']}@host/x", secrets["token"], "--lr=0.125"),
        *(json.dumps({"secret": secrets["json"]}), f"https://b/x?X-Amz-Signature={secrets['presigned']}"),
        SECRETS=str(tmp_path / "secrets.json"),
        WANDB_API_KEY=secrets["variable"],
        OTHER=secrets["other variable"],
    )
    assert ended.stderr.splitlines()[-1].startswith("ConnectionError: https://")
    found = list(everything_in(root / ".replicate"))
    for what in (b"0.125", b"lr = 2", b"+lr: 2", b"ConnectionError", b"example.org/team/vision.git", b"packages.json"):
        assert any(what in data for _, data in found), what  # what is recorded is found by this search
    leaked = {(name, where) for name, value in secrets.items() for where, data in found if value.encode() in data}
    assert leaked == set()


def test_what_is_left_of_them_can_still_be_read(root: Path, tmp_path: Path, secrets: dict[str, str]) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps(secrets))
    run_script(
        root, SCRIPT, "--token", "abc", SECRETS=str(tmp_path / "secrets.json"), WANDB_API_KEY=secrets["variable"]
    )
    (experiment,) = ExperimentCollection(root).list()
    assert experiment.command == "python train.py --token ***"
    assert experiment.params == {
        "lr": 0.125,
        "password": "***",
        "nested": {"client_secret": "***"},
        "database": "postgres://***@db/x",
        "note": "run with token=*** please",
        "key": "***",
    }
    assert experiment.exception == "ConnectionError: https://***@host refused token=***, see *** or ***"
    patch = experiment._environment.patch.decode().splitlines()
    assert patch[:2] == [
        "# left out, being ignored or likely to hold secrets: .env, deploy/id_rsa, private/notes.txt",
        "# masked with ***, as they may hold secrets: lines: 4",
    ]
    assert [line for line in patch if "***" in line][1:] == [
        "-***",
        "-api_key = '***'",
        '-hub = "***"',
        "-password: ***",
    ]
    assert experiment._history.starts[0].capture["git"]["remote"] == "https://example.org/team/vision.git"


def test_what_a_store_holds_is_found_in_it(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("needle " * 10_000)
    run_script(tmp_path, "import replicate\nreplicate.init(name='a-name')\nreplicate.checkpoint()\n")
    found = list(everything_in(tmp_path / ".replicate"))
    assert any(b"needle " * 10_000 in data for _, data in found)
    assert any(b"a-name" in data for _, data in found)
