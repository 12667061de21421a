"""What an engine cannot do, tried from inside: a hostile program is started as an engine is, and tells what worked."""

import json
import os
import platform
import select
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onboard.inference.confinement import landlock
from onboard.inference.confinement.policy import Confinement, Mode, system_paths
from onboard.inference.confinement.quarters import Quarters, Report, remove_left_behind
from onboard.inference.confinement.seccomp import filter_code

needs_landlock = pytest.mark.skipif(landlock.abi() < 6, reason="this kernel's Landlock has not all that is promised")
# Each is an expression; what it raises is the answer.
TRIES = {
    "read our release": "open(rel + '/model.safetensors').read()",
    "read another release": "open(state + '/releases/other/model.safetensors').read()",
    "read a key": "open(state + '/identity.key').read()",
    "read the trust record": "open(state + '/trust-1.record').read()",
    "list the state directory": "os.listdir(state)",
    "change our release": "open(rel + '/model.safetensors', 'r+b')",
    "truncate our release": "os.truncate(rel + '/model.safetensors', 0)",
    "add to our release": "open(rel + '/.x', 'w')",
    "delete from our release": "os.unlink(rel + '/model.safetensors')",
    "write the trust record": "open(state + '/trust-1.record', 'r+b')",
    "rename the trust record": "os.rename(state + '/trust-1.record', own + '/x')",
    "link to a key": "open(os.symlink(state + '/identity.key', own + '/l') or own + '/l').read()",
    "hard link to a key": "os.link(state + '/identity.key', own + '/h')",
    "leave by a directory of its own": "open(own + '/../identity.key').read()",
    "write its own directory": "open(own + '/x', 'w').write('x')",
    "write a large file": "open(own + '/y', 'wb').write(bytes(2 << 20))",
    "write elsewhere": "open('/tmp/skyload-confinement-' + str(os.getpid()), 'w')",
    "read /etc/shadow": "open('/etc/shadow').read()",
    "speak IPv4": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "speak IPv6": "socket.socket(socket.AF_INET6)",
    "speak to the kernel's network": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "speak raw frames": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "open sockets by io_uring": "check(libc.syscall(425, 8, ctypes.create_string_buffer(120)))",
    "kill the daemon": "os.kill(parent, 0)",
    "limit the daemon": "resource.prlimit(parent, resource.RLIMIT_CPU)",
    "limit itself": "resource.setrlimit(resource.RLIMIT_CPU, resource.prlimit(0, resource.RLIMIT_CPU))",
    "trace the daemon": "check(libc.ptrace(16, parent, 0, 0))",
    "look into the daemon": "open(f'/proc/{parent}/environ').read()",
    "mount": "check(libc.mount(b'none', own.encode(), b'tmpfs', 0, None))",
    "make a namespace": "check(libc.unshare(0x10000000))",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "take much memory": "len(bytearray(512 << 20))",
    "dump core": "resource.getrlimit(resource.RLIMIT_CORE)[1] or check(-1)",
    "have capabilities": "[line for line in open('/proc/self/status') if line[:3] == 'Cap' and int(line[8:], 16)][0]",
    "see our environment": "os.environ['SKYLOAD_PASSPHRASE']",
    "use its own socket": "(lambda pair: pair[0].send(b'x'))(socket.socketpair())",
    "run a program of the system": "subprocess.run(['true'], check=True)",
}  # fmt: skip
ALLOWED = {"read our release", "write its own directory", "use its own socket", "run a program of the system"}
ALLOWED |= {"limit itself"}
HOSTILE = """
import ctypes, json, os, resource, socket, subprocess, sys, time
rel, state, own, parent, tries = *sys.argv[1:4], int(sys.argv[4]), json.loads(sys.argv[5])
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def attempt(text):
    try:
        eval(text)
    except BaseException as error:
        return type(error).__name__
    return "worked"
print(json.dumps({name: attempt(text) for name, text in tries.items()}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A state directory with what must be kept from an engine, and quarters in it."""
    state = tmp_path_factory.mktemp("state")
    for name in ("releases/ours/model.safetensors", "releases/other/model.safetensors"):
        (state / name).parent.mkdir(parents=True)
        (state / name).write_bytes(b"weights")
    (state / "identity.key").write_text("secret")
    (state / "trust-1.record").write_bytes(b"record")
    (state / "run").mkdir(mode=0o700)
    return state


def template(state, **changes):
    ours = Confinement(
        readable=(),
        writable=(),
        secret=(str(state / "identity.key"),),
        guarded=(str(state), str(state / "trust-1.record")),
        memory_bytes_max=256 << 20,
        file_bytes_max=1 << 20,
    )
    return replace(ours, **changes)


def start(state, confinement, *program, **options):
    quarters = Quarters.make(state / "run")
    command = quarters.command(confinement, [sys.executable, *program], reads=[state / "releases" / "ours"])
    ran = subprocess.run(command, env=quarters.environment(), capture_output=True, text=True, check=False, **options)
    return quarters, ran


@pytest.fixture(scope="module")
def outcomes(place):
    os.environ["SKYLOAD_PASSPHRASE"] = "secret"
    paths = [place / "releases" / "ours", place, place / "run"]
    try:
        quarters = Quarters.make(place / "run")
        arguments = [*map(str, paths[:2]), str(quarters.path), str(os.getpid()), json.dumps(TRIES)]
        command = quarters.command(template(place), [sys.executable, "-c", HOSTILE, *arguments], reads=paths[:1])
        ran = subprocess.run(command, env=quarters.environment(), capture_output=True, text=True, check=True)
    finally:
        del os.environ["SKYLOAD_PASSPHRASE"]
    assert quarters.report().troubles() == []
    return json.loads(ran.stdout)


