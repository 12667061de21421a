"""Every command as a newcomer gets it wrong: an exit code that is not 0, words, a hint, and nothing half done.

One table for each program. A row is a mistake: its name, the command, the exit code, words that must be on stderr, and
what was broken before. After each one, every file must be as it was, apart from what the row says it may leave.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import onboard.console
from groundsegment.console.main import app
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState
from onboard.config import load_config
from onboard.state import locked_state
from onboard.store.record import copy_paths
from protocol.file_names import metadata_file_name
from tests.fakes.engine import engine_command
from tests.fakes.models import make_tiny_gguf, make_tiny_qwen2, write_json
from tests.test_documents import unknown_options

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
LINK = "--link 127.0.0.1:9"  # nobody listens on discard
UDP_PORT, OTHER_UDP_PORT, TCP_PORT = 29871, 29872, 29873  # below those that the system gives away
UNSEEN = ("-wal", "-shm", ".lock")


@dataclass(frozen=True)
class Mistake:
    """One row.

    Attributes:
        name: for the report.
        words: the command line without the program.
        code: the exit code.
        said: what stderr must contain.
        given: breaks something in the place first; what it returns is closed after the command.
        leaves: beginnings of paths that may have changed.
    """

    name: str
    words: str
    code: int
    said: str
    given: object = None
    leaves: tuple = ()


# -- what may be broken before


def cut(path, size_bytes=10):
    return lambda: os.truncate(path, size_bytes)


def garble(path, data=b"garbage\n"):
    return lambda: Path(path).write_bytes(data)


def remove(path):
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


RECORD = "kit/state/trust.record"


def every_copy(change):
    """Of the trust record."""
    return lambda: [change(str(path))() for path in copy_paths(Path(RECORD))]


def other_key():
    shutil.copy2("depot/keys/command.pem", "depot/keys/targets.pem")


def open_to_others(path):
    return lambda: Path(path).chmod(0o644)


def replace(path, by):
    return lambda: shutil.copy2(by, path)


def set_key(key, value):
    """Change a line of the satellite's configuration."""

    def change():
        path = Path("kit/satellite.toml")
        lines = path.read_text().splitlines()
        number = next(number for number, line in enumerate(lines) if line.startswith(f"{key} ="))
        lines[number] = f"{key} = {value}"
        path.write_text("\n".join(lines) + "\n")

    return change


def sql(text):
    def change():
        with contextlib.closing(sqlite3.connect("depot/depot.db")) as connection:
            connection.execute(text)
            connection.commit()

    return change


def quantized():
    path = Path("model/config.json")
    write_json(path, {**json.loads(path.read_text()), "quantization_config": {"quant_method": "x"}})


def held(name):
    """Another skyload holds a lock of the depot."""

    def hold():
        stack = contextlib.ExitStack()
        stack.enter_context(stack.enter_context(Depot.open(Path("depot"))).lock(name))
        return stack

    return hold


def satellite_runs():
    stack = contextlib.ExitStack()
    stack.enter_context(locked_state(load_config(Path("kit/satellite.toml"))))
    return stack


def somebody_listens(host, port):
    def listen():
        holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        holder.bind((host, port))
        return holder

    return listen


def somebody_controls():
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    holder.bind("sock")
    holder.listen()
    return holder


def provisioned():
    assert onboard.console.run(shlex.split("provision model --config kit/satellite.toml --name first")) == 0


def provisioned_and(*changes):
    def do():
        provisioned()
        for change in changes:
            change()

    return do


def both(*changes):
    def do():
        for change in changes:
            change()

    return do


def pickled():
    Path("model/model.safetensors").rename("model/pytorch_model.bin")


def damaged_release():
    (next(Path("kit/state/releases").iterdir()) / "config.json").write_text("garbage")


def no_release():
    shutil.rmtree(next(Path("kit/state/releases").iterdir()))


def in_the_way():
    with Depot.open(Path("depot")) as depot:
        (update,) = depot.updates()
    Path("new").mkdir()
    (Path("new") / metadata_file_name(update.sequence, update.handle)).write_text("mine\n")


def linked():
    Path("link.skb").symlink_to("file")


