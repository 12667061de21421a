"""The supervisor with real worker processes that have no model: loads, flips, drains, deaths."""

import asyncio
import contextlib
import json
import os
import signal

import pytest

from onboard.inference.answers import Started
from onboard.inference.children import start_child
from onboard.inference.engine import Delta, Done, Prompt, Sampling
from onboard.inference.errors import ServingError
from onboard.inference.limits import Limits
from onboard.inference.rehearsal import answer_prompts
from onboard.inference.supervisor import ModelState, Supervisor
from onboard.inference.workers import EngineWorker, WorkerSpec
from tests.fakes.engine import END, answer_tokens, engine_command, release_digest, text_of

HELLO = Prompt(messages=({"role": "user", "content": "hello"},))
QUICK = {"restart_pause_s": 0.001, "wait_timeout_s": 45.0, "health_interval_s": 60.0}


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


def expected(directory, *, max_tokens=20, prompt=HELLO, num_tokens=None):
    request = prompt.to_json() | {"max_tokens": max_tokens}
    return answer_tokens(release_digest(directory), request, num_tokens)


@contextlib.asynccontextmanager
async def supervise(tmp_path, *, mode=None, **limits):
    supervisor = Supervisor(
        command=tuple(engine_command(**(mode or {}))),
        run_directory=tmp_path,
        num_threads=1,
        limits=Limits(**(QUICK | limits)),
    )
    supervisor.events = []
    supervisor.on_event = supervisor.events.append
    try:
        yield supervisor
    finally:
        await supervisor.close()


async def load(supervisor, directory, release="a", timeout_s=45.0):
    return await supervisor.load(release, directory=directory, name=f"model-{release}", timeout_s=timeout_s)


async def ask(supervisor, *, prompt=HELLO, max_tokens=20, temperature=0.0, seed=0, tokens=None):
    """Return who answered, and with which tokens; `tokens` is filled as they come."""
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    tokens, started = [] if tokens is None else tokens, None
    async with contextlib.aclosing(supervisor.answer(prompt, sampling)) as items:
        async for item in items:
            if isinstance(item, Started):
                assert started is None
                started = item
            elif isinstance(item, Delta):
                tokens.extend(item.tokens)
            else:
                assert item.completion_tokens == len(tokens)
    return started.release, tokens


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def kind_of(caught):
    return caught.value.kind


def test_a_loaded_release_answers_probes_and_requests_only_after_the_flip(tmp_path):
    a = make_release(tmp_path / "a", b"weights of a")

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            await load(supervisor, a)
            with pytest.raises(ServingError) as caught:
                await ask(supervisor)
            assert kind_of(caught) == "unavailable"
            (probe,) = await supervisor.probe("a", [HELLO], max_tokens=20)
            assert list(probe.tokens) == expected(a)
            assert probe.text == text_of(expected(a))
            assert await supervisor.flip("a") >= 0
            assert await ask(supervisor) == ("a", expected(a))

    asyncio.run(scenario())


def test_a_flip_moves_new_requests_and_leaves_started_ones_where_they_are(tmp_path):
    a = make_release(tmp_path / "a", b"a", hold_at=2)
    b = make_release(tmp_path / "b", b"b")

    async def scenario():
        async with supervise(tmp_path, num_parallel=1) as supervisor:
            await asyncio.gather(load(supervisor, a, "a"), load(supervisor, b, "b"))
            await supervisor.flip("a")
            started = asyncio.create_task(ask(supervisor))
            waiting = asyncio.create_task(ask(supervisor))
            await until(lambda: supervisor.num_waiting == 1)
            await supervisor.flip("b")
            assert await ask(supervisor) == ("b", expected(b))
            assert await waiting == ("b", expected(b)), "a request that had not started goes to the new release"
            assert not started.done()
            draining = asyncio.create_task(supervisor.drain("a", timeout_s=45))
            await asyncio.sleep(0)
            set_mode(a)
            assert await started == ("a", expected(a))
            await draining
            assert [model.release for model in supervisor.models] == ["b"]

    asyncio.run(scenario())


