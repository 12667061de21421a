"""An engine worker without a model: stdlib only, starts in milliseconds, speaks the seam of a real one.

    python -S -E tests/fakes/engine.py --release-dir DIR --socket PATH [--base-dir DIR] [--threads N] [--mode JSON]

Its answers are words drawn from the digest of the release's files and the prompt, so two releases answer
differently, the same one always alike, and a single wrong byte shows. It misbehaves on demand: by a file
`fake-engine.json` in the release directory (not part of the digest, like any name with a leading dot), by
`--mode`, or by the file that `mode_file` of either names. Files are read at each start and each request:

    {"load": "crash" | "fail" | "hang"}      dies, refuses, or never gets ready
    {"load_s": 0.2}                          takes its time to load
    {"wrong_answers": true}                  answers as another release would
    {"crash_after": 3}                       dies at the request after so many
    {"crash_mid_answer": true}               dies after the first token
    {"hang_on_generate": true}               never answers, and says so in health
    {"token_s": 0.01}                        waits before each token
    {"hold_at": 3}                           stops before the token after so many, until told otherwise
    {"num_tokens": 8}                        length of an answer (default: 4 to 11, by digest)
"""

import argparse
import hashlib
import json
import os
import pathlib
import socket
import sys
import threading
import time

CONTEXT_TOKENS = 2048
END = 0
WORDS = [
    "",
    *(f" {a}{b}" for a in ("orb", "sol", "lun", "ast") for b in ("a", "e", "i", "o", "u", "is", "um", "en")),
]
WHOLE_FILE_BYTES = 64 << 20


def engine_command(**mode):
    """The command that starts this engine, for the engine_command of whoever supervises it."""
    return [sys.executable, "-S", "-E", str(pathlib.Path(__file__).resolve()), "--mode", json.dumps(mode)]


def text_of(tokens):
    """The text of an answer."""
    return "".join(WORDS[token] for token in tokens)


