"""The pages: links lead somewhere, named tests exist, shown commands would be accepted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from aegisipc.router.cli.dispatch import load, parser_of

ROOT = Path(__file__).parents[2]
SKIPPED = {".git", ".venv", "node_modules", "build", "dist"}
COMMANDS_BEGIN = (("uv", "run", "aegis"), ("aegis",))

_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_FENCE = re.compile(
    r"^(?P<fence>```+|~~~+)(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL
)
_CODE = re.compile(r"`[^`\n]+`")
_TEST_FILE = re.compile(r"\b(tests/[\w/]+\.py)(?:::(test_\w+))?")
_TEST_NAME = re.compile(r"`(test_\w+)`")


def is_ours(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts[:-1]
    return not any(part in SKIPPED or (part.startswith(".") and part.endswith("_cache")) for part in parts)


PAGES = sorted(path for path in ROOT.rglob("*.md") if is_ours(path))
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def links_of(page: Path) -> Iterator[str]:
    prose = _CODE.sub("", _FENCE.sub("", text_of(page)))
    for target in _LINK.findall(prose):
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield target


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for line in _FENCE.sub("", text_of(page)).splitlines():
        if heading := re.match(r"#{1,6}\s+(.+?)\s*#*$", line):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            repeats = sum(re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", known) is not None for known in found)
            found.append(f"{anchor}-{repeats}" if repeats else anchor)
    return frozenset(found)


def commands_of(page: Path) -> Iterator[list[str]]:
    """The words behind ``aegis`` or ``uv run aegis`` in the page's shell blocks, command by command."""
    for block in _FENCE.finditer(text_of(page)):
        if block["language"] != "sh":
            continue
        for line in block["body"].replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                cut = words.index("&&")
                yield from _ours(words[:cut])
                words = words[cut + 1 :]
            yield from _ours(words)


def _ours(words: list[str]) -> Iterator[list[str]]:
    for begin in COMMANDS_BEGIN:
        if tuple(words[: len(begin)]) == begin:
            yield words[len(begin) :]


COMMANDS = [(page, words) for page in PAGES for words in commands_of(page)]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in links_of(page):
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor and found.suffix == ".md":
            assert anchor in anchors_of(found), (
                f"{target}: no such heading; there is {sorted(anchors_of(found))}"
            )


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page.name}: {shlex.join(words)[:60]}" for page, words in COMMANDS]
)
def test_every_command_names_a_verb_and_options_it_has(page: Path, words: list[str]) -> None:
    assert words, "a verb comes first"
    verb = load(words[0])
    assert verb is not None, f"there is no verb {words[0]!r}"
    parser = parser_of(verb)
    parse = parser.parse_intermixed_args if verb.intermixed else parser.parse_args
    try:
        parse(words[1:])
    except SystemExit as refused:
        pytest.fail(f"aegis {shlex.join(words)} is refused (exit code {refused.code})")


def test_the_readme_shows_the_way_in() -> None:
    shown = {words[0] for page, words in COMMANDS if page == ROOT / "README.md"}
    assert shown >= {"demo", "dev", "serve", "call"}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for file, name in _TEST_FILE.findall(text_of(page)):
        path = ROOT / file
        assert path.is_file(), f"{file} is not there"
        assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), f"{file} has no {name}"


@cache
def names_of_all_tests() -> frozenset[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return frozenset(
        name for path in files for name in re.findall(r"def (test_\w+)\(", path.read_text("utf-8"))
    )


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_test_that_a_page_names_without_its_file_exists(page: Path) -> None:
    assert set(_TEST_NAME.findall(text_of(page))) <= names_of_all_tests()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_examples_are_python(page: Path) -> None:
    for block in _FENCE.finditer(text_of(page)):
        if block["language"] == "python":
            ast.parse(block["body"])
