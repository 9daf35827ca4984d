"""The digest of a state is the same in whichever process it is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aegisipc.eventstore.system_snapshots import digest_of
from tests.eventstore.system_histories import a_history, folded

ROOT = Path(__file__).parents[2]
PROGRAM = (
    "from tests.eventstore.system_histories import a_history, folded\n"
    "from aegisipc.eventstore.system_snapshots import digest_of\n"
    "print(*(digest_of(folded(a_history(seed))) for seed in range(4)))\n"
)


def _digests(python: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_digest_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    told = [_digests(sys.executable, PYTHONHASHSEED=seed) for seed in ("0", "4242")]
    here = " ".join(digest_of(folded(a_history(seed))) for seed in range(4))
    assert [(one.stdout.strip(), one.stderr) for one in told] == [(here, "")] * 2


def test_the_digest_does_not_depend_on_the_version_of_python() -> None:
    names = ("python3.12", "python3.13", "python3.14")
    found = {name: path for name in names if (path := shutil.which(name)) is not None}
    source = os.pathsep.join(str(ROOT / part / "src") for part in ("eventstore", "sdk", "router"))
    check = "import aegisipc.eventstore.system_snapshots, sys; print(*sys.version_info[:2])"
    others = []
    for path in found.values():
        env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{source}"}
        asked = subprocess.run([path, "-c", check], env=env, capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.split() != list(map(str, sys.version_info[:2])):
            others.append((path, env["PYTHONPATH"]))
    if not others:
        pytest.skip("there is no other version of Python here that has the dependencies")
    here = " ".join(digest_of(folded(a_history(seed))) for seed in range(4))
    for path, where in others:
        told = _digests(path, PYTHONPATH=where)
        assert told.stdout.strip() == here, told.stderr
