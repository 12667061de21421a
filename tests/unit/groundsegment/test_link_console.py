"""`skyload link` as a person meets it: help, errors with hints, signals, JSON."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundsegment.console.link import app
from groundsegment.emulator.control import call_control

COMMAND = [sys.executable, "-c", "from groundsegment.console.link import app; app()"]
PATIENCE_S = 45


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@contextlib.contextmanager
def emulator(control: Path, *options: str, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """A real process, up once its control socket answers; killed if the test leaves it running."""
    process = subprocess.Popen(
        [*COMMAND, "run", "--control", str(control), "--ground", "127.0.0.1:0", "--space", "127.0.0.1:0", *options],
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
    )
    with process:
        try:
            if stderr == subprocess.PIPE:
                assert process.stderr is not None
                assert b"is up" in process.stderr.readline()
            yield process
        finally:
            process.kill()


def test_help_names_every_command_and_shows_examples() -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in ("run", "profiles", "show", "cut", "restore", "use", "stats"):
        assert command in out
        code, text, _ = run(command, "--help")
        assert code == 0
        assert f"skyload link {command}" in text


def test_profiles_are_listed_for_people_and_scripts() -> None:
    code, out, _ = run("profiles")
    assert code == 0
    assert "s-band" in out
    code, out, _ = run("profiles", "--json")
    assert [row["name"] for row in json.loads(out)][:2] == ["clear", "degraded"]


def test_a_shown_profile_is_a_valid_file_to_start_from(tmp_path: Path) -> None:
    code, out, _ = run("show", "degraded")
    assert code == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(out)
    code, out, _ = run("show", str(mine), "--json")
    assert code == 0
    assert json.loads(out)["up"]["bit_error_rate"] == 1e-6


@pytest.mark.parametrize("name", ["demo", "s-band", "one-way"])
def test_every_kind_of_profile_is_shown_as_json(name: str) -> None:
    code, out, _ = run("show", name, "--json")
    assert code == 0
    json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "nope"], 3, "nope"),
        (["run", "--satellite", "127.0.0.1:1", "--profile", "/nonexistent.yaml"], 3, "nonexistent"),
        (["run", "--satellite", "nowhere"], 3, "HOST:PORT"),
        (["run", "--satellite", "h:1", "--ground", "x"], 3, "--ground"),
        (["run", "--satellite", "127.0.0.1:1", "--ground", "192.0.2.1:0"], 3, "--ground"),
        (["cut", "--control", "/nonexistent.sock"], 6, "no link emulator"),
        (["stats", "--control", "/nonexistent.sock"], 6, "no link emulator"),
        (["use", "nope", "--control", "/nonexistent.sock"], 3, "nope"),
    ],
)
def test_an_error_says_what_to_do(arguments: list[str], code: int, words: str) -> None:
    got, out, err = run(*arguments)
    assert got == code
    assert out == ""
    assert words in err
    assert "hint:" in err


def test_a_port_in_use_is_an_error_with_a_hint() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = run("run", "--satellite", "127.0.0.1:1", "--ground", place)
    assert code == 7
    assert "in use" in err
    assert "hint:" in err


def test_a_statistics_file_that_cannot_be_written_stops_the_run_with_an_error(tmp_path: Path) -> None:
    options = ["--ground", "127.0.0.1:0", "--space", "127.0.0.1:0", "--statistics-file", str(tmp_path / "no" / "f")]
    code, _, err = run("run", "--satellite", "127.0.0.1:1", *options)
    assert code == 3
    assert "hint:" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly_with_final_statistics(number: signal.Signals, tmp_path: Path) -> None:
    control, kept = tmp_path / "link.sock", tmp_path / "link.json"
    options = ["--satellite", "127.0.0.1:1", "--profile", "one-way", "--json", "--statistics-file", str(kept)]
    with emulator(control, *options) as process:
        statistics = call_control(control, {"op": "statistics"})
        host, _, port = statistics["ground"].rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as station:
            station.sendto(b"frame", (host, int(port)))
            while call_control(control, {"op": "statistics"})["up"]["offered"] < 1:
                pass
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert json.loads(out) == json.loads(kept.read_text())
    assert json.loads(out)["up"]["offered"] == 1
    assert not control.exists()


def test_an_operator_cuts_restores_and_changes_a_running_link(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"
    with emulator(control, "--satellite", "127.0.0.1:1") as process:
        code, out, _ = run("cut", "--control", str(control))
        assert code == 0
        assert "cut up and down" in out
        code, out, _ = run("restore", "--control", str(control), "--json")
        assert json.loads(out)["up"]["is_up"]
        code, out, _ = run("use", "degraded", "--control", str(control))
        assert out.startswith("degraded at")
        code, out, err = run("cut", "--control", str(control), "--direction", "sideways")
        assert code == 3
        assert "hint:" in err
        process.terminate()
        out_bytes, _ = process.communicate(timeout=PATIENCE_S)
        assert b"frames in" in out_bytes


def test_on_a_terminal_one_line_is_rewritten(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    control = tmp_path / "link.sock"
    with emulator(control, "--satellite", "127.0.0.1:1", "--profile", "demo", stderr=terminal) as process:
        os.close(terminal)
        said = b""
        while said.count(b"\r\x1b[2K") < 2:
            said += os.read(master, 4096)
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0
    os.close(master)
    assert re.search(rb"demo at \d+ s: (contact|gap), \d+ s more \| up 0 frames", said)


def test_the_stations_of_a_profile_get_their_ports_and_are_told(tmp_path: Path) -> None:
    control = tmp_path / "link.sock"
    places = ["--listen", "svalbard=127.0.0.1:0", "--listen", "inuvik=127.0.0.1:0"]
    with emulator(control, "--profile", "three-stations", "--satellite", "127.0.0.1:9", *places) as process:
        code, out, _ = run("stats", "--control", str(control))
        assert code == 0
        assert "svalbard: contact" in out
        code, out, _ = run("cut", "--control", str(control), "--station", "inuvik", "--json")
        links = json.loads(out)["links"]
        assert [links[name]["up"]["is_cut"] for name in ("svalbard", "inuvik", "awarua")] == [False, True, False]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["svalbard"], "not NAME=HOST:PORT"),
        (["=127.0.0.1:1"], "not NAME=HOST:PORT"),
        (["svalbard=nowhere"], "is not HOST:PORT"),
        (["svalbard=127.0.0.1:0", "svalbard=127.0.0.1:0"], "given twice"),
        (["oslo=127.0.0.1:0"], "stations of three-stations: svalbard, inuvik, awarua"),
    ],
)
def test_a_bad_place_of_a_station_is_told_with_a_hint(words: list[str], said: str) -> None:
    options = [part for word in words for part in ("--listen", word)]
    code, _, err = run(
        "run", "--satellite", "127.0.0.1:9", "--profile", "three-stations", "--ground", "127.0.0.1:0", *options
    )
    assert code == 3
    assert said in " ".join(err.split())
    assert "hint:" in err