def test_a_drain_that_takes_too_long_leaves_the_worker_at_work(tmp_path):
    a = make_release(tmp_path / "a", b"a", hold_at=2)
    b = make_release(tmp_path / "b", b"b")

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            await asyncio.gather(load(supervisor, a, "a"), load(supervisor, b, "b"))
            await supervisor.flip("a")
            started = asyncio.create_task(ask(supervisor))
            await until(lambda: supervisor.serving.num_active)
            await supervisor.flip("b")
            with pytest.raises(ServingError) as caught:
                await supervisor.drain("a", timeout_s=0.01)
            assert kind_of(caught) == "timeout"
            set_mode(a)
            assert (await started)[0] == "a"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("mode", "words"),
    [({"load": "crash"}, "exit code 3.*crashing on load"), ({"load": "fail"}, "refuses"), ({"load": "hang"}, "after")],
)
def test_a_release_that_does_not_load_says_why_and_leaves_nothing(tmp_path, mode, words):
    a = make_release(tmp_path / "a", b"a", **mode)

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            with pytest.raises(ServingError, match=words) as caught:
                await load(supervisor, a, timeout_s=0.15 if mode == {"load": "hang"} else 45)
            assert kind_of(caught) == "load_failed"
            assert supervisor.models == []
            assert not list(tmp_path.glob("*.sock"))

    asyncio.run(scenario())


def test_an_engine_that_cannot_be_started_is_not_the_releases_fault(tmp_path):
    spec = WorkerSpec(release="a", directory=tmp_path, command=("/no/such/engine",), run_directory=tmp_path)

    async def scenario():
        with pytest.raises(ServingError, match="/no/such/engine") as caught:
            await EngineWorker.start(spec)
        assert kind_of(caught) == "unavailable"

    asyncio.run(scenario())


