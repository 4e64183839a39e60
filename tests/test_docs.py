"""What the documentation says can be typed, read and found: its settings, apps, commands, files and links exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import edge
import pytest
import typer.main
from edge import App

from edge_runtime.cli.main import app as command_line
from edge_runtime.config.reader import parse

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4,}.*)?\n)+", re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


class Block(NamedTuple):
    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        first = next((line for line in self.text.splitlines() if line.strip()), "")
        return f"{self.page.relative_to(ROOT)}: {first.strip()[:40]}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks in these languages."""
    return [
        Block(page, found[1], textwrap.dedent(found[2]))
        for page in PAGES
        for found in FENCE.finditer(page.read_text())
        if found[1] in languages
    ]


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_read(block: Block) -> None:
    parse(block.text, ROOT / "edge.toml")
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_an_app_can_be_loaded(block: Block) -> None:
    if "edge_device" in block.text or "device." in block.text or "edge.testing" in block.text:
        ast.parse(block.text)  # a board's program, which needs its board; a test of another block's app
        return
    known: dict[str, Any] = {name: getattr(edge, name) for name in edge.__all__}
    known["app"] = App("docs")
    exec(compile(block.text, str(block), "exec"), known)
    manifest = known["app"].manifest()
    assert manifest["triggers"]


@cache
def _verbs() -> Any:
    return typer.main.get_command(command_line)


def _commands(page: Path) -> Iterator[str]:
    """The lines of a page that call `edge`, in blocks and in the text."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        yield from (
            line for line in found[2].splitlines() if re.match(r" *(\$ )?(sudo \S+ \S+ )?(\S*/)?edge [a-z]", line)
        )
    rest = FENCE.sub("", text)
    for found in INDENTED.finditer(rest):
        yield from (line for line in found[0].splitlines() if re.match(r" *(\$ )?edge [a-z]", line))
    if page.name != "wire.md":  # there such words are texts under a signature
        yield from (found[1] for found in INLINE.finditer(rest) if found[1].startswith("edge "))


def _wrong(line: str) -> str:
    """What is wrong with a call; empty for nothing. Words in capitals stand for what one has to put there."""
    line = re.sub(r"^ *(\$ )?(sudo -u \S+ )?(\S*/)?edge ", "", line)
    words = shlex.split(line, comments=True)
    verb = _verbs()
    while words and hasattr(verb, "commands") and words[0] in verb.commands:
        verb = verb.commands[words.pop(0)]
    if words and hasattr(verb, "commands") and not words[0].startswith("-"):
        return f"no verb '{words[0]}'"
    options = {
        "--help",
        "-h",
        *(each for parameter in verb.params for each in (*parameter.opts, *parameter.secondary_opts)),
    }
    return next(
        (f"no option '{word}'" for word in words if word.startswith("--") and word.split("=")[0] not in options), ""
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_these_options(page: Path) -> None:
    assert {line: wrong for line in _commands(page) if (wrong := _wrong(line))} == {}


def test_commands_are_found_in_blocks_and_in_the_text() -> None:
    assert sum(len(list(_commands(page))) for page in PAGES) > 150
    assert _wrong("$ edge flow pouse x") == "no verb 'pouse'"
    assert _wrong("sudo -u edge /opt/edge/bin/edge status --confg=x   # so") == "no option '--confg=x'"


def _anchors(page: Path) -> set[str]:
    """The names of a page's headings, as the usual renderers make them."""
    titles = re.findall(r"^#+ +(.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in _anchors(there)):
            missing.append(target)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """Paths of the tree: those that begin with one of its folders; in the map, also those of the gateway's rooms."""
    roots = [ROOT, ROOT / "edge_runtime"] if page.name == "architecture.md" else [ROOT]
    tops = {entry.name for root in roots for entry in root.iterdir() if entry.is_dir()} - {"data"}
    named = {
        path
        for found in INLINE.finditer(FENCE.sub("", page.read_text()))
        if re.fullmatch(r"[\w./-]+", path := found[1]) and path.partition("/")[0] in tops and "/" in path
    }
    assert [path for path in sorted(named) if not any((root / path).exists() for root in roots)] == []


def test_decisions_are_numbered_once_and_found_in_their_list() -> None:
    folder = ROOT / "docs" / "adr"
    names = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert len({name[:4] for name in names}) == len(names)
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())
    assert sorted(listed) == names
    for page in PAGES:
        for number in re.findall(r"\bADRs? (\d{1,4})\b", page.read_text()):
            assert any(name.startswith(f"{int(number):04}") for name in names), f"{page.name}: ADR {number}"


def test_every_page_is_found_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.md)\)", (ROOT / "README.md").read_text()))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")}
