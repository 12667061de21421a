"""Documents do not lie about what can be checked: links lead somewhere, decisions are numbered, commands exist."""

import itertools
import re
import tomllib
from pathlib import Path

import pytest

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
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = re.findall(r"`make ([a-z-]+)", document.read_text(encoding="utf-8"))
    code += re.findall(r"^\s*make ([a-z-]+)", document.read_text(encoding="utf-8"), re.MULTILINE)

    assert set(code) <= targets


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
