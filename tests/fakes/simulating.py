"""A simulated satellite in this very process, for tests of the simulation that need no second one."""

import shutil
import tempfile
from pathlib import Path

from groundsegment.simulation.satellite import view_of
from onboard.simulation.satellite import SatelliteOptions, SimulatedSatellite
from onboard.simulation.service import look


class SatelliteHere:
    """See `groundsegment.simulation.satellite.Satellite`. Use it in a `with`."""

    def __init__(self):
        self.simulated = self._directory = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._directory is not None:
            shutil.rmtree(self._directory)

    def begin(self, link_key, options):
        self.__exit__()
        self._directory = tempfile.mkdtemp(prefix="skyload-here-")
        self.simulated = SimulatedSatellite(Path(self._directory), link_key, SatelliteOptions(**options))

    def begin_step(self, now, datagrams):
        self._step = now, list(datagrams)

    def end_step(self):
        now, datagrams = self._step
        self.simulated.advance(now)
        if datagrams:
            self.simulated.receive(datagrams, now)
        outgoing = list(self.simulated.outgoing)
        self.simulated.outgoing.clear()
        return outgoing, self.simulated.owner.num_whole

    def kill(self, now):
        self.simulated.kill(now)

    def look(self):
        return view_of(look(self.simulated))