def flipped(name):
    """One bit of a staged file is not what it was."""

    def flip():
        path = next(Path("depot/updates").glob(f"*/{name}"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    return flip


def ended(state):
    return sql(f"UPDATE updates SET state = '{state}'")


def lost_metadata():
    next(Path("depot/updates").glob("*/metadata.skm")).unlink()


def stationed(*changes):
    """A station is there, its directory too."""

    def do():
        for words in ("station add oslo --for SAT-1", "station export oslo --for SAT-1 station"):
            result = CliRunner().invoke(app, shlex.split(words))
            assert result.exit_code == 0, result.stderr
        for change in changes:
            change()

    return do


def exported_anew():
    result = CliRunner().invoke(app, shlex.split("station export oslo --for SAT-1 newer"))
    assert result.exit_code == 0, result.stderr


# -- the ground

DEPOT_GONE = "no depot there"
DATABASE = ("depot/depot.db",)  # a command that was asked for has its number, sent or not
EMULATE = "link run --satellite 127.0.0.1:9 --space 127.0.0.1:0 --ground"
GROUND = [
    # keys
    ("a kit is there", "keys init --satellite S --kit kit --depot new", 3, "never overwritten"),
    ("a kit under a file", "keys init --satellite S --kit file/kit --depot new", 3, "directory"),
    ("a kit in the depot", "keys init --satellite S --kit new/kit --depot new", 3, "keep them apart"),
    ("a depot in the kit", "keys init --satellite S --kit new --depot new/depot", 3, "keep them apart"),
    ("a depot that is a file", "keys init --satellite S --kit new --depot file", 3, "file"),
    ("a depot among other things", "keys init --satellite S --kit new --depot model", 3, "not a depot"),
    ("a depot that has keys", "keys init --satellite S --kit new", 4, "keys add-satellite"),
    ("a name with a space", "keys init --satellite 'S 1' --kit new --depot new2", 3, "cannot be a satellite's name"),
    ("one name twice", "keys init --satellite S --satellite S --kit new --depot new2", 3, "named twice"),
    ("keys without words", "keys init", 2, "--satellite"),
    ("a satellite twice", "keys add-satellite SAT-1 --kit new", 3, "already a satellite"),
    ("another satellite's kit", "keys add-satellite SAT-2 --kit kit", 3, "the kit of SAT-1"),
    ("a kit of another depot", "keys add-satellite SAT-2 --kit other", 3, "another depot"),
    ("no trust root", "keys add-satellite SAT-2 --kit new", 4, "no trust root", remove("depot/keys/root.json")),
    ("a bad trust root", "keys add-satellite SAT-2 --kit new", 4, "not a trust root", garble("depot/keys/root.json")),
    ("keys of no depot", "keys list --depot nowhere", 3, DEPOT_GONE),
    ("keys of a file", "keys list --depot file", 3, DEPOT_GONE),
    ("a key open to others", "keys list", 4, "chmod 600", open_to_others("depot/keys/command.pem")),
    # the depot
    ("a bad database", "status", 8, "damaged", garble("depot/depot.db")),
    ("a bad database, anew", "keys init --satellite S --kit new", 8, "damaged", garble("depot/depot.db")),
    ("an empty database", "status", 8, "damaged", cut("depot/depot.db", 0)),
    ("an empty database, anew", "keys init --satellite S --kit new", 8, "damaged", cut("depot/depot.db", 0)),
    ("half a database", "plan --for SAT-1", 8, "damaged", cut("depot/depot.db", 5000)),
    ("a table is missing", "status", 8, "damaged", sql("DROP TABLE satellites")),
    ("no database", "status", 3, "restore it", remove("depot/depot.db")),
    ("a newer depot", "status", 3, "version 99", sql("UPDATE schema SET version = 99")),
    ("an unknown satellite", "status --for SAT-9", 5, "known satellites: SAT-1"),
    # model
    ("no such model", "model inspect nowhere", 3, "no such file"),
    ("a file that is no model", "model inspect file", 3, "not a GGUF file"),
    ("a directory that is no model", "model inspect kit", 3, "no config.json"),
    ("a pickle", "model inspect model", 3, "convert it", pickled),
    ("no config", "model inspect model", 3, "no config.json", remove("model/config.json")),
    ("an empty config", "model inspect model", 3, "not usable JSON", cut("model/config.json", 0)),
    ("half of the weights", "model inspect model", 3, "header promises", cut("model/model.safetensors", 9000)),
    ("no weights at all", "model inspect model", 3, "header of 0 bytes", cut("model/model.safetensors", 0)),
    ("half a GGUF file", "model inspect model.gguf", 3, "truncated", cut("model.gguf", 20000)),
    ("quantize nothing", "model quantize nowhere --out new", 3, "no such file"),
    ("quantize twice", "model quantize model --out new", 3, "quantized already", quantized),
    ("quantize onto itself", "model quantize model --out model --force", 3, "the same"),
    ("quantize onto a kit", "model quantize model --out kit --force", 3, "not a model"),
    ("quantize to 5 bits", "model quantize model --out new --format int5", 2, "int5"),
    ("odd groups", "model quantize model --out new --format int4 --group-size 7", 3, "--group-size 32"),
    ("import nothing", "model import nowhere --out new", 3, "smollm2"),
    ("import a directory", "model import model --out new", 3, "needs no import"),
    ("import half a file", "model import model.gguf --out new", 3, "truncated", cut("model.gguf", 20000)),
    ("import onto a file", "model import model.gguf --out file", 3, "not a directory"),
    # stage
    ("stage nothing", "stage nowhere --for SAT-1", 3, "no such file"),
    ("stage a pickle", "stage model --for SAT-1", 3, "convert it", pickled),
    ("stage half of the weights", "stage model --for SAT-1", 3, "promises", cut("model/model.safetensors", 9000)),
    ("stage for nobody", "stage model", 2, "--for"),
    ("stage for a stranger", "stage model --for SAT-9", 5, "known satellites"),
    ("stage without a depot", "stage model --for SAT-1 --depot nowhere", 3, DEPOT_GONE),
    ("stage twice", "stage staged --for SAT-1", 3, "is staged already"),
    ("two stages", "stage model --for SAT-1", 7, "stage is held by process", held("stage")),
    ("no such base", "stage model --for SAT-1 --base nowhere", 3, "no such file"),
    ("its own base", "stage model --for SAT-1 --base model", 3, "nothing to do"),
    ("no base known", "stage model --for SAT-1 --base current", 3, "--base none"),
    ("no questions", "stage model --for SAT-1 --canary nowhere", 3, "nowhere"),
    ("questions that are none", "stage model --for SAT-1 --canary file", 3, "list of questions"),
    ("no such twin", "stage model --for SAT-1 --twin nowhere", 9, "--no-canary"),
    ("a twin in open quotes", "stage model --for SAT-1 --twin '\"'", 3, "No closing quotation"),
    ("a bundle too small", "stage model --for SAT-1 --bundle-size 1B", 3, "64KiB"),
    ("an odd symbol", "stage model --for SAT-1 --symbol-size 1281", 3, "multiple of 8"),
    ("a symbol of 9 kB", "stage model --for SAT-1 --symbol-size 9000", 2, "--symbol-size"),
    ("a symbol too small for a bundle", "stage model --for SAT-1 --symbol-size 64", 3, "65536 symbols"),
    ("a weight of nothing", "stage model --for SAT-1 --weight 0", 2, "--weight"),
    ("a priority in words", "stage model --for SAT-1 --priority high", 2, "--priority"),
    ("a floor too high", "stage model --for SAT-1 --floor 99999999999999999999", 2, "--floor"),
    ("a key is missing", "stage model --for SAT-1", 4, "targets.pem", remove("depot/keys/targets.pem")),
    ("a key is none", "stage model --for SAT-1", 4, "backup", garble("depot/keys/targets.pem")),
    ("a key is another", "stage model --for SAT-1", 4, "one backup", other_key),
    ("the root is none", "stage model --for SAT-1", 4, "not a trust root", garble("depot/keys/root.json")),
    # plan
    ("plan what", "plan", 3, "which update"),
    ("plan no update of a satellite", "plan 00 --for SAT-1", 5, "no such update"),
    ("plan no update", "plan zz", 5, "no such update"),
    ("plan an empty name", "plan ''", 5, "no such update"),
    ("plan for a stranger", "plan --for SAT-9", 5, "known satellites"),
    ("no such profile", "plan --for SAT-1 --profile nowhere", 3, "s-band"),
    ("no such contacts", "plan --for SAT-1 --contacts nowhere", 3, "plan --help"),
    ("contacts that are none", "plan --for SAT-1 --contacts file", 3, "plan --help"),
    ("contacts of yesterday", "plan --for SAT-1 --contacts old.yaml", 3, "no contact"),
    ("a rate without a unit", "plan --for SAT-1 --rate 2", 3, "2Mbit/s"),
    ("a rate without an end", "plan --for SAT-1 --rate 1e400Mbit/s", 3, "not a rate"),
    ("an epoch that is none", "plan --for SAT-1 --profile s-band --epoch nan", 3, "--epoch"),
    ("an epoch without a profile", "plan --for SAT-1 --epoch 5", 3, "--profile"),
    ("all frames lost", "plan --for SAT-1 --loss 100%", 3, "below 1"),
    ("plan for no station", "plan --for SAT-1 --station oslo", 5, "skyload station add"),
    ("a deadline in words", "plan --for SAT-1 --deadline tomorrow", 3, "ISO 8601"),
    # uplink
    ("a link without a port", "uplink --for SAT-1 --link foo", 3, "HOST:PORT"),
    ("fly for nobody", f"uplink {LINK}", 2, "--for"),
    ("fly for a stranger", f"uplink --for SAT-9 {LINK}", 5, "known satellites"),
    ("fly nothing", f"uplink --for SAT-1 {LINK}", 5, "stage an update", sql("DELETE FROM updates")),
    ("two uplinks", f"uplink --for SAT-1 {LINK}", 7, "held by process", held("uplink-SAT-1")),
    ("fly without the link's key", f"uplink --for SAT-1 {LINK}", 4, "link key", remove("depot/keys/links/SAT-1.key")),
    ("fly with a bad link key", f"uplink --for SAT-1 {LINK}", 4, "64 hex", garble("depot/keys/links/SAT-1.key")),
    ("fly until yesterday", f"uplink --for SAT-1 {LINK} --until 2020-01-01", 6, "has not decided"),
    ("fly from no station", f"uplink --for SAT-1 {LINK} --station oslo", 5, "skyload station add"),
    ("fly as another", f"uplink --for SAT-1 {LINK} --profile demo --station oslo", 3, "stations of this plan"),
    ("fly blindly at any rate", f"uplink --for SAT-1 {LINK} --profile one-way --rate max", 3, "--rate 2Mbit/s"),
    ("fly damaged metadata", f"uplink --for SAT-1 {LINK}", 8, "no longer what was staged", flipped("metadata.skm")),
    ("fly by two plans", f"uplink --for SAT-1 {LINK} --profile demo --contacts x", 3, "give one of them"),
    # export
    ("export nothing", "export", 2, "Missing argument"),
    ("export without a directory", "export newest --for SAT-1", 2, "Missing argument"),
    ("export the newest of nobody", "export newest new", 3, "--for"),
    ("export for a stranger", "export newest new --for SAT-9", 5, "known satellites: SAT-1"),
    ("export no update", "export zz new", 5, "no such update"),
    ("export an empty name", "export '' new", 5, "no such update"),
    ("export into a file", "export newest file --for SAT-1", 3, "file"),
    ("export under a file", "export newest file/new --for SAT-1", 3, "file"),
    ("export no such bundle", "export newest new --for SAT-1 --only 0-99999", 3, "bundles are 0 to"),
    ("export the rest", "export newest new --for SAT-1 --only rest", 3, "0-3,7"),
    ("export without a depot", "export newest new --for SAT-1 --depot nowhere", 3, DEPOT_GONE),
    ("export over a file", "export newest new --for SAT-1", 3, "not what it should be", in_the_way),
    ("export a lost file", "export newest new --for SAT-1", 8, "stage the same release again", lost_metadata),
    # import
    ("import what", "import", 2, "Missing argument"),
    ("import nothing there", "import nowhere", 3, "no such file"),
    ("import nothing of a satellite", "import model", 3, "no message or report"),
    ("import a file", "import file", 3, "1 of 1 files refused"),
    ("import for a stranger", "import file --for SAT-9", 5, "known satellites: SAT-1"),
    ("import into no depot", "import file --depot nowhere", 3, DEPOT_GONE),
    # cancel, ask and revert
    ("cancel nothing known", "cancel zz --for SAT-1", 5, "no such update"),
    ("cancel for nobody", "cancel 00", 2, "--for"),
    ("cancel for a stranger", "cancel 00 --for SAT-9", 5, "known satellites"),
    ("cancel without a word", "cancel {update} --for SAT-1", 3, "--yes"),
    ("cancel at no port", "cancel {update} --for SAT-1 --link foo", 3, "HOST:PORT"),
    ("cancel what is confirmed", "cancel {update} --for SAT-1 --yes", 3, "skyload revert", ended("confirmed")),
    ("cancel what is cancelled", "cancel {update} --for SAT-1 --yes", 3, "skyload status", ended("cancelled")),
    (
        "cancel without a key", "cancel {update} --for SAT-1 --yes", 4, "command.pem",
        both(ended("flying"), remove("depot/keys/command.pem")), DATABASE,
    ),
    ("ask nothing", f"ask '' --for SAT-1 {LINK}", 3, "write something"),
    ("ask too much", f"ask {'x' * 20000} --for SAT-1 {LINK}", 3, "16384"),
    ("ask in too many bytes", f"ask {'𝄞' * 16000} --for SAT-1 {LINK}", 3, "bytes"),
    ("ask in no encoding", f"ask '\udcff' --for SAT-1 {LINK}", 3, "UTF-8"),
    ("ask with a huge seed", f"ask hi --for SAT-1 {LINK} --seed 99999999999999999999", 2, "--seed"),
    ("ask a stranger", f"ask hi --for SAT-9 {LINK}", 5, "known satellites"),
    ("ask nobody", f"ask hi --for SAT-1 {LINK} --timeout 0.1", 6, "no word from SAT-1", None, DATABASE),
    ("ask without a key", f"ask hi --for SAT-1 {LINK}", 4, "command.pem", remove("depot/keys/command.pem"), DATABASE),
    ("revert unasked", f"revert --for SAT-1 {LINK}", 3, "--yes"),
    ("revert to no digest", f"revert zz --for SAT-1 {LINK} --yes", 5, "all 64 digits"),
    ("revert to nothing known", f"revert abcdef --for SAT-1 {LINK} --yes", 5, "no such release"),
    # stations
    ("a symbol of odd size", "keys init --satellite S --kit new --depot new2 --symbol-size 12", 3, "a multiple of 8"),
    ("a station without words", "station add oslo", 2, "--for"),
    ("a station of nobody", "station add oslo --for SAT-9", 5, "known satellites: SAT-1"),
    ("a station with a space", "station add 'os lo' --for SAT-1", 3, "cannot be a station's name"),
    ("a station twice", "station add oslo --for SAT-1", 3, "already a station", stationed()),
    ("a station at no port", "station add oslo --for SAT-1 --endpoint modem", 3, "HOST:PORT"),
    ("a station without a number", "station add oslo --for SAT-1 --number 16", 3, "1 to 15"),
    ("a station with no such plan", "station add oslo --for SAT-1 --contacts nowhere", 3, "no such contact plan"),
    ("stations of no depot", "station list --depot nowhere", 3, DEPOT_GONE),
    ("show no station", "station show oslo --for SAT-1", 5, "station add oslo --for SAT-1"),
    ("show another station", "station show bergen --for SAT-1", 5, "stations of SAT-1: oslo", stationed()),
    ("remove no station", "station remove oslo --for SAT-1 --yes", 5, "no such station"),
    ("export no station", "station export oslo --for SAT-1 new", 5, "no such station"),
    ("export a station twice", "station export oslo --for SAT-1 station", 3, "never overwritten", stationed()),
    ("export a station into the depot", "station export oslo --for SAT-1 depot/new", 3, "leaves home", stationed()),
    ("export a station around the depot", "station export oslo --for SAT-1 .", 3, "leaves home", stationed()),
    ("export a station without a key", "station export oslo --for SAT-1 new", 4, "link key",
        stationed(remove("depot/keys/links/SAT-1.key"))),
    ("sync what", "station sync", 3, "at home, or at a station"),
    ("sync both", "station sync --for SAT-1 --station-dir station", 3, "at home, or at a station"),
    ("sync for a stranger", "station sync --for SAT-9", 5, "known satellites: SAT-1"),
    ("sync never", "station sync --for SAT-1 --every now", 3, "not a duration"),
    ("sync by two plans", "station sync --for SAT-1 --contacts x --profile demo", 3, "give one of them"),
    ("sync a plan at a station", "station sync --station-dir station --profile demo", 3, "for home"),
    ("sync no station directory", "station sync --station-dir nowhere", 3, "no station directory"),
    ("sync a depot", "station sync --station-dir depot", 3, "no station directory"),
    ("sync with nobody", "station sync --station-dir station --depot nowhere", 6, "home cannot be reached",
        stationed(), ("station/logbook.letter", "station/locks", "nowhere")),
    ("sync with a stranger", "station sync --station-dir station", 6, "not a letter of this kind",
        stationed(garble("depot/exchange/SAT-1/oslo/orders.letter")), ("station/", "depot/exchange")),
    ("sync a forged letter", "station sync --for SAT-1", 6, "not a letter of this kind",
        stationed(garble("depot/exchange/SAT-1/oslo/logbook.letter")), DATABASE),
    ("sync what was exported anew", "station sync --station-dir station", 3, "must not fly any more",
        stationed(exported_anew), ("station/",)),
    ("a station's bad notes", "station show oslo --for SAT-1", 8, "notes.json",
        stationed(garble("depot/stations/SAT-1/oslo/notes.json"))),
    ("fly nowhere", "station run --station-dir nowhere", 3, "no station directory"),
    ("fly from home", "station run --station-dir depot", 3, "no station directory"),
    ("fly at no time", f"station run --station-dir station {LINK}", 3, "no contact plan", stationed()),
    ("fly another's contacts", f"station run --station-dir station {LINK} --profile three-stations", 3,
        "stations of this plan: awarua", stationed()),
    ("fly by a bad link", "station run --station-dir station --link foo", 3, "HOST:PORT", stationed()),
    ("fly without the station's key", f"station run --station-dir station {LINK} --profile clear", 4, "link key",
        stationed(remove("station/keys/stations/SAT-1@1.key"))),
    ("fly after the last contact", f"station run --station-dir station {LINK} --contacts old.yaml", 6,
        "no contact is left", stationed()),
    # simulate
    ("simulate what", "simulate", 3, "skyload simulate --list"),
    ("simulate two plans", "simulate adaspace --profile clear", 3, "give one of"),
    ("simulate no scenario", "simulate adaspce", 3, "did you mean adaspace"),
    ("simulate what is no scenario", "simulate file", 3, "mapping of keys"),
    ("simulate a rate of nothing", "simulate adaspace --rate 7", 3, "bits or bytes"),
    ("simulate a loss of all", "simulate adaspace --loss 100%", 3, "share below 1"),
    ("simulate odd symbols", "simulate adaspace --symbol-size 63", 3, "multiple of 8"),
    ("simulate without a size", "simulate adaspace --size huge", 3, "5GB"),
    ("simulate a plan that is none", "simulate --plan nowhere.yaml", 3, "no such contact plan"),
    ("simulate no profile", "simulate --profile nowhere", 3, "s-band"),
    ("simulate for a stranger", "simulate --profile clear --for SAT-9", 5, "known satellites"),
    ("simulate no update", "simulate --profile clear --update zz", 5, "no such update"),
    ("simulate at no rate", "simulate --profile clear", 3, "at which rate"),
    # the emulator
    ("a station of no profile", f"{EMULATE} 127.0.0.1:0 --listen oslo=127.0.0.1:0", 3, "no such station"),
    ("a station at no place", f"{EMULATE} 127.0.0.1:0 --listen oslo", 3, "NAME=HOST:PORT"),
    ("emulate for nobody", "link run --satellite 127.0.0.1:0", 3, "HOST:PORT"),
    ("emulate for itself", "link run --satellite 127.0.0.1:7001", 3, "listens there itself"),
    ("emulate no profile", "link run --satellite 127.0.0.1:9 --profile nowhere", 3, "s-band"),
    ("statistics in no directory", f"{EMULATE} 127.0.0.1:0 --statistics-file nowhere/x", 3, "--statistics-file"),
    ("two emulators", f"{EMULATE} 127.0.0.1:{UDP_PORT}", 7, "in use", somebody_listens("127.0.0.1", UDP_PORT)),
    ("two control sockets", f"{EMULATE} 127.0.0.1:0 --control sock", 7, "another link emulator", somebody_controls),
    ("a control socket that is a file", f"{EMULATE} 127.0.0.1:0 --control file", 3, "not a socket"),
    ("no emulator", "link cut --control nowhere", 6, "skyload link run"),
    ("an emulator that is a file", "link stats --control file", 6, "skyload link run"),
    ("a profile that is none", "link show file", 3, "link show s-band"),
    ("a word that is none", "fly", 2, "No such command"),
]  # fmt: skip

# -- on board

NO_DAEMON = "no daemon answers"
ONBOARD = [
    ("no configuration", "status --config nowhere", 3, "--config FILE"),
    ("a configuration that is a directory", "status --config kit", 3, "--config FILE"),
    ("a configuration that is none", "status --config file", 3, "TOML"),
    ("an unknown key", "run", 3, "satellite.toml:30: engine.threads_", set_key("threads", "1\nthreads_ = 2")),
    ("a wrong type", "run", 3, "satellite.toml:11: link.report_interval_s", set_key("report_interval_s", '"x"')),
    ("out of range", "run", 3, "satellite.toml:34: install.attempts_max", set_key("attempts_max", "0")),
    ("an address that is none", "run", 3, "satellite.toml:9: link.listen", set_key("listen", '"here"')),
    ("no user's home", "run", 3, "satellite.toml:6: satellite.state_dir", set_key("state_dir", '"~nobody-at-all/x"')),
    ("a state directory that is a file", "run", 3, "not a directory", set_key("state_dir", '"root.json"')),
    ("no link key", "run", 3, "link.link_key_file", remove("kit/keys/link.key")),
    ("a link key that is none", "run", 3, "64 hexadecimal", garble("kit/keys/link.key")),
    ("no root", "run", 3, "trust.root_file", remove("kit/root.json")),
    ("a root that is none", "provision model", 3, "Copy it from the kit", garble("kit/root.json")),
    ("another depot's root", "run", 3, "another depot", provisioned_and(replace("kit/root.json", "other/root.json"))),
    ("no daemon for status", "status", 7, NO_DAEMON),
    ("no daemon for revert", "revert", 7, NO_DAEMON),
    ("import nothing", "import", 2, "PATH"),
    ("import from nowhere", "import nowhere", 3, "no such file or directory"),
    ("import a file that is none", "import file", 10, "bring those again"),
    ("import a link", "import link.skb --json", 10, "1 of 1 files", linked),
    ("import nothing of ours", "import gguf", 3, "none of these"),
    ("import under a file", "import file", 3, "not a directory", set_key("state_dir", '"root.json"')),
    ("export messages to a file", "export-messages file", 3, "file"),
    ("export messages nowhere", "export-messages", 2, "DIR"),
    ("never started", "releases", 6, "skyloadd run"),
    ("nothing to verify", "verify", 6, "skyloadd run"),
    ("no such release", "verify ffff", 6, "on board:", provisioned),
    ("a damaged release", "verify", 10, "another release", provisioned_and(damaged_release)),
    ("a release is gone", "verify", 10, "another release", provisioned_and(no_release)),
    ("a bad record", "releases", 4, "restore it", provisioned_and(every_copy(garble))),
    ("a bad record, provision", "provision staged", 4, "restore it", provisioned_and(every_copy(garble))),
    ("no record", "releases", 4, "it is gone", provisioned_and(every_copy(remove))),
    ("no record, provision", "provision staged", 4, "it is gone", provisioned_and(every_copy(remove))),
    ("an older build's record", "releases", 4, "anew", provisioned_and(every_copy(remove), garble(RECORD))),
    ("two daemons", "provision model", 7, "works here", satellite_runs),
    ("provision nothing", "provision nowhere", 3, "not a directory"),
    ("provision a file", "provision model.gguf", 3, "directory"),
    ("provision a pickle", "provision model", 3, "convert it", pickled),
    ("provision no config", "provision model", 3, "no config.json", remove("model/config.json")),
    ("provision a bad config", "provision model", 3, "not a JSON object", garble("model/config.json")),
    ("provision half of the weights", "provision model", 3, "promises", cut("model/model.safetensors", 9000)),
    ("provision garbage", "provision model", 3, "not a safetensors file", garble("model/model.safetensors")),
    ("provision no weights", "provision model", 3, "no weights", remove("model/model.safetensors")),
    ("provision under a bad name", "provision model --name 'a b'", 3, "--name"),
    ("rehearse nothing", "rehearse", 2, "--manifest"),
    ("rehearse a file", "rehearse --manifest file --bundles . --release-key-file x --work-dir .", 3, "stage wrote"),
    ("an engine in open quotes", "rehearse --engine-command '\"'", 2, "No closing quotation"),
    ("no such command", "fly", 2, "invalid choice"),
]  # fmt: skip


def rows(table):
    return [pytest.param(Mistake(*row), id=row[0].replace(" ", "-")) for row in table]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A ground with one satellite, its kit, and one staged update; another depot's kit; models."""
    place = tmp_path_factory.mktemp("template")
    make_tiny_qwen2(place / "model", seed=1)
    make_tiny_qwen2(place / "staged", seed=2)
    (place / "gguf").mkdir()
    make_tiny_gguf(place / "gguf/model.gguf", seed=1)
    (place / "gguf/model.gguf").rename(place / "model.gguf")
    (place / "file").write_text("a file\n")
    (place / "old.yaml").write_text("contacts: [{start: 2020-01-01T00:00:00Z, end: 2020-01-01T01:00:00Z}]\n")
    for words in (
        f"keys init --satellite SAT-1 --kit {place}/kit --depot {place}/depot",
        f"keys init --satellite SAT-2 --kit {place}/other --depot {place}/depot-2",
        f"stage {place}/staged --for SAT-1 --no-canary --workers 1 --depot {place}/depot",
    ):
        result = CliRunner().invoke(app, shlex.split(words))
        assert result.exit_code == 0, result.stderr
    shutil.rmtree(place / "depot-2")
    return place


@pytest.fixture
def place(template, tmp_path, monkeypatch):
    for name in ("SKYLOAD_DEPOT", "SKYLOAD_LINK", "SKYLOAD_TWIN", "SKYLOAD_LINK_CONTROL"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(template, tmp_path / "place", symlinks=True)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def everything(place):
    """All files with their bytes, and all directories; no locks, no files that SQLite makes while it is open."""
    found = {}
    for path in place.rglob("*"):
        name = str(path.relative_to(place))
        if not name.endswith(UNSEEN) and path.name != "lock" and not name.startswith("depot/locks"):
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def changed(before, after, leaves):
    names = {name for name in before.keys() | after.keys() if before.get(name, "") != after.get(name, "")}
    return sorted(name for name in names if not name.startswith(leaves))


def check_words(mistake, out, err):
    assert "Traceback" not in err
    assert mistake.said in " ".join(err.replace("│", " ").split())
    assert "hint: " in err or "Try '" in err
    if out and "--json" in mistake.words:
        json.loads(out)


def staged_update():
    return next((path.name for path in Path("depot/updates").glob("*")), "")


def check(mistake, place, run):
    """Break, run, compare."""
    handle = mistake.given() if mistake.given else None
    before = everything(place)
    try:
        code, out, err = run(shlex.split(mistake.words.replace("{update}", staged_update())))
    finally:
        if hasattr(handle, "close"):
            handle.close()
    assert code == mistake.code, err
    check_words(mistake, out, err)
    assert changed(before, everything(place), mistake.leaves) == []


def run_on_ground(words):
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def run_on_board(capsys):
    def run(words):
        if words[0] not in ("rehearse", "fly") and "--config" not in words:
            words = [*words, "--config", "kit/satellite.toml"]
        capsys.readouterr()
        try:
            code = onboard.console.run(words)
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("mistake", rows(GROUND))
def test_a_mistake_on_the_ground_is_told_and_leaves_nothing_half_done(mistake, place):
    check(mistake, place, run_on_ground)


@pytest.mark.parametrize("mistake", rows(ONBOARD))
def test_a_mistake_on_board_is_told_and_leaves_nothing_half_done(mistake, place, run_on_board):
    check(mistake, place, run_on_board)


@pytest.mark.parametrize(
    "words",
    [
        "keys list --json",
        "model inspect model --json",
        "stage staged --for SAT-1 --json",
        "plan --for SAT-9 --json",
        "export newest new --for SAT-1 --json",
        "export newest new --for SAT-9 --json",
        f"uplink --for SAT-1 {LINK} --until 2020-01-01 --json",
        f"ask hi --for SAT-1 {LINK} --timeout 0.1 --json",
        f"revert --for SAT-1 {LINK} --json",
        f"cancel 00 --for SAT-1 {LINK} --json",
        "link stats --control nowhere --json",
        "station add oslo --for SAT-1 --json",
        "station sync --for SAT-1 --json",
        "station sync --station-dir nowhere --json",
        "station show oslo --for SAT-1 --json",
    ],
)
def test_what_a_script_reads_is_json_or_nothing(words, place):
    remove("depot/keys/root-1.pem")()
    garble("model/config.json")()
    _, out, _ = run_on_ground(shlex.split(words))
    assert not out or json.loads(out)


# -- help


def commands_of(group, *names):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, *names, name)
        else:
            yield " ".join([*names, name]), command


COMMANDS = dict(commands_of(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_one_line_of_purpose_and_examples_that_are_understood(name):
    text = COMMANDS[name].callback.__doc__
    purpose, _, rest = text.strip().replace("\\\n", " ").partition("\n")
    assert purpose.endswith(".")
    assert len(purpose) <= 110
    examples = [line.strip() for line in rest.partition("Examples:")[2].splitlines() if line.strip()[:7] == "skyload"]
    assert examples
    for example in examples:
        assert example.startswith(f"skyload {name}")
        assert unknown_options(example.partition(" >")[0]) == []
    shown = run_on_ground([*name.split(), "--help"])[1]
    lines = [line.strip(" │") for line in shown.splitlines()]
    assert all(any(line.startswith(example.split(" --")[0]) for line in lines) for example in examples), shown


# -- what goes on after a mistake


def test_keys_init_goes_on_after_a_kit_could_not_be_written(place):
    words = shlex.split("keys init --satellite A --satellite B --kit new --depot new-depot")
    (place / "new").mkdir()
    (place / "new/B").write_text("in the way")
    assert run_on_ground(words)[0] == 3
    assert not (place / "new-depot").exists()
    (place / "new/B").unlink()
    assert run_on_ground(words)[0] == 0
    shutil.rmtree("new/B")
    sqlite = sqlite3.connect("new-depot/depot.db")
    with contextlib.closing(sqlite):
        sqlite.execute("DELETE FROM satellites WHERE name = 'B'")
        sqlite.commit()
    assert run_on_ground(words)[0] == 0, "killed between two kits, it makes the other one"
    assert run_on_ground(words)[0] == 4
    assert run_on_ground(shlex.split("keys list --depot new-depot --json"))[1].count("has_link_key") == 2


def test_an_interrupted_creation_of_a_depot_is_no_dead_end(place):
    (place / "new-depot/locks").mkdir(parents=True)
    assert run_on_ground(shlex.split("keys init --satellite A --kit new --depot new-depot"))[0] == 0


def test_an_update_whose_files_are_lost_can_be_staged_again(place):
    with Depot.open(Path("depot")) as depot:
        (lost,) = depot.updates()
        next(iter(depot.bundles(lost.handle))).path.unlink()
    code, _, err = run_on_ground(shlex.split(f"uplink --for SAT-1 {LINK} --rate 1Mbit/s"))
    assert (code, "stage the update again" in err) == (8, True)
    assert run_on_ground(shlex.split("stage staged --for SAT-1 --no-canary --workers 1"))[0] == 0
    with Depot.open(Path("depot")) as depot:
        old, new = sorted(depot.updates(), key=lambda update: update.sequence)
    assert (old.handle, old.state, new.state) == (lost.handle, FlightState.CANCELLED, FlightState.STAGED)


def test_a_twin_that_failed_leaves_its_log_until_the_update_is_registered(place):
    code, _, err = run_on_ground(shlex.split("stage model --for SAT-1 --twin false --workers 1"))
    assert (code, "twin.log" in err) == (9, True)
    with Depot.open(Path("depot")) as depot:
        assert len(depot.updates()) == 1
    assert run_on_ground(shlex.split("stage model --for SAT-1 --no-canary --workers 1"))[0] == 0
    assert not list(place.glob("depot/**/twin"))


def test_a_damaged_root_on_board_is_taken_from_the_kit_again(place, run_on_board):
    provisioned()
    copies = sorted(Path("kit/state").glob("root-*.json"))
    assert len(copies) == 3
    for copy in copies:
        garble(copy)()
    assert run_on_board(shlex.split("provision staged --name second"))[0] == 0
    assert {copy.read_bytes() for copy in copies} == {Path("kit/root.json").read_bytes()}


# -- what needs a process, or a disk of its own


def spawn(*words, **options):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen([str(BIN / words[0]), *words[1:]], text=True, env=environment, **pipes, **options)


def wait_for(process, text):
    """Read stderr until a line contains the text."""
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came; it ended with {process.wait()}")


def interrupted(process):
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.mark.slow
def test_an_uplink_that_is_interrupted_says_so_and_goes_on_later(place):
    for _ in range(2):
        uplink = spawn("skyload", "uplink", "--for", "SAT-1", *LINK.split(), "--rate", "1Mbit/s", "--json")
        wait_for(uplink, "blocks")
        code, out, err = interrupted(uplink)
        assert (code, json.loads(out)["state"] in {"staged", "flying"}) == (130, True)
        assert "run the same command again" in err


@pytest.mark.slow
def test_an_emulator_that_is_interrupted_ends_well_and_leaves_no_socket(place):
    ends = ["--satellite", "127.0.0.1:9", "--ground", "127.0.0.1:0", "--space", "127.0.0.1:0", "--control", "sock"]
    link = spawn("skyload", "link", "run", *ends, "--json")
    wait_for(link, "contact")
    assert Path("sock").exists()
    code, out, _ = interrupted(link)
    assert (code, json.loads(out)["profile"]) == (0, "clear")
    assert not Path("sock").exists()


@pytest.mark.slow
def test_quantizing_that_is_interrupted_leaves_nothing(place, tmp_path):
    make_tiny_qwen2(tmp_path / "wide", seed=1, hidden=1024, layers=20, intermediate=3072)
    before = everything(place)
    quantize = spawn("skyload", "model", "quantize", str(tmp_path / "wide"), "--out", "new")
    while quantize.poll() is None and not Path(".new.part/model.safetensors").exists():
        pass
    code, _, err = interrupted(quantize)
    assert (code, "interrupted" in err) == (130, True)
    assert changed(before, everything(place), ()) == []


@pytest.mark.slow
def test_a_second_daemon_and_a_port_in_use_are_told(place):
    path = Path("kit/satellite.toml")
    text = path.read_text().replace(":7003", f":{OTHER_UDP_PORT}").replace(":8080", f":{TCP_PORT}")
    path.write_text(text.replace("command = []", f"command = {json.dumps(engine_command())}"))
    with somebody_listens("127.0.0.1", OTHER_UDP_PORT)():
        code, out, err = finish(spawn("skyloadd", "run", "--config", str(path)))
        assert (code, out) == (7, "")
        assert "is in use" in err
        assert "hint: " in err
    first = spawn("skyloadd", "run", "--config", str(path))
    wait_for(first, "serving_started")
    code, _, err = finish(spawn("skyloadd", "run", "--config", str(path)))
    assert (code, f"process {first.pid}" in err, "hint: " in err) == (7, True, True)
    assert interrupted(first)[0] == 0


def finish(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, err


@pytest.fixture
def small_disk(place):
    """A disk of 1 MiB at `small`, with half of it taken."""
    mounted = Path("small")
    mounted.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "small"]).returncode:
        pytest.skip("needs root, and leave to mount a tmpfs")
    (mounted / "taken").write_bytes(bytes(512 << 10))
    yield mounted
    subprocess.run(["umount", place / "small"], check=True)


def fill():
    with contextlib.suppress(OSError), Path("small/filled").open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass


def depot_moves():
    shutil.copytree("depot", "small/depot")


NO_SPACE = [
    ("quantize", "model quantize big --out small/new", 8, "free some space"),
    ("import", "model import model.gguf --out small/new", 8, "free some space", fill),
    ("keys", "keys init --satellite S --kit new --depot small/depot", 8, "free some space", fill, ("small/depot",)),
    ("a kit", "keys add-satellite S --kit small/kit", 8, "free some space", fill),
    ("stage", "stage model --for SAT-1 --no-canary --depot small/depot", 8, "larger disk", depot_moves),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mistake", rows(NO_SPACE))
def test_no_space_on_the_ground_is_told_and_leaves_nothing_half_done(mistake, place, small_disk):
    make_tiny_qwen2(place / "big", seed=1, hidden=512, layers=2, intermediate=1024)
    check(mistake, place, run_on_ground)


@pytest.mark.slow
def test_no_space_on_board_is_told_leaves_nothing_half_done_and_the_daemon_starts_all_the_same(
    place, small_disk, run_on_board
):
    make_tiny_qwen2(place / "big", seed=1, hidden=512, layers=2, intermediate=1024)
    set_key("state_dir", json.dumps(str(place / "small/state")))()
    code, _, err = run_on_board(["provision", "big"])
    assert (code, "hint: free some space" in err) == (4, True)
    assert not list(Path("small/state/releases").iterdir())
    assert run_on_board(["provision", "model"])[0] == 0
    fill()
    with locked_state(load_config(Path("kit/satellite.toml"))):
        code, _, err = run_on_board(["provision", "staged"])
        assert code == 7
    assert run_on_board(["provision", "staged"])[0] == 4
    assert run_on_board(["verify"])[0] == 0