def test_what_is_not_possible_is_refused_by_kind(tmp_path):
    a = make_release(tmp_path / "a", b"a")

    async def scenario():
        async with supervise(tmp_path, max_workers=1) as supervisor:
            await load(supervisor, a)
            await load(supervisor, a)  # again: nothing to do
            await supervisor.flip("a")
            for kind, attempt in [
                ("unknown_release", supervisor.flip("z")),
                ("unknown_release", supervisor.probe("z", [], max_tokens=1)),
                ("unknown_release", supervisor.unload("z")),
                ("serving", supervisor.unload("a")),
                ("serving", supervisor.drain("a", timeout_s=1)),
                ("busy", load(supervisor, a, "b")),
            ]:
                with pytest.raises(ServingError) as caught:
                    await attempt
                assert kind_of(caught) == kind

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_a_prompt_too_long_is_named(tmp_path):
    a = make_release(tmp_path / "a", b"a", token_s=0.01)

    async def scenario():
        async with supervise(tmp_path, num_parallel=1, max_waiting=1) as supervisor:
            await load(supervisor, a)
            await supervisor.flip("a")
            with pytest.raises(ServingError) as caught:
                await ask(supervisor, prompt=Prompt(tokens=(1,) * 3000))
            assert kind_of(caught) == "too_long"
            running = [asyncio.create_task(ask(supervisor)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(ServingError) as caught:
                await ask(supervisor)
            assert kind_of(caught) == "busy"
            assert len(await asyncio.gather(*running)) == 2

    asyncio.run(scenario())


def test_requests_of_a_killed_worker_are_taken_up_where_they_were(tmp_path):
    a = make_release(tmp_path / "a", b"a", hold_at=6, num_tokens=20)

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            model = await load(supervisor, a)
            await supervisor.flip("a")
            got = [[], [], [], []]
            asking = [ask(supervisor, max_tokens=n, seed=n, tokens=got[n - 18]) for n in (18, 19, 20)]
            asking.append(ask(supervisor, temperature=0.7, seed=5, tokens=got[3]))
            running = [asyncio.create_task(one) for one in asking]
            await until(lambda: [len(tokens) for tokens in got] == [6, 6, 6, 6])
            os.kill(model.worker.pid, signal.SIGKILL)
            set_mode(a, num_tokens=20)
            *answers, drawn = await asyncio.gather(*running)
            assert answers == [("a", expected(a, max_tokens=n, num_tokens=20)) for n in (18, 19, 20)]
            assert len(drawn[1]) == 20
            assert (model.num_restarts, model.num_failures, model.state) == (1, 0, ModelState.READY)
            (event,) = supervisor.events
            assert (event["event"], event["release"], event["serving"]) == ("worker_failed", "a", True)
            assert "SIGKILL" in event["reason"]

    asyncio.run(scenario())


def test_a_request_that_kills_every_worker_fails_and_the_next_one_is_answered(tmp_path):
    a = make_release(tmp_path / "a", b"a", crash_mid_answer=True)

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            await load(supervisor, a)
            await supervisor.flip("a")
            with pytest.raises(ServingError) as caught:
                await ask(supervisor)
            assert kind_of(caught) == "worker_lost"
            set_mode(a)
            assert await ask(supervisor) == ("a", expected(a))
            assert len(supervisor.events) == 2

    asyncio.run(scenario())


def test_an_answer_is_not_continued_by_another_release(tmp_path):
    a = make_release(tmp_path / "a", b"a", hold_at=2)
    b = make_release(tmp_path / "b", b"b")

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            await asyncio.gather(load(supervisor, a, "a"), load(supervisor, b, "b"))
            await supervisor.flip("a")
            got = []
            started = asyncio.create_task(ask(supervisor, tokens=got))
            await until(lambda: len(got) == 2)
            await supervisor.flip("b")
            await supervisor.unload("a")
            with pytest.raises(ServingError, match="another release"):
                await started

    asyncio.run(scenario())


def test_a_worker_that_dies_before_the_first_token_loses_nothing_in_a_flip(tmp_path):
    a = make_release(tmp_path / "a", b"a", hang_on_generate=True)
    b = make_release(tmp_path / "b", b"b")

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            await asyncio.gather(load(supervisor, a, "a"), load(supervisor, b, "b"))
            await supervisor.flip("a")
            started = asyncio.create_task(ask(supervisor))
            await until(lambda: supervisor.serving.num_active)
            await supervisor.flip("b")
            await supervisor.unload("a")
            assert await started == ("b", expected(b))

    asyncio.run(scenario())


def test_a_hanging_engine_is_killed_and_restarted(tmp_path):
    a = make_release(tmp_path / "a", b"a", hang_on_generate=True)

    async def scenario():
        async with supervise(tmp_path, health_interval_s=0.01, stall_timeout_s=1) as supervisor:
            await load(supervisor, a)
            await supervisor.flip("a")
            asked = asyncio.create_task(ask(supervisor))
            await until(lambda: supervisor.events)
            set_mode(a)
            assert await asked == ("a", expected(a))
            assert "no progress" in supervisor.events[0]["reason"]

    asyncio.run(scenario())


def test_a_restart_that_fails_is_told_each_time_and_a_flip_ends_it(tmp_path):
    a, b = make_release(tmp_path / "a", b"a"), make_release(tmp_path / "b", b"b")

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            model, _ = await asyncio.gather(load(supervisor, a, "a"), load(supervisor, b, "b"))
            await supervisor.flip("a")
            set_mode(a, load="fail")
            os.kill(model.worker.pid, signal.SIGKILL)
            await until(lambda: len(supervisor.events) >= 3)
            assert not supervisor.is_serving
            waiting = asyncio.create_task(ask(supervisor))
            await supervisor.flip("b")
            assert await waiting == ("b", expected(b))
            assert [event["failures"] for event in supervisor.events[:3]] == [1, 2, 3]
            await supervisor.drain("a", timeout_s=45)

    asyncio.run(scenario())


def test_a_client_that_gives_up_frees_its_place(tmp_path):
    a = make_release(tmp_path / "a", b"a", hold_at=2)

    async def scenario():
        async with supervise(tmp_path, num_parallel=1) as supervisor:
            model = await load(supervisor, a)
            await supervisor.flip("a")
            asked = asyncio.create_task(ask(supervisor))
            gave_up_waiting = asyncio.create_task(ask(supervisor))
            await until(lambda: supervisor.num_waiting == 1)
            asked.cancel()
            gave_up_waiting.cancel()
            await asyncio.wait({asked, gave_up_waiting})
            set_mode(a)
            assert (await ask(supervisor))[0] == "a"
            assert (model.num_active, supervisor.num_waiting) == (0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"wait_timeout_s": 0.02}, "busy"), ({"request_timeout_s": 0.05}, "timeout")],
    ids=["for a place", "for an answer"],
)
def test_requests_wait_only_so_long(tmp_path, limits, kind):
    a = make_release(tmp_path / "a", b"a", hang_on_generate=True)

    async def scenario():
        async with supervise(tmp_path, num_parallel=1, **limits) as supervisor:
            await load(supervisor, a)
            await supervisor.flip("a")
            first = asyncio.create_task(ask(supervisor))
            await until(lambda: supervisor.serving.num_active)
            second = asyncio.create_task(ask(supervisor))
            late, other = (second, first) if kind == "busy" else (first, second)
            with pytest.raises(ServingError) as caught:
                await late
            assert kind_of(caught) == kind
            other.cancel()
            await asyncio.wait({other})

    asyncio.run(scenario())


def test_no_worker_outlives_its_supervisor(tmp_path):
    a = make_release(tmp_path / "a", b"a")

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            model = await load(supervisor, a)
            pid = model.worker.pid
            os.kill(pid, 0)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(scenario())


def test_unloading_a_release_that_still_loads_leaves_no_worker(tmp_path):
    a = make_release(tmp_path / "a", b"a", load_s=0.05)

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            loading = asyncio.create_task(load(supervisor, a))
            await until(lambda: supervisor.models)
            await supervisor.unload("a")
            with pytest.raises(ServingError, match="while it loaded"):
                await loading
            assert supervisor.models == []

    asyncio.run(scenario())