def release_digest(directory):
    """SHA-256 over names and bytes of all files; of large files only size, first and last MiB."""
    digest = hashlib.sha256()
    for path in sorted(p for p in pathlib.Path(directory).rglob("*") if p.is_file()):
        if path.name == "fake-engine.json" or path.name.startswith("."):
            continue
        size_bytes = path.stat().st_size
        digest.update(f"{path.relative_to(directory)}\0{size_bytes}\0".encode())
        with path.open("rb") as file:
            if size_bytes <= WHOLE_FILE_BYTES:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
            else:
                digest.update(file.read(1 << 20))
                file.seek(-(1 << 20), os.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()


def answer_tokens(digest, request, num_tokens=None):
    """The tokens this release answers, END included unless max_tokens comes first."""
    prompt = {name: request[name] for name in ("messages", "prompt", "tokens") if request.get(name) is not None}
    draw = [digest, prompt, request.get("seed", 0) if request.get("temperature", 0) > 0 else None]
    seed = hashlib.sha256(json.dumps(draw, sort_keys=True).encode()).digest()
    length = num_tokens or 4 + seed[0] % 8
    stream = hashlib.shake_128(seed).digest(length)
    tokens = [1 + byte % (len(WORDS) - 1) for byte in stream] + [END]
    return tokens[: request["max_tokens"]]


def num_prompt_tokens(request):
    if request.get("tokens") is not None:
        return len(request["tokens"])
    if request.get("prompt") is not None:
        return len(request["prompt"].split())
    return sum(1 + len(message["content"].split()) for message in request["messages"])


class Worker:
    def __init__(self, directory, connection, mode, base=None):
        self.directory = directory
        self.base = base
        self.connection = connection
        self.base_mode = mode
        self.lock = threading.Lock()
        self.state = "loading"
        self.num_requests = 0
        self.active = {}
        self.digest = self.base_digest = ""

    def mode(self):
        merged = dict(self.base_mode)
        own = pathlib.Path(self.directory, "fake-engine.json")
        if own.exists():
            merged |= json.loads(own.read_text())
        if "mode_file" in merged and pathlib.Path(merged["mode_file"]).exists():
            merged |= json.loads(pathlib.Path(merged["mode_file"]).read_text() or "{}")
        return merged

    def say(self, type_, **fields):
        line = json.dumps({"type": type_, **fields}).encode() + b"\n"
        with self.lock:
            try:
                self.connection.sendall(line)
            except OSError:
                os._exit(0)

    def load(self):
        mode = self.mode()
        time.sleep(mode.get("load_s", 0))
        if mode.get("load") == "crash":
            print("fake engine: crashing on load as told", file=sys.stderr, flush=True)
            os._exit(3)
        if mode.get("load") == "fail":
            self.say("failed", reason="the fake engine refuses this release as told")
            os._exit(0)
        if mode.get("load") == "hang":
            return
        if self.base is not None:
            if not pathlib.Path(self.base).is_dir():
                self.say("failed", reason="the base is not there")
                os._exit(0)
            self.base_digest = release_digest(self.base)
        self.digest = release_digest(self.directory)
        self.state = "ready"
        self.say("ready", engine="fake 1", context_tokens=CONTEXT_TOKENS)

    def serve(self):
        for line in self.connection.makefile("rb"):
            message = json.loads(line)
            if message["type"] == "health":
                stalled_s = 1e6 if self.active and self.mode().get("hang_on_generate") else 0.0
                self.say(
                    "health",
                    id=message["id"],
                    state=self.state,
                    num_active=len(self.active),
                    stalled_s=stalled_s,
                )
            elif message["type"] == "cancel":
                if message["id"] in self.active:
                    self.active[message["id"]].set()
            elif message["type"] == "generate":
                self.active[message["id"]] = threading.Event()
                threading.Thread(target=self.answer, args=(message,), daemon=True).start()
        os._exit(0)

    def answer(self, request):
        mode = self.mode()
        cancelled = self.active[request["id"]]
        self.num_requests += 1
        if self.num_requests > mode.get("crash_after", float("inf")):
            os._exit(4)
        if mode.get("hang_on_generate"):
            return
        prompt_tokens = num_prompt_tokens(request)
        if prompt_tokens >= CONTEXT_TOKENS:
            del self.active[request["id"]]
            self.say("error", id=request["id"], kind="too_long", message=f"{prompt_tokens} tokens do not fit")
            return
        digest = self.base_digest if request.get("is_plain") and self.base is not None else self.digest
        digest = digest[::-1] if mode.get("wrong_answers") else digest
        sent, finish_reason = [], "length"
        for token in answer_tokens(digest, request, mode.get("num_tokens")):
            if mode.get("token_s"):
                cancelled.wait(mode["token_s"])
            while len(sent) == self.mode().get("hold_at") and not cancelled.is_set():
                cancelled.wait(0.002)
            if cancelled.is_set():
                finish_reason = "cancelled"
                break
            text = WORDS[token]
            sent.append(token)
            if token == END or any(text.strip() == stop.strip() for stop in request.get("stop") or ()):
                finish_reason, text = "stop", ""
            self.say("delta", id=request["id"], tokens=[token], text=text)
            if mode.get("crash_mid_answer"):
                os._exit(5)
            if mode.get("flip_mid_answer"):
                pathlib.Path(self.directory, "fake-engine.json").unlink()  # the next worker has other memory
                self.say("flipped", where="lm_head.weight", offset=8192, bit=77)
                os._exit(20)
            if finish_reason == "stop":
                break
        del self.active[request["id"]]
        self.say("done", id=request["id"], finish_reason=finish_reason, prompt_tokens=prompt_tokens,
                 completion_tokens=len(sent))  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--release-dir", required=True)
    parser.add_argument("--base-dir")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mode", default="{}")
    args = parser.parse_args()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(args.socket)
    worker = Worker(args.release_dir, connection, json.loads(args.mode), args.base_dir)
    threading.Thread(target=worker.load, daemon=True).start()
    worker.serve()


if __name__ == "__main__":
    main()
