"""A rehearsal whose ground commands run in this process: satellite, link and uplinks stay processes of their own.

For tests of what flies. A ground command that begins anew spends most of a second on its imports, and what it does is
the same; that it can be begun anew shows in tests of the command line.
"""

from typer.testing import CliRunner

from demo.rehearsal import Rehearsal, RehearsalError
from groundsegment.console.main import app


class RehearsalAtHand(Rehearsal):
    """As `Rehearsal`; `skyload` knows the commands that take a depot. One that hangs is ended by the test's timeout."""

    def skyload(self, *arguments, timeout_s=900.0):
        """Run a ground command to its end, here; returns its stdout."""
        done = CliRunner().invoke(app, [*arguments, "--depot", str(self.depot)])
        if done.exit_code:
            text = f"skyload {' '.join(arguments)} ended with {done.exit_code}:\n{done.stderr.strip()}"
            raise RehearsalError(text) from done.exception
        return done.stdout
