"""The endpoint as its users meet it: the openai client, other HTTP clients, and the daemon's control socket.

The serving process runs in this process's loop; engine workers are real processes without a model.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import shlex
import signal
import sys

import httpx
import openai
import pytest

from onboard.inference import serving as serving_process
from onboard.inference.children import rss_bytes
from onboard.inference.confinement import landlock
from onboard.inference.control import ServingControl, ServingProcess
from onboard.inference.errors import ServingError
from onboard.inference.serving import parse_arguments, serve
from protocol.adapters import base_note
from tests.fakes.engine import answer_tokens, engine_command, release_digest, text_of

HELLO = [{"role": "user", "content": "hello"}]
LONG = [{"role": "user", "content": "x " * 2200}]


def is_running(pid):
    """Whether a process exists and is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def make_release(directory, content, **mode):
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(content)
    if mode:
        set_mode(directory, **mode)
    return directory


def set_mode(directory, **mode):
    whole = directory.with_name(f"{directory.name}-mode.json")  # never read half written
    whole.write_text(json.dumps(mode))
    whole.rename(directory / "fake-engine.json")


def expected_text(directory, messages, *, max_tokens=512, num_tokens=None):
    tokens = answer_tokens(release_digest(directory), {"messages": messages, "max_tokens": max_tokens}, num_tokens)
    return text_of(tokens)


class Satellite:
    """A serving process's endpoint, control socket and an HTTP client for it."""

    def __init__(self, endpoint, control):
        self.endpoint = endpoint
        self.control = control
        self.http = httpx.AsyncClient(base_url=endpoint, timeout=45)
        self.openai = openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0, timeout=45)

    async def serve_release(self, directory, release="a"):
        await self.control.load(release, directory=directory, name=f"model-{release}", timeout_s=45)
        await self.control.flip(release)

    async def chat(self, **fields):
        return await self.http.post("/v1/chat/completions", json={"messages": HELLO} | fields)


@contextlib.asynccontextmanager
async def satellite(tmp_path, *options):
    paths = ["--control", str(tmp_path / "c.sock"), "--run-dir", str(tmp_path / "run")]
    engine = ["--engine-command", shlex.join(engine_command())]
    arguments = parse_arguments(["--listen", "127.0.0.1:0", *paths, *engine, *options])
    listening = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(arguments, on_ready=listening.set_result))
    await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
    control = await ServingControl.connect(tmp_path / "c.sock")
    there = Satellite(listening.result(), control)
    try:
        yield there
    finally:
        await there.http.aclose()
        await there.openai.close()
        await control.shutdown()
        await control.close()
        await serving


def test_the_openai_client_works_unchanged(tmp_path):
    a = make_release(tmp_path / "a", b"a", num_tokens=12)
    text = expected_text(a, HELLO, num_tokens=12)

    async def scenario():
        async with satellite(tmp_path) as there:
            await there.serve_release(a)
            client = there.openai
            (model,) = [model async for model in client.models.list()]
            assert (model.id, model.digest) == ("model-a", "a")
            assert (await client.models.retrieve("model-a")).id == "model-a"
            answer = await client.chat.completions.create(model=model.id, messages=HELLO)
            assert answer.choices[0].message.content == text
            assert (answer.choices[0].finish_reason, answer.model) == ("stop", "model-a")
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 13)

            stream = await client.chat.completions.create(
                model=model.id, messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == text
            assert chunks[0].choices[0].delta.role == "assistant"
            assert chunks[-2].choices[0].finish_reason == "stop"
            assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 15)

            plain = await client.completions.create(model=model.id, prompt="one two", max_tokens=3)
            assert (plain.choices[0].finish_reason, plain.usage.completion_tokens) == ("length", 3)
            stream = await client.completions.create(model=model.id, prompt="one two", max_tokens=3, stream=True)
            assert "".join([chunk.choices[0].text async for chunk in stream]) == plain.choices[0].text
            stopped = await client.chat.completions.create(model=model.id, messages=HELLO, stop=text.split()[4])
            assert stopped.choices[0].message.content == "".join(f" {word}" for word in text.split()[:4])

    asyncio.run(scenario())


