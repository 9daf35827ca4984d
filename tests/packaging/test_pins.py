"""Every dependency, direct or not, is pinned to one version, and nothing names where packages come from."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.building import MEMBERS, ROOT, normalized, uv

INSTALLERS = {"pip", "uv"}
"""May be in an environment without being a dependency."""

REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[^]]*\])?(==(?P<version>[^\s;,]+))?\s*(;.*)?")


def load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def settings() -> dict[str, Any]:
    found: dict[str, Any] = load(ROOT / "pyproject.toml")["tool"]["uv"]
    return found


def declared() -> Iterator[str]:
    """Every requirement that one of our pyproject.toml files states."""
    for folder in (".", *MEMBERS):
        project = load(ROOT / folder / "pyproject.toml")
        yield from project["project"]["dependencies"]
        for optional in project["project"].get("optional-dependencies", {}).values():
            yield from optional
        for group in project.get("dependency-groups", {}).values():
            yield from group
        yield from project["build-system"]["requires"]


def pins(requirements: Iterator[str] | list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for requirement in requirements:
        parsed = REQUIREMENT.fullmatch(requirement)
        assert parsed is not None, f"cannot read the requirement {requirement!r}"
        if parsed["version"] is not None:
            assert found.setdefault(normalized(parsed["name"]), parsed["version"]) == parsed["version"], (
                requirement
            )
    return found


def is_ours(name: str) -> bool:
    return name == "aegisipc" or name.startswith("aegisipc-")


def runtime_pins() -> dict[str, str]:
    return pins([*declared(), *settings()["constraint-dependencies"]])


def test_every_declared_dependency_is_pinned_where_it_is_declared() -> None:
    parsed = [REQUIREMENT.fullmatch(requirement) for requirement in declared()]
    loose = [p[0] for p in parsed if p is not None and p["version"] is None and not is_ours(p["name"])]
    assert loose == []


def test_every_installed_distribution_has_its_pinned_version() -> None:
    installed = {normalized(d.name): d.version for d in metadata.distributions()}
    third_party = {n: v for n, v in installed.items() if not is_ours(n) and n not in INSTALLERS}
    pinned = runtime_pins()
    differing = {name: version for name, version in third_party.items() if pinned.get(name) != version}
    assert differing == {}, "add these to constraint-dependencies in pyproject.toml"


def test_every_package_that_any_platform_needs_is_pinned() -> None:
    lock = ROOT / "uv.lock"
    if not lock.exists():
        pytest.skip("there is no uv.lock: uv sync and uv run write one")
    locked = {p["name"]: p["version"] for p in load(lock)["package"] if "registry" in p["source"]}
    pinned = runtime_pins()
    differing = {name: version for name, version in locked.items() if pinned.get(name) != version}
    assert differing == {}, "add these to constraint-dependencies in pyproject.toml, or run uv lock"


def test_no_pin_is_left_over() -> None:
    lock = ROOT / "uv.lock"
    if not lock.exists():
        pytest.skip("there is no uv.lock: uv sync and uv run write one")
    locked = {p["name"] for p in load(lock)["package"]}
    assert set(pins(settings()["constraint-dependencies"])) - locked == set()


@pytest.mark.slow
def test_the_build_backend_brings_nothing_that_is_not_pinned(tmp_path: Path) -> None:
    backend = load(ROOT / "pyproject.toml")["build-system"]["requires"]
    wanted = tmp_path / "build.in"
    # An editable install, as in a workspace, makes hatchling ask for editables.
    wanted.write_text("\n".join([*backend, "editables"]), encoding="utf-8")
    resolved = subprocess.run(
        [uv(), "pip", "compile", "--universal", "--no-header", "--no-annotate", "--quiet", wanted],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    pinned = pins([*backend, *settings()["build-constraint-dependencies"]])
    names = {line.split("==")[0] for line in resolved}
    assert names == set(pinned), "make build-constraint-dependencies in pyproject.toml match"


# -- what no file may say ---------------------------------------------------------------------------------


# Spelled in parts, so that this file does not match itself.
FORBIDDEN = {
    "a package index": re.compile(
        r"py" r"pi\.|python" r"hosted|/sim" r"ple\b|tool\.uv\.in" r"dex", re.IGNORECASE
    ),
    "a way to another index": re.compile(
        r"index" r"[-_]url|find" r"[-_]links|UV_(DEFAULT_)?" r"INDEX|PIP_" r"INDEX|--trusted" r"-host",
        re.IGNORECASE,
    ),
    "somebody's directory": re.compile(
        r"(?<![\w./~-])/(home|root|Us" r"ers|work|workspace|mnt)/[\w.-]|\bC:\\\\?Us" r"ers\\"
    ),
}


def our_files() -> Iterator[Path]:
    """Every file of the source tree that git does not ignore."""
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    for folder, folders, files in os.walk(ROOT):
        kept = [
            d for d in folders if d != ".git" and not any(fnmatch.fnmatch(d, pattern) for pattern in ignored)
        ]
        folders[:] = kept
        for name in files:
            if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored):
                yield Path(folder) / name


def test_no_file_names_a_package_index_or_a_directory_of_one_machine() -> None:
    found = []
    for path in our_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        for what, pattern in FORBIDDEN.items():
            found += [f"{path.relative_to(ROOT)}: {what}: {hit[0]!r}" for hit in pattern.finditer(text)]
    assert found == []


def test_the_search_sees_the_files_that_matter() -> None:
    seen = {str(path.relative_to(ROOT)) for path in our_files()}
    assert {".ci/run", "pyproject.toml", "Dockerfile", "README.md", "sdk/pyproject.toml"} <= seen