@needs_landlock
@pytest.mark.parametrize("name", TRIES)
def test_an_engine_cannot(outcomes, name):
    assert (outcomes[name] == "worked") == (name in ALLOWED), outcomes[name]


@needs_landlock
def test_what_can_be_read_from_inside_is_found_and_told(place):
    quarters, ran = start(place, template(place, readable=(str(place),)), "-c", "print('runs')")
    assert ran.stdout == "runs\n"  # on its best effort
    assert quarters.report().leaks == [f"{place / 'identity.key'} can be read"]
    quarters, ran = start(place, template(place, writable=(str(place),)), "-c", "")
    assert quarters.report().leaks == [
        f"{place / 'identity.key'} can be read",
        f"files can be made in {place}",
        f"{place / 'trust-1.record'} can be written",
    ]


@needs_landlock
def test_where_confinement_is_required_nothing_starts_without_it(place):
    leaking = template(place, readable=(str(place),), mode=Mode.REQUIRED)
    _, ran = start(place, leaking, "-c", "print('runs')")
    assert (ran.returncode, ran.stdout) == (125, "")
    assert "would not be confined" in ran.stderr
    _, ran = start(place, template(place, user="nobody-of-that-name", mode=Mode.REQUIRED), "-c", "print('runs')")
    assert (ran.returncode, "no user: no such user" in ran.stderr) == (125, True)
    _, ran = start(place, template(place, mode=Mode.REQUIRED), "-c", "print('runs')")
    assert (ran.returncode, ran.stdout) == (0, "runs\n")


def test_a_lock_that_cannot_be_had_leaves_the_others(place):
    quarters, ran = start(place, template(place, user="nobody-of-that-name"), "-c", "print('runs')")
    report = quarters.report()
    assert ran.stdout == "runs\n"
    assert report.missing["user"] == "no such user: nobody-of-that-name"
    assert {"limits", "no-capabilities", "no-new-privileges"} <= set(report.in_force)


@needs_landlock
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_root_becomes_the_user_that_engines_have(place):
    quarters = Quarters.make(place / "run", user="nobody")
    assert quarters.path.stat().st_uid != 0
    command = quarters.command(template(place, user="nobody"), ["/usr/bin/id", "-un"], reads=[])
    ran = subprocess.run(command, env=quarters.environment(), capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("nobody\n", "")
    assert quarters.report().in_force["user"] == "nobody"


def test_off_is_off(place):
    quarters = Quarters.make(place / "run")
    assert quarters.command(template(place, mode=Mode.OFF), ["engine"], reads=[]) == ["engine"]
    assert quarters.report() == Report()


def test_an_engine_dies_with_its_supervisor_whatever_was_put_on_it(place):
    quarters = Quarters.make(place / "run")
    command = quarters.command(template(place), ["/bin/sleep", "60"], reads=[])
    keep = f"import subprocess; p = subprocess.Popen({command!r}); print(p.pid, flush=True); p.wait()"
    keeper = subprocess.Popen([sys.executable, "-c", keep], stdout=subprocess.PIPE, text=True)
    pid = int(keeper.stdout.readline())
    handle = os.pidfd_open(pid)
    while not Path(f"/proc/{pid}/cmdline").read_text().startswith("/bin/sleep"):
        assert keeper.poll() is None
    keeper.kill()
    keeper.communicate()
    assert select.select([handle], [], [], 10)[0] == [handle]  # it ended
    os.close(handle)


def test_quarters_left_behind_by_a_killed_supervisor_are_cleared(tmp_path):
    quarters = Quarters.make(tmp_path)
    quarters.path.with_name(quarters.path.name + ".json").write_text("{}")
    (quarters.path / "junk").write_text("x")
    (tmp_path / "serving.log").write_text("kept")
    remove_left_behind(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["serving.log"]


def test_a_policy_survives_its_way():
    policy = Confinement(
        readable=("/a",), writable=(), secret=("/k",), mode=Mode.REQUIRED, user="u", allows_network=True
    )
    assert Confinement.from_json(policy.to_json()) == policy
    assert all(Path(path).exists() for path in system_paths())


@pytest.mark.parametrize(
    ("call", "first_argument", "verdict"),
    [
        ((0xAA, 41), 1, "allow"), ((0xAA, 41), 2, "refuse"), ((0xAA, 41), 1 << 32 | 1, "allow"),
        ((0xAA, 53), 16, "refuse"), ((0xAA, 101), 1, "refuse"), ((0xAA, 200), 1, "refuse"),
        ((0xAA, 0), 2, "allow"), ((0xAA, 300), 2, "allow"), ((0xAA, 0x40000029), 1, "refuse"), ((0xBB, 0), 1, "kill"),
        ((0xAA, 302), 0, "allow"),
        ((0xAA, 302), 17, "refuse"),
    ],
)  # fmt: skip
def test_the_filter_says(call, first_argument, verdict):
    code = filter_code(0xAA, (41, 53), (101, 200), (302,))
    assert run_bpf(code, *call, first_argument) == {"allow": 0x7FFF0000, "refuse": 0x50001, "kill": 0x80000000}[verdict]


def run_bpf(code, arch, number, first_argument):
    """The kernel's little machine, as far as the filter uses it."""
    data = struct.pack("<IIQ6Q", number, arch, 0, first_argument, 0, 0, 0, 0, 0)
    at = value = 0
    while True:
        operation, if_true, if_false, constant = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        match operation:
            case 0x20:
                value = struct.unpack_from("<I", data, constant)[0]
            case 0x15:
                at += if_true if value == constant else if_false
            case 0x35:
                at += if_true if value >= constant else if_false
            case 0x06:
                return constant


def test_this_machine_has_a_filter():
    from onboard.inference.confinement.seccomp import _MACHINES

    assert platform.machine() in _MACHINES