def test_an_adapter_and_its_base_are_two_models_of_one_worker(tmp_path):
    base_digest = bytes(range(32))
    base = make_release(tmp_path / base_digest.hex()[:16], b"base", num_tokens=12)
    adapter = make_release(tmp_path / "adapter", b"adapter", num_tokens=12)
    (adapter / "skyload_adapter.json").write_bytes(base_note.encode(base_digest))

    async def scenario():
        async with satellite(tmp_path) as there:
            await there.serve_release(adapter)
            models = [model async for model in there.openai.models.list()]
            assert [(model.id, model.digest) for model in models] == [
                ("model-a", "a"),
                ("model-a/base", base_digest.hex()),
            ]
            assert (await there.openai.models.retrieve("model-a/base")).digest == base_digest.hex()
            for name, directory in [("model-a", adapter), ("model-a/base", base), ("any", adapter)]:
                answer = await there.openai.chat.completions.create(model=name, messages=HELLO)
                assert answer.choices[0].message.content == expected_text(directory, HELLO, num_tokens=12)
                assert answer.model == ("model-a/base" if directory is base else "model-a")
            assert len((await there.control.status()).workers) == 1
            await there.serve_release(base, release="b")
            answer = await there.openai.chat.completions.create(model="model-a/base", messages=HELLO)
            assert answer.model == "model-b", "a client that knows the adapter does not fail in a swap"

    asyncio.run(scenario())


def test_an_adapter_without_its_base_does_not_load(tmp_path):
    adapter = make_release(tmp_path / "adapter", b"adapter")
    (adapter / "skyload_adapter.json").write_bytes(base_note.encode(bytes(32)))

    async def scenario():
        async with satellite(tmp_path) as there:
            with pytest.raises(ServingError, match="the base is not there") as caught:
                await there.serve_release(adapter)
            assert caught.value.kind == "load_failed"

    asyncio.run(scenario())


def test_what_goes_wrong_is_an_openai_error(tmp_path):
    a = make_release(tmp_path / "a", b"a")

    async def scenario():
        async with satellite(tmp_path, "--max-body-bytes", "5000", "--max-tokens", "50") as there:
            before = await there.http.get("/health")
            assert (before.status_code, before.headers["retry-after"]) == (503, "5")
            with pytest.raises(openai.InternalServerError, match="no model serves"):
                await there.openai.chat.completions.create(model="m", messages=HELLO)
            await there.serve_release(a)
            assert (await there.http.get("/health")).json() == {"status": "ok", "model": "model-a", "release": "a"}
            with pytest.raises(openai.BadRequestError) as caught:
                await there.openai.chat.completions.create(model="m", messages=HELLO, n=2)
            assert caught.value.param == "n"
            with pytest.raises(openai.BadRequestError) as caught:
                await there.openai.chat.completions.create(model="m", messages=LONG)
            assert caught.value.code == "context_length_exceeded"
            with pytest.raises(openai.NotFoundError):
                await there.openai.models.retrieve("model-b")
            for path, status in [("/v1/embeddings", 404), ("/v1/chat/completions", 405)]:
                reply = await there.http.get(path)
                assert (reply.status_code, reply.json()["error"]["type"]) == (status, "invalid_request_error")
            assert (await there.http.post("/v1/completions", content=b"x" * 5001)).status_code == 413
            assert (await there.chat(max_tokens=51)).json()["error"]["param"] == "max_tokens"
            status = await there.control.status()
            assert status.requests_failed_total == 0

    asyncio.run(scenario())


def test_a_full_queue_says_when_to_come_back(tmp_path):
    a = make_release(tmp_path / "a", b"a", hold_at=1)

    async def scenario():
        async with satellite(tmp_path, "--parallel", "1", "--max-waiting", "1") as there:
            await there.serve_release(a)
            asking = [asyncio.create_task(there.chat()) for _ in range(6)]
            while sum(one.done() for one in asking) < 4:
                await asyncio.sleep(0.002)
            set_mode(a)
            replies = await asyncio.gather(*asking)
            assert sorted({reply.status_code for reply in replies}) == [200, 429]
            refused = [reply for reply in replies if reply.status_code == 429]
            assert refused[0].headers["retry-after"] == "1"
            assert len(refused) == 4

    asyncio.run(scenario())


async def answered(host, port):
    """A connection whose first request was answered. Where the machine stands still, the first may be too late."""
    while True:
        reader, writer = await asyncio.open_connection(host, port)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"[]}")
            return reader, writer
        writer.close()


@pytest.mark.parametrize(("is_known", "said"), [(False, b""), (False, b"GET /hea"), (True, b"GET /hea")])
def test_whoever_never_says_what_he_wants_is_hung_up_on(tmp_path, is_known, said):
    async def scenario():
        async with satellite(tmp_path, "--head-timeout-s", "0.05") as there:
            host, port = there.endpoint.removeprefix("http://").split(":")
            connect = answered if is_known else asyncio.open_connection
            reader, writer = await connect(host, int(port))
            writer.write(said)
            async with asyncio.timeout(45):
                with contextlib.suppress(ConnectionError):  # hung up on before these words came
                    assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())


