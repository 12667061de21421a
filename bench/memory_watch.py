"""Watches the resident memory of processes while something runs."""

import threading
from types import TracebackType
from typing import Self

import psutil

_PERIOD_S = 0.05


class MemoryWatch:
    """Samples the resident memory of one process, and of it with its children that are not engine workers.

    Attributes:
        peak_bytes: highest resident memory of the process itself.
        peak_tree_bytes: highest sum over it and its children, engine workers left out.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = self.peak_tree_bytes = 0

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            try:
                own = self._process.memory_info().rss
                tree = own + sum(_resident(child) for child in self._process.children(recursive=True))
            except psutil.Error:
                return
            self.peak_bytes = max(self.peak_bytes, own)
            self.peak_tree_bytes = max(self.peak_tree_bytes, tree)


def _resident(process: psutil.Process) -> int:
    try:
        command = " ".join(process.cmdline())
        if "inference.worker" in command or "fakes/engine.py" in command:
            return 0
        # Shared pages counted once: what a forked child has of its own.
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0
