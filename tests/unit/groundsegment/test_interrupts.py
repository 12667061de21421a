import os
import signal
import subprocess
import sys
import threading

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


@pytest.mark.parametrize("has_threads", [False, True])
def test_ctrl_c_in_between_comes_at_the_end(has_threads):
    steps, end = [], threading.Event()
    other = threading.Thread(target=end.wait)
    if has_threads:  # the system may hand the signal to any of them
        other.start()
    try:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - where it comes is what is tested
            with ctrl_c_held():
                os.kill(os.getpid(), signal.SIGINT)
                steps += [n for n in range(1000) if n == 999]
            steps.append("too late")
    finally:
        end.set()
    assert steps == [999]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
