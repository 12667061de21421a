"""The serving process, faked in memory: releases are directories, answers are drawn from their bytes.

Misbehaves on demand, per release digest: `fails_to_load`, `answers_wrongly`, `dies_on_probation`; or as a whole:
`is_up = False`, `goes_down_on_load`. Keeps a history for assertions.
"""

import hashlib

from onboard.installer.serving import Fault, ServingProblem


def answer_of(files: dict[str, bytes], prompt: str, max_tokens: int) -> tuple[int, ...]:
    """What a release with these files answers."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data).digest())
    stream = hashlib.shake_128(digest.digest() + prompt.encode()).digest(2 * max_tokens)
    return tuple(int.from_bytes(stream[at : at + 2], "big") for at in range(0, 2 * max_tokens, 2))


class FakeServing:
    def __init__(self):
        self.is_up = True
        self.release = None
        self.loaded = {}
        self.history = []
        self.fails_to_load = set()
        self.answers_wrongly = set()
        self.dies_on_probation = set()
        self.goes_down_on_load = False
        self.on_failure = lambda digest, reason, failures: None

    async def load(self, digest, *, directory, name, timeout_s):
        self._check_up()
        if self.goes_down_on_load:
            self.is_up = False
        self._check_up()
        if digest in self.fails_to_load:
            raise ServingProblem("refused as told", fault=Fault.RELEASE)
        self.loaded[digest] = {
            path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")
        }
        self.history.append(("load", digest))

    async def probe(self, digest, prompts, *, max_tokens, timeout_s):
        self._check_up()
        files = self.loaded[digest]
        if digest in self.answers_wrongly:
            files = {"wrong": b""}
        return [answer_of(files, prompt, max_tokens) for prompt in prompts]

    async def flip(self, digest):
        self._check_up()
        assert digest in self.loaded
        self.release = digest
        self.history.append(("flip", digest))
        if digest in self.dies_on_probation:
            self.on_failure(digest, "died as told", 1)
        return 0.5

    async def drain(self, digest, *, timeout_s):
        await self.unload(digest)

    async def unload(self, digest):
        self._check_up()
        if digest == self.release:
            raise ServingProblem("it serves", fault=Fault.SERVING)
        if self.loaded.pop(digest, None) is not None:
            self.history.append(("unload", digest))

    def _check_up(self):
        if not self.is_up:
            raise ServingProblem("serving is gone", fault=Fault.SERVING)