def test_the_twin_answers_as_the_worker_on_board_would(tmp_path):
    a = make_release(tmp_path / "a", b"a")
    prompts = [{"messages": [{"role": "user", "content": "hello"}]}, {"prompt": "x y"}, {"tokens": [1, 2]}]

    async def scenario():
        answers = await answer_prompts(a, prompts, 20, engine_command())
        assert list(answers[0].tokens) == expected(a)
        assert [answer.tokens[-1] for answer in answers] == [END] * 3
        with pytest.raises(ServingError, match="exactly one"):
            await answer_prompts(a, [{}], 20, engine_command())

    asyncio.run(scenario())


def test_a_done_without_deltas_still_says_who_answered(tmp_path):
    a = make_release(tmp_path / "a", b"a", token_s=30)

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            model = await load(supervisor, a)
            await supervisor.flip("a")
            items = supervisor.answer(HELLO, Sampling(max_tokens=5))
            first = asyncio.ensure_future(anext(items))
            await until(lambda: model.num_active)
            model.worker.say("cancel", {"id": next(iter(model.worker._open))})
            assert isinstance(await first, Started)
            assert isinstance(await anext(items), Done)
            await items.aclose()

    asyncio.run(scenario())


def test_a_machine_that_starts_no_worker_now_is_no_failure_of_the_release(tmp_path):
    a = make_release(tmp_path / "a", b"a")
    tries = []

    async def start(spec):
        tries.append(spec)
        if 1 < len(tries) < 5:
            raise OSError(28, "No space left on device")
        return await EngineWorker.start(spec)

    async def scenario():
        async with supervise(tmp_path) as supervisor:
            supervisor._start_worker = start
            await load(supervisor, a)
            await supervisor.flip("a")
            supervisor.serving.worker.kill()
            async with asyncio.timeout(45):
                await until(lambda: len(tries) == 5 and supervisor.is_serving)
            assert [event["failures"] for event in supervisor.events] == [1, 1, 1, 1]
            assert await ask(supervisor) == ("a", expected(a))

    asyncio.run(scenario())


def test_a_log_that_cannot_be_written_keeps_no_child_from_running(tmp_path):
    async def scenario():
        child = await start_child(
            ["/bin/sh", "-c", "echo words >&2; exit 3"], log_path=tmp_path / "no/such/directory", oom_score=0
        )
        return await child.wait()

    assert asyncio.run(scenario()) == "exit code 3; last line of its log: words"


def test_weights_that_change_in_memory_are_loaded_anew_and_no_fault_of_the_release(tmp_path):
    async def scenario():
        directory = make_release(tmp_path / "a", b"weights", flip_mid_answer=True)
        async with supervise(tmp_path) as supervisor:
            model = await load(supervisor, directory)
            await supervisor.flip("a")
            tokens = []
            await ask(supervisor, tokens=tokens)
            assert tokens == expected(directory)  # nobody who asked noticed
            assert supervisor.events == [
                {"event": "weights_flipped", "release": "a", "where": "lm_head.weight", "offset": 8192, "bit": 77}
            ]
            assert (model.num_failures, model.num_restarts, model.state) == (0, 1, ModelState.READY)

    asyncio.run(scenario())


def test_a_release_on_trial_whose_weights_change_fails_its_trial_and_says_why(tmp_path):
    async def scenario():
        directory = make_release(tmp_path / "a", b"weights", flip_mid_answer=True)
        async with supervise(tmp_path) as supervisor:
            model = await load(supervisor, directory)
            with pytest.raises(ServingError):
                await supervisor.probe("a", [HELLO], max_tokens=8)
            while model.state is ModelState.READY:
                await asyncio.sleep(0.001)
            assert [event["event"] for event in supervisor.events] == ["weights_flipped", "worker_failed"]

    asyncio.run(scenario())


def test_what_serves_is_loaded_anew_when_its_files_were_mended_and_nobody_notices(tmp_path):
    async def scenario():
        directory = make_release(tmp_path / "a", b"weights", hold_at=2)
        async with supervise(tmp_path) as supervisor:
            model = await load(supervisor, directory)
            await supervisor.flip("a")
            first, tokens = model.worker, []
            asking = asyncio.create_task(ask(supervisor, tokens=tokens))
            while len(tokens) < 2:
                await asyncio.sleep(0.001)
            set_mode(directory)
            supervisor.reload("a")
            supervisor.reload("nobody")
            await asking
            assert tokens == expected(directory)
            async with asyncio.timeout(45):
                while model.worker is first or model.worker is None:
                    await asyncio.sleep(0.001)
            assert (model.num_failures, supervisor.events) == (0, [])

    asyncio.run(scenario())
