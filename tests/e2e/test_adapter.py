"""Adapters from a directory on the ground to answers in orbit, in real processes, with the engine that flies too."""

import json
import urllib.request

import pytest

from bench.kills import PROFILE, twin_with_fake_engine
from demo.rehearsal import SATELLITE
from tests.fakes.adapters import make_tiny_adapter, merged_files
from tests.fakes.engine import engine_command
from tests.fakes.models import make_tiny_qwen2, write_json
from tests.fakes.rehearsals import RehearsalAtHand

QUESTION = "What is the capital of France?"


class Mission:
    """A satellite that serves a tiny model, and a ground that has an adapter of it."""

    def __init__(self, directory, *, is_real):
        self.directory, self.is_real = directory, is_real
        self.base = make_tiny_qwen2(directory / "base", seed=1)
        self.adapter = make_tiny_adapter(directory / "lora", self.base, seed=2)
        self.rehearsal = RehearsalAtHand(
            directory / "run",
            engine_command=() if is_real else engine_command(),
            settings={"link.sync_interval_s": 0.3, "install.probation_s": 0.3},
        )
        self.rehearsal.init_keys()
        self.rehearsal.provision(self.base, "base")
        write_json(self.rehearsal.directory / "profile.yaml", PROFILE)
        write_json(self.rehearsal.directory / "questions.json", [QUESTION])
        self.rehearsal.start_satellite(wait_for_model=True, timeout_s=400)
        self.rehearsal.start_link(str(self.rehearsal.directory / "profile.yaml"), seed=1)

    def fly(self, *words):
        """Stage the adapter and fly it; returns what stage said."""
        questions = str(self.rehearsal.directory / "questions.json")
        options = ("--canary", questions, "--max-tokens", "8", "--json")
        twin = () if self.is_real else ("--twin", twin_with_fake_engine())
        staged = json.loads(
            self.rehearsal.skyload("stage", str(self.adapter), "--for", SATELLITE, *words, *options, *twin)
        )
        profile = str(self.rehearsal.directory / "profile.yaml")
        words = self.rehearsal.uplink_command("--profile", profile, "--json")[1:]
        flown = json.loads(self.rehearsal.skyload(*words, timeout_s=400))
        assert flown["state"] == "confirmed"
        return staged

    def models(self):
        with urllib.request.urlopen(f"{self.rehearsal.endpoint}/v1/models") as reply:
            return {model["id"]: model["digest"] for model in json.load(reply)["data"]}

    def answer(self, max_tokens=8):
        return self.rehearsal.chat(QUESTION, max_tokens=max_tokens)["choices"][0]["message"]["content"]

    def on_board(self, digest):
        directory = self.rehearsal.kit / "state" / "releases" / digest[:16]
        return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def read(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("is_real", [False, True])
def test_an_adapter_flies_serves_and_is_merged(tmp_path, is_real):
    mission = Mission(tmp_path, is_real=is_real)
    with mission.rehearsal as rehearsal:
        before = mission.answer()
        base = next(iter(mission.models().values()))
        staged = mission.fly("--base", str(mission.base))
        assert staged["base_digest"] == base
        assert staged["payload_bytes"] < 20_000
        assert mission.models() == {"lora": staged["release_digest"], "lora/base": base}
        beside = mission.answer()
        assert beside != before
        if is_real:
            assert beside == staged["canary"][0]["text"]
        rehearsal.skyloadd("verify", "all", "--config", str(rehearsal.config))

        merged = mission.fly("--adapter", "merge", "--name", "merged")
        assert merged["base_digest"] == base
        assert mission.models() == {"merged": merged["release_digest"]}
        assert mission.on_board(merged["release_digest"]) == merged_files(read(mission.adapter), read(mission.base))
        rehearsal.skyloadd("verify", "all", "--config", str(rehearsal.config))

        command = ("revert", staged["release_digest"], "--for", SATELLITE, "--link", rehearsal.link_address)
        rehearsal.skyload(*command, "--yes", "--json")
        assert mission.answer() == beside
