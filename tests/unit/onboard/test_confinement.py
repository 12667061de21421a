"""What an engine cannot do, tried from inside: a hostile program is started as an engine is, and tells what worked."""

import json
import os
import platform
import select
import socket
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onboard.inference.confinement import landlock
from onboard.inference.confinement.policy import Confinement, Mode, system_paths
from onboard.inference.confinement.quarters import Quarters, Report, remove_left_behind
from onboard.inference.confinement.seccomp import _CHECKS, _MACHINES, Check, Rule, _rule, filter_code
from onboard.inference.control import SERVING_COMMAND
from onboard.inference.rehearsal import JUDGE_COMMAND
from onboard.inference.workers import DEFAULT_ENGINE_COMMAND

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
# How whoever has the daemon's own user might reach past the engine; refused by a lock, not for a bad argument.
# None does harm where the lock is missing: no user and no group of these numbers has a process.
REACHES = {
    "slow the daemon: scheduler": "os.sched_setscheduler(daemon, os.SCHED_OTHER, os.sched_param(0))",
    "slow the daemon: parameters": "os.sched_setparam(daemon, os.sched_param(0))",
    "slow the daemon: attributes": "call('sched_setattr', daemon, None, 0)",
    "slow the daemon: processors": "os.sched_setaffinity(daemon, os.sched_getaffinity(0))",
    "slow the daemon: priority": "os.setpriority(os.PRIO_PROCESS, daemon, os.getpriority(os.PRIO_PROCESS, daemon))",
    "slow the daemon: its group": "os.setpriority(os.PRIO_PGRP, 2**22 - 1, 20)",
    "slow the daemon: its user": "os.setpriority(os.PRIO_USER, 2**31 - 9, 20)",
    "slow the daemon: disk": "call('ioprio_set', 1, daemon, 2 << 13 | 4)",
    "slow the daemon: disk, its user": "call('ioprio_set', 3, 0, 9 << 13)",
    "slow the daemon: pages out": "call('process_madvise', -1, None, 0, 21, 0)",
    "slow the daemon: other nodes": "call('migrate_pages', daemon, 0, None, None)",
    "slow the daemon: move pages": "call('move_pages', daemon, 0, None, None, None, 0)",
    "signal: kill": "os.kill(daemon, 0)",
    "signal: tgkill": "check(libc.tgkill(daemon, daemon, 0))",
    "signal: by a pidfd": "signal.pidfd_send_signal(os.pidfd_open(daemon), 0)",
    "signal: queued": "check(libc.sigqueue(daemon, 0, None))",
    "signal: SIGIO of a file": "fcntl.fcntl(socket.socketpair()[0], fcntl.F_SETOWN, daemon)",
    "memory of the daemon: ptrace": "check(libc.ptrace(16, daemon, 0, 0))",
    "memory of the daemon: read": "call('process_vm_readv', daemon, None, 0, None, 0, 0)",
    "memory of the daemon: write": "call('process_vm_writev', daemon, None, 0, None, 0, 0)",
    "memory of the daemon: file": "open(f'/proc/{daemon}/mem', 'rb')",
    "memory of the daemon: map": "open(f'/proc/{daemon}/maps').read()",
    "files of the daemon": "os.readlink(f'/proc/{daemon}/fd/0')",
    "files of the daemon: by a pidfd": "call('pidfd_getfd', os.pidfd_open(daemon), 0, 0)",
    "files of the daemon: compared": "call('kcmp', daemon, daemon, 0, 0, 0)",
    "out-of-memory score of the daemon": "open(f'/proc/{daemon}/oom_score_adj', 'w')",
    "memory that no limit counts: shared": "mmap.mmap(-1, 4096)",
    "memory that no limit counts: memfd": "os.memfd_create('x')",
    "memory that no limit counts: System V": "check(libc.shmget(0, 4096, 0o1600))",
    "memory that no limit counts: queues": "check(libc.msgget(0, 0o1600))",
    "memory that no limit counts: /dev/shm": "open('/dev/shm/skyload-confinement', 'w')",
    "watch files: inotify": "check(libc.inotify_init1(0))",
    "watch files: fanotify": "check(libc.fanotify_init(0, 0))",
    "kernel: io_uring": "call('io_uring_setup', 8, None)",
    "kernel: keys": "call('keyctl', 0, -3, 0, 0, 0)",
    "kernel: request a key": "call('request_key', b'user', b'x', None, 0)",
    "kernel: BPF": "call('bpf', 5, None, 0)",
    "kernel: page faults": "call('userfaultfd', 1)",
    "kernel: counters": "call('perf_event_open', None, 0, -1, -1, 0)",
    "namespace: unshare": "check(libc.unshare(0x10000000))",
    "namespace: clone": "call('clone', 0x10010000, 0, 0, 0, 0)",  # with CLONE_THREAD alone: never a process
    "namespace: enter": "check(libc.setns(os.open('/proc/self/ns/user', 0), 0))",
    "mount": "check(libc.mount(b'none', own.encode(), b'tmpfs', 0, None))",
    "mount: anew": "call('fsopen', b'tmpfs', 0)",
    "chroot": "os.chroot(own)",
    "socket: Unix, abstract": "socket.socket(socket.AF_UNIX).connect(abstract)",
    "type into a terminal": "fcntl.ioctl(0, termios.TIOCSTI, b'x')",
    **{
        f"socket: family {family}": f"socket.socket({family}, socket.SOCK_DGRAM)"
        for family in range(2, 46)  # but 0, which is none, and 1, Unix
    },
}
HARMLESS = {
    "be nice": "os.nice(1)",
    "use fewer processors": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "be idle": "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
    "have threads": "(lambda thread: (thread.start(), thread.join()))(threading.Thread(target=print, args=('',)))",
    "map a file": "mmap.mmap(os.open(rel + '/model.safetensors', os.O_RDONLY), 0, prot=mmap.PROT_READ)",
    "map private memory": "mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
}
ALLOWED = {"read our release", "write its own directory", "use its own socket", "run a program of the system"}
ALLOWED |= {"limit itself"}
HOSTILE = """
import ctypes, fcntl, json, mmap, os, resource, signal, socket, subprocess, sys, termios, threading, time
rel, state, own, parent, tries = *sys.argv[1:4], int(sys.argv[4]), json.loads(sys.argv[5])
numbers, abstract, daemon = json.loads(sys.argv[6]), chr(0) + sys.argv[7], int(sys.argv[8])
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def call(name, *arguments):
    check(libc.syscall(numbers[name], *arguments))
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
def daemon():
    """A process of our user that has no capabilities, as on a satellite: the kernel would refuse little of itself."""
    drop = "from onboard.inference.confinement import enforce as e; e._drop_capabilities(); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", drop], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process.pid
    process.communicate(b"\n")


@pytest.fixture(scope="module")
def outcomes(place, daemon):
    os.environ["SKYLOAD_PASSPHRASE"] = "secret"
    paths = [place / "releases" / "ours", place, place / "run"]
    try:
        quarters, name = Quarters.make(place / "run"), f"skyload-confinement-{os.getpid()}"
        tries = json.dumps({**TRIES, **REACHES, **HARMLESS})
        numbers = json.dumps(_MACHINES[platform.machine()].numbers)
        arguments = [*map(str, paths[:2]), str(quarters.path), str(os.getpid()), tries, numbers, name, str(daemon)]
        command = quarters.command(template(place), [sys.executable, "-c", HOSTILE, *arguments], reads=paths[:1])
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0" + name)
            server.listen()
            ran = subprocess.run(command, env=quarters.environment(), capture_output=True, text=True, check=True)
    finally:
        del os.environ["SKYLOAD_PASSPHRASE"]
    assert quarters.report().troubles() == []
    return json.loads(ran.stdout.splitlines()[-1])


@needs_landlock
@pytest.mark.parametrize("name", TRIES)
def test_an_engine_cannot(outcomes, name):
    assert (outcomes[name] == "worked") == (name in ALLOWED), outcomes[name]
    assert name != "take much memory" or outcomes[name] == "MemoryError"


@needs_landlock
@pytest.mark.parametrize("name", REACHES)
def test_an_engine_of_the_daemons_own_user_is_kept_from(outcomes, name):
    assert outcomes[name] == "PermissionError"


@needs_landlock
@pytest.mark.parametrize("name", HARMLESS)
def test_an_engine_may_still(outcomes, name):
    assert outcomes[name] == "worked"


@pytest.mark.parametrize("command", [SERVING_COMMAND, DEFAULT_ENGINE_COMMAND, JUDGE_COMMAND, "enforce"])
def test_where_a_program_was_started_nothing_is_imported_or_readable(place, tmp_path, command):
    """Python looks there first, and engines may read wherever it looks: the keys of a kit in which the daemon began."""
    if command == "enforce":
        command = Quarters.make(place / "run").command(template(place), ["engine"], reads=())
    flags = command[1 : command.index("-m")]
    asked = subprocess.run(
        [command[0], *flags, "-m", "site"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "sys.path" in asked.stdout
    assert str(tmp_path) not in asked.stdout


def test_clone3_is_unknown_so_that_libraries_fall_back_to_what_can_be_looked_at():
    assert (_rule("clone3").verdict, _rule("clone").verdict) == (0x50026, 0x50001)


@needs_landlock
def test_an_engine_has_bounded_tasks_files_and_queues(place):
    ask = "import resource as r; print(*(r.getrlimit(n)[0] for n in (r.RLIMIT_NPROC, r.RLIMIT_NOFILE, 12)))"
    _, ran = start(place, template(place, tasks_max=7), "-c", ask)
    tasks, files, queues = map(int, ran.stdout.split())
    assert 7 < tasks < 7 + 32768
    assert (files, queues) == (1024, 0)


@needs_landlock
def test_an_engine_with_a_device_may_share_memory_as_its_driver_does(place):
    share = "import mmap, os; mmap.mmap(-1, 4096); os.memfd_create('x'); print('worked')"
    _, ran = start(place, template(place, devices=("/dev/null", "/dev/zero")), "-c", share)
    assert ran.stdout == "worked\n", ran.stderr


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
    assert select.select([handle], [], [], 45)[0] == [handle]  # it ended
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
    ("call", "arguments", "verdict"),
    [
        ((0xAA, 41), (1,), "allow"), ((0xAA, 41), (2,), "refuse"), ((0xAA, 41), (1 << 32 | 1,), "allow"),
        ((0xAA, 101), (1,), "refuse"), ((0xAA, 200), (0,), "unknown"), ((0xAA, 0), (2,), "allow"),
        ((0xAA, 300), (2,), "allow"), ((0xAA, 0x40000029), (1,), "refuse"), ((0xBB, 0), (1,), "kill"),
        ((0xAA, 141), (0, 0), "allow"), ((0xAA, 141), (0, 9), "refuse"), ((0xAA, 141), (2, 0), "refuse"),
        ((0xAA, 9), (0, 0, 0, 0x22), "allow"), ((0xAA, 9), (0, 0, 0, 0x01), "allow"),
        ((0xAA, 9), (0, 0, 0, 0x21), "refuse"), ((0xAA, 9), (0, 0, 0, 0x8021), "refuse"),
    ],
)  # fmt: skip
def test_the_filter_says(call, arguments, verdict):
    rules = {
        41: Rule(checks=(Check(0, 1),)),
        101: Rule(),
        200: Rule(verdict=0x50026),
        141: Rule(checks=(Check(0, 0), Check(1, 0))),
        9: Rule(checks=(Check(3, 0x21, mask=0x21, is_refused=True),)),
    }
    verdicts = {"allow": 0x7FFF0000, "refuse": 0x50001, "unknown": 0x50026, "kill": 0x80000000}
    assert run_bpf(filter_code(0xAA, rules), *call, arguments) == verdicts[verdict]


def run_bpf(code, arch, number, arguments):
    """The kernel's little machine, as far as the filter uses it."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *(6 - len(arguments)) * [0])
    at = value = 0
    while True:
        operation, if_true, if_false, constant = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        match operation:
            case 0x20:
                value = struct.unpack_from("<I", data, constant)[0]
            case 0x15:
                at += if_true if value == constant else if_false
            case 0x54:
                value &= constant
            case 0x35:
                at += if_true if value >= constant else if_false
            case 0x06:
                return constant


def test_this_machine_has_a_filter():
    assert platform.machine() in _MACHINES


def test_both_machines_refuse_the_same_calls():
    first, second = (set(machine.numbers) for machine in _MACHINES.values())
    assert first ^ second == {"inotify_init"}  # aarch64 never had it
    assert set(_CHECKS) <= first & second
