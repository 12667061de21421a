"""Tables for people, and docs/benchmarks.md, where the newest result of each measurement stands between two marks."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, readable on a terminal too."""
    cells = [list(head), *[[str(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> str:
    """Name the machine, as far as a figure depends on it."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = found.group(1).strip() if found else ""
    processor = model or platform.machine()
    return f"{os.cpu_count()} cores, {processor}, {platform.system()}, Python {platform.python_version()}"


def keep(name: str, what: str, table: str, figures: Mapping[str, object]) -> None:
    """Replace the section of a measurement in docs/benchmarks.md."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=PAGE.parent
    ).stdout.strip()
    section = (
        f"<!-- begin {name} -->\n## {name}: {what}\n\n"
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}; {machine()}. `make bench NAME={name}`\n\n"
        f"{table}\n\n```json\n{json.dumps(figures)}\n```\n<!-- end {name} -->\n"
    )
    text = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    marks = re.compile(rf"<!-- begin {name} -->.*?<!-- end {name} -->\n", re.DOTALL)
    PAGE.write_text(marks.sub(lambda _: section, text) if marks.search(text) else f"{text.rstrip()}\n\n{section}")
