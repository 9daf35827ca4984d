"""Each folder is a distribution that builds, carries what it should, and needs only what it declares."""

from __future__ import annotations

import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest

from tests.packaging.building import MEMBERS, ROOT, normalized, run, uv

NEED_AN_EXTRA = (
    "aegisipc.eventstore.sql",
    "aegisipc.router.cli.history_tables",
    "aegisipc.router.cli.model_answers",
    "aegisipc.router.cli.projecting",
    "aegisipc.router.cli.summaries",
    "aegisipc.router.infrastructure.projection",
    "aegisipc.sdk.transactions",
)
"""What is not usable without an extra of a distribution; verbs that need it say so."""

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
name, *left_out = sys.argv[1:]
package = importlib.import_module(name)
for module in pkgutil.walk_packages(package.__path__, name + "."):
    if not module.name.endswith("__main__") and not module.name.startswith(tuple(left_out)):
        importlib.import_module(module.name)
print(package.__file__)
"""


@dataclass(frozen=True)
class Wheel:
    """A built wheel: its file, what is in it, and the distributions of ours that it requires."""

    path: Path
    contents: frozenset[str]
    requires_ours: frozenset[str]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """One wheel for each distribution, by distribution name."""
    out = tmp_path_factory.mktemp("wheels")
    run([uv(), "build", "--all-packages", "--wheel", "--out-dir", out, "--quiet"], cwd=ROOT, timeout_s=100)
    return dict(map(read_wheel, out.glob("*.whl")))


def read_wheel(path: Path) -> tuple[str, Wheel]:
    with zipfile.ZipFile(path) as archive:
        contents = frozenset(archive.namelist())
        (described,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
        header = Parser().parsestr(archive.read(described).decode())
    names = requirement_names(header.get_all("Requires-Dist", []))
    ours = frozenset(name for name in names if name.startswith("aegisipc"))
    return normalized(header["Name"]), Wheel(path, contents, ours)


def requirement_names(requirements: list[str]) -> Iterator[str]:
    """Names of what is required without an extra."""
    for requirement in requirements:
        if "extra ==" not in requirement:
            yield normalized(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


def closure(name: str, wheels: dict[str, Wheel]) -> set[str]:
    """Return the distributions of ours that one needs, with itself."""
    return {name}.union(*(closure(other, wheels) for other in wheels[name].requires_ours))


def test_the_namespace_belongs_to_no_distribution() -> None:
    assert [str(path) for path in ROOT.glob("*/src/aegisipc/__init__.py")] == []
    for member in MEMBERS:
        assert (ROOT / member / "src/aegisipc" / member / "__init__.py").is_file()


def test_the_sdk_brings_only_what_it_needs() -> None:
    assert set(requirement_names(metadata.requires("aegisipc-sdk") or [])) == {
        "aegisipc-eventstore",
        "msgpack",
        "nats-py",
        "pydantic",
        "python-statemachine",
        "structlog",
    }
    assert set(requirement_names(metadata.requires("aegisipc-eventstore") or [])) == {
        "msgpack",
        "nats-py",
        "pydantic",
        "python-statemachine",
        "structlog",
    }


@pytest.mark.slow
def test_every_distribution_builds(wheels: dict[str, Wheel]) -> None:
    assert set(wheels) == {"aegisipc", *(f"aegisipc-{member}" for member in MEMBERS)}


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
def test_a_wheel_holds_its_own_package_with_its_types_and_nothing_else(
    member: str, wheels: dict[str, Wheel]
) -> None:
    contents = wheels[f"aegisipc-{member}"].contents
    code = {name for name in contents if ".dist-info/" not in name}
    assert f"aegisipc/{member}/py.typed" in code
    assert f"aegisipc/{member}/__init__.py" in code
    assert {name for name in code if not name.startswith(f"aegisipc/{member}/")} == set()


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
def test_a_distribution_imports_with_its_own_dependencies_alone(
    member: str, wheels: dict[str, Wheel], tmp_path: Path
) -> None:
    name = f"aegisipc-{member}"
    needed = closure(name, wheels)
    constraints = tmp_path / "constraints.txt"
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"][
        "constraint-dependencies"
    ]
    constraints.write_text("\n".join(pinned), encoding="utf-8")
    environment = tmp_path / "environment"
    python = environment / "bin/python"
    run([uv(), "venv", "--quiet", "--python", sys.executable, environment], cwd=tmp_path)
    install = [uv(), "pip", "install", "--quiet", "--python", str(python), "--constraint", str(constraints)]
    run([*install, *(str(wheels[other].path) for other in sorted(needed))], cwd=tmp_path)

    # -I: neither the current folder nor the user's packages are on the path.
    origin = run(
        [python, "-I", "-W", "error", "-c", IMPORT_EVERYTHING, f"aegisipc.{member}", *NEED_AN_EXTRA],
        cwd=tmp_path,
    )
    installed = run(
        [
            python,
            "-I",
            "-c",
            "from importlib.metadata import distributions as d; print(*{x.name for x in d()})",
        ],
        cwd=tmp_path,
    )
    assert Path(origin.strip()).is_relative_to(environment)
    assert {normalized(n) for n in installed.split() if n.startswith("aegisipc")} == needed
