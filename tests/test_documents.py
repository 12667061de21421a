"""Documents do not lie about what can be checked: links lead somewhere, decisions are numbered, commands exist."""

import ast
import contextlib
import functools
import io
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

import groundsegment.console.main
import onboard.console
from protocol.report import Reason

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
DECISIONS = sorted(ROOT.glob("docs/adr/*.md"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_between_documents_lead_somewhere(document):
    links = LINK.findall(FENCED.sub("", document.read_text(encoding="utf-8")))
    local = [link.partition("#")[0] for link in links if not link.startswith(("http", "#"))]

    assert [link for link in local if not (document.parent / link).exists()] == []


def test_decisions_are_numbered_without_gaps():
    assert [path.name[:4] for path in DECISIONS] == [f"{number:04d}" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("decision", DECISIONS, ids=name_of)
def test_a_decision_says_its_number_its_status_and_what_would_change_it(decision):
    text = decision.read_text(encoding="utf-8")

    assert text.startswith(f"# {decision.name[:4]}. ")
    assert re.search(r"^(Accepted|Superseded by \d{4}), \d{4}-\d{2}-\d{2}\.", text, re.MULTILINE)
    assert "\n## What would make us change it\n" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_make_targets_named_in_documents_exist(document):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = re.findall(r"`make ([a-z0-9-]+)", document.read_text(encoding="utf-8"))
    code += re.findall(r"^\s*make ([a-z0-9-]+)", document.read_text(encoding="utf-8"), re.MULTILINE)

    assert set(code) <= targets


def commands_in(document):
    """Find the lines in code that start one of our two commands, continuation lines joined."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?:    |\$ )?(skyloadd? .*)$", text, re.MULTILINE) + re.findall(r"`(skyloadd? [^`]+)`", text)
    return [line.partition(" #")[0].removesuffix("&").strip() for line in lines]


def options_on_the_ground(words):
    """Return what `skyload` with these words in front takes: options, or nothing if there is no such command."""
    command = typer.main.get_command(groundsegment.console.main.app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return set()
        command, words = command.commands[words[0]], words[1:]
    return {"--help", *itertools.chain(*([*parameter.opts, *parameter.secondary_opts] for parameter in command.params))}


def options_on_board(words):
    """Return what `skyloadd` with these words in front takes: options, or nothing if there is no such command."""
    shown = io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        onboard.console.main([*words[:1], "--help"])
    return {*re.findall(r"--[a-z-]+", shown.getvalue())} if ended.value.code == 0 else set()


def unknown_options(line):
    """Return the options of a command line that the command does not have, or its name."""
    program, *words = shlex.split(line)
    words = [word.partition("=")[0] for word in words]
    known = options_on_the_ground(words) if program == "skyload" else options_on_board(words)
    return [word for word in words if word.startswith("--") and word not in known] if known else words


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_in_documents_are_understood(document):
    wrong = {line: unknown_options(line) for line in commands_in(document)}

    assert {line: words for line, words in wrong.items() if words} == {}


def test_constraints_pin_everything_exactly_and_nothing_needs_cuda():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]

    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin)] == []
    assert [pin for pin in pins if re.match(r"nvidia|cuda|triton", pin)] == []


def test_constraints_name_every_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    pinned = {
        normal(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }

    assert {normal(re.split(r"[^A-Za-z0-9._-]", need)[0]) for need in declared} - pinned == set()


def normal(name):
    """Return a distribution's name in the one form that compares."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:protocol|groundsegment|onboard|tests|docs|bench)/[\w./-]+)`", text)

    assert len(named) > 25
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


ATTACKS_OF_THE_BAR = (
    "replay", "downgrade", "mix-and-match", "freeze", "wrong satellite", "wrong base", "one stolen online key",
    "one stolen root key", "forged report", "forged command", "replayed command", "poisoned symbols",
    "malicious model files",
)  # fmt: skip
ATTACKS = re.findall(
    r"^\| (?!attack \||---)(.+?) \| (.+?) \| (.+?) \|$",
    (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("## Attacks")[2].partition("\n## ")[0],
    re.MULTILINE,
)
TEST_NAME = re.compile(r"`([\w/]+\.py)::(test_\w+)(?:\[([^\]]+)\])?`")


@functools.cache
def functions_of(path):
    """Return the tests of a file by name, and its source."""
    source = path.read_text(encoding="utf-8")
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name: node for node in ast.parse(source).body if isinstance(node, functions)}, source


@pytest.mark.parametrize("attack", ATTACKS_OF_THE_BAR)
def test_no_attack_is_missing_in_the_table(attack):
    assert any(attack in row[0] for row in ATTACKS)


@pytest.mark.parametrize(("attack", "verdict", "tests"), ATTACKS, ids=[row[0][:60] for row in ATTACKS])
def test_every_attack_has_a_verdict_and_tests_that_exist(attack, verdict, tests):
    named = TEST_NAME.findall(tests)
    assert named, attack
    assert tests == ", ".join(match[0] for match in TEST_NAME.finditer(tests)), "something else than tests"
    sources = ""
    for file, function, row in named:
        functions, source = functions_of(ROOT / "tests" / file)
        assert function in functions, f"{file} has no {function}"
        marks = " ".join(map(ast.unparse, functions[function].decorator_list))
        assert not re.search(r"mark\.(skip\b|xfail)", marks)
        assert not row or f'"{row}"' in source, f"{function} of {file} has no row {row!r}"
        sources += source
    for word in re.findall(r"`([^`]+)`", verdict.replace("`make fuzz`", "")):
        assert not word.isupper() or word in Reason.__members__, f"{word}: no reason of ours"
        assert word in sources or word.upper().replace("-", "_") in sources, f"{word}: not in {tests}"
