import signal
import subprocess
import sys
from pathlib import Path

import pytest

from groundsegment.interrupts import ctrl_c_held


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """Shells start what runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


SAY_MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def is_deaf():
    return subprocess.run([sys.executable, "-S", "-c", SAY_MASK], capture_output=True, text=True).stdout == "True\n"


def test_a_process_started_meanwhile_never_hears_of_ctrl_c():
    with ctrl_c_held():
        assert is_deaf()
    assert not is_deaf()


_HELD = """
import os, select, signal, socket, sys, threading
from groundsegment.interrupts import ctrl_c_held
steps, end = [], threading.Event()
other = threading.Thread(target=end.wait)
told, tells = socket.socketpair()
tells.setblocking(False)
signal.set_wakeup_fd(tells.fileno())
if sys.argv[1] == "True":  # the system hands the signal to the one that does not hold it back
    other.start()
try:
    with ctrl_c_held():
        os.kill(os.getpid(), signal.SIGINT)
        if other.is_alive():
            assert select.select([told], [], [], 20)[0]  # it has come
        steps += [n for n in range(1000) if n == 999]
    steps.append("too late")
except KeyboardInterrupt:
    steps.append("interrupted")
finally:
    end.set()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
print(steps)
"""


@pytest.mark.parametrize("has_threads", [False, True])
def test_ctrl_c_in_between_comes_at_the_end(has_threads):
    """In a process of its own: who tests in several processes has threads, and one of them may take the signal late."""
    command = [sys.executable, "-c", _HELD, str(has_threads)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=40, cwd=Path(__file__).parents[3])
    assert (ran.stdout, ran.stderr) == ("[999, 'interrupted']\n", "")