def test_a_head_without_end_is_refused_and_others_are_answered(tmp_path):
    async def scenario():
        async with satellite(tmp_path) as there:
            host, port = there.endpoint.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    writer.write(b"GET /health HTTP/1.1\r\nX: " + b"x" * (1 << 16))
                    await writer.drain()
                assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
            assert (await there.http.get("/v1/models")).status_code == 200

    asyncio.run(scenario())


def test_connections_beyond_the_limit_are_turned_away_until_others_end(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_process, "_MAX_CONNECTIONS", 3)

    async def scenario():
        async with satellite(tmp_path) as there:
            host, port = there.endpoint.removeprefix("http://").split(":")
            held = [(await answered(host, int(port)))[1] for _ in range(2)]
            assert (await there.http.get("/v1/models")).status_code == 503
            for writer in held:
                writer.close()
            async with asyncio.timeout(45):
                while (code := (await there.http.get("/v1/models")).status_code) == 503:
                    pass  # it has not noticed yet that they hung up
            assert code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_the_engine(tmp_path, stream):
    a = make_release(tmp_path / "a", b"a", hold_at=2, num_tokens=100)

    async def scenario():
        async with satellite(tmp_path, "--parallel", "1") as there:
            await there.serve_release(a)
            reader, writer = await asyncio.open_connection(*there.endpoint.removeprefix("http://").split(":"))
            body = json.dumps({"messages": HELLO, "stream": stream, "max_tokens": 100}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            writer.write(head + body)
            if stream:
                await reader.readuntil(b"data: ")
            else:
                while not (await there.control.status()).in_flight:
                    await asyncio.sleep(0.005)
            writer.close()
            await writer.wait_closed()
            while (status := await there.control.status()).in_flight:
                await asyncio.sleep(0.005)
            assert (status.requests_failed_total, status.workers[0].in_flight) in ((0, 0), (0, 1))
            metrics = (await there.http.get("/metrics")).text
            assert 'skyload_requests_total{api="chat",outcome="cancelled"} 1.0' in metrics

    asyncio.run(scenario())


def test_metrics_tell_what_happened(tmp_path):
    a = make_release(tmp_path / "a", b"a", num_tokens=5)

    async def scenario():
        async with satellite(tmp_path) as there:
            await there.serve_release(a)
            await there.chat()
            await there.chat(n=2)
            asked = await there.control.ask(HELLO, max_tokens=3)
            assert (asked.completion_tokens, asked.release, asked.name) == (3, "a", "model-a")
            metrics = (await there.http.get("/metrics")).text
            for line in [
                'skyload_requests_total{api="chat",outcome="ok"} 1.0',
                'skyload_requests_total{api="ask",outcome="ok"} 1.0',
                'skyload_tokens_total{kind="completion"} 9.0',
                "skyload_requests_in_flight 0.0",
                "skyload_swaps_total 1.0",
                'skyload_worker_restarts_total{release="a"} 0.0',
                'skyload_release_info{name="model-a",release="a"} 1.0',
            ]:
                assert line in metrics, line

    asyncio.run(scenario())


def test_the_daemon_is_told_of_failures_and_of_mistakes(tmp_path):
    a = make_release(tmp_path / "a", b"a")

    async def scenario():
        async with satellite(tmp_path) as there:
            await there.serve_release(a)
            (answer,) = await there.control.probe("a", [{"messages": HELLO}], max_tokens=9)
            assert answer.text == expected_text(a, HELLO, max_tokens=9)
            os.kill((await there.control.status()).workers[0].pid, signal.SIGKILL)
            event = await there.control.next_event()
            assert (event.release, event.serving, event.failures) == ("a", True, 1)
            for kind, attempt in [
                ("unknown_release", there.control.flip("z")),
                ("serving", there.control.unload("a")),
                ("invalid", there.control.probe("a", [{"messages": []}], max_tokens=1)),
            ]:
                with pytest.raises(ServingError) as caught:
                    await attempt
                assert caught.value.kind == kind
            second = await ServingControl.connect(tmp_path / "c.sock")
            assert (await second.ask(HELLO, max_tokens=5)).release == "a"
            await second.close()
            with pytest.raises(ServingError, match="gone"):
                await second.status()

    asyncio.run(scenario())


class Load:
    """Clients that keep asking, streaming and not, and check every answer against the release it names."""

    def __init__(self, there, releases):
        self.there = there
        self.releases = releases
        self.counts = dict.fromkeys(releases, 0)
        self.failures = []
        self.stopping = asyncio.Event()

    async def client(self, number):
        count = 0
        while not self.stopping.is_set():
            count += 1
            messages = [{"role": "user", "content": f"question {count} of client {number}"}]
            try:
                release, text = await (self.streamed(messages) if count % 2 else self.whole(messages))
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
                continue
            self.counts[release] += 1
            if text != expected_text(self.releases[release], messages, num_tokens=12):
                self.failures.append(f"{release} answered {text!r}")

    async def whole(self, messages):
        answer = await self.there.openai.chat.completions.create(model="any", messages=messages)
        return answer.model.removeprefix("model-"), answer.choices[0].message.content

    async def streamed(self, messages):
        stream = await self.there.openai.chat.completions.create(model="any", messages=messages, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "stop"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return chunks[0].model.removeprefix("model-"), text

    async def wait_for(self, release, more):
        goal = self.counts[release] + more
        while self.counts[release] < goal and not self.failures:
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def under_load(there, releases, *, num_clients):
    load = Load(there, releases)
    clients = [asyncio.create_task(load.client(number)) for number in range(num_clients)]
    try:
        yield load
    finally:
        load.stopping.set()
        await asyncio.gather(*clients)


def test_no_request_fails_while_releases_are_swapped_and_a_worker_is_killed(tmp_path):
    releases = {
        name: make_release(tmp_path / name, name.encode(), token_s=0.001, num_tokens=12) for name in ("a", "b", "c")
    }

    async def scenario():
        async with satellite(tmp_path) as there:
            await there.serve_release(releases["a"])
            async with under_load(there, releases, num_clients=6) as load:
                await load.wait_for("a", 5)
                for old, new in [("a", "b"), ("b", "c"), ("c", "a")]:
                    await there.control.load(new, directory=releases[new], name=f"model-{new}", timeout_s=45)
                    await there.control.probe(new, [{"messages": HELLO}], max_tokens=5)
                    await there.control.flip(new)
                    await there.control.drain(old, timeout_s=45)
                    await load.wait_for(new, 5)
                (worker,) = (await there.control.status()).workers
                os.kill(worker.pid, signal.SIGKILL)
                await load.wait_for("a", 20)
            status = await there.control.status()
            assert load.failures == []
            assert status.requests_failed_total == 0
            assert status.requests_total == sum(load.counts.values())
            assert min(load.counts.values()) >= 5
            assert status.workers[0].restarts == 1

    asyncio.run(scenario())


def test_the_serving_process_is_small_and_says_why_it_cannot_start(tmp_path):
    a = make_release(tmp_path / "a", b"a")

    async def scenario():
        process = await ServingProcess.start(
            listen="127.0.0.1:0", run_directory=tmp_path / "run", engine_command=engine_command()
        )
        control = await ServingControl.connect(process.control_path)
        try:
            await control.load("a", directory=a, name="a")
            await control.flip("a")
            assert (await control.ask(HELLO, max_tokens=5)).release == "a"
            assert rss_bytes(process.pid) < 120e6
            (worker,) = (await control.status()).workers
            assert {"limits", "no-capabilities", "no-new-privileges"} <= set(worker.locks)
            assert worker.not_confined == () or landlock.abi() < 3
            taken = process.endpoint.removeprefix("http://")
            with pytest.raises(ServingError, match="in use"):
                await ServingProcess.start(listen=taken, run_directory=tmp_path / "other")
        finally:
            how = await process.stop()
            assert await control.next_event() is None
            await control.close()
        assert how == "exit code 0"

    asyncio.run(scenario())


DAEMON = """
import asyncio, pathlib, sys
from onboard.inference.control import ServingControl, ServingProcess

async def main(run_directory, release, *engine_command):
    process = await ServingProcess.start(
        listen="127.0.0.1:0", run_directory=pathlib.Path(run_directory), engine_command=engine_command
    )
    control = await ServingControl.connect(process.control_path)
    await control.load("a", directory=pathlib.Path(release), name="a")
    status = await control.status()
    print(process.pid, status.workers[0].pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def test_serving_and_workers_die_with_the_daemon(tmp_path):
    a = make_release(tmp_path / "a", b"a")
    arguments = [str(tmp_path / "run"), str(a), *engine_command()]

    async def scenario():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DAEMON, *arguments, stdout=asyncio.subprocess.PIPE
        )
        pids = [int(word) for word in (await process.stdout.readline()).split()]
        assert [is_running(pid) for pid in pids] == [True, True]
        process.kill()
        await process.wait()
        async with asyncio.timeout(45):
            while any(is_running(pid) for pid in pids):
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
