"""The embedded engine on a tiny random Qwen2: what greedy, seeds, stops and formats mean with a real engine.

Slow: each worker imports torch and transformers, some five seconds on a busy core.
"""

import asyncio

import openai
import pytest

from onboard.inference.control import ServingControl, ServingProcess
from onboard.inference.errors import ServingError
from onboard.inference.rehearsal import answer_prompts
from tests.fakes.models import make_tiny_qwen2

HELLO = [{"role": "user", "content": "hello world"}]

pytestmark = pytest.mark.slow


def test_the_embedded_engine_serves_the_openai_client_through_a_swap(tmp_path):
    one, two = make_tiny_qwen2(tmp_path / "one", seed=1), make_tiny_qwen2(tmp_path / "two", seed=2)

    async def scenario():
        process = await ServingProcess.start(listen="127.0.0.1:0", run_directory=tmp_path / "run")
        control = await ServingControl.connect(process.control_path)
        client = openai.AsyncOpenAI(base_url=f"{process.endpoint}/v1", api_key="none", max_retries=0)
        try:
            loaded = await control.load("1", directory=one, name="one")
            assert "transformers" in loaded.engine
            await control.flip("1")
            rehearsed, (probed,) = await asyncio.gather(
                answer_prompts(one, [{"messages": HELLO}], 24),
                control.probe("1", [{"messages": HELLO}], max_tokens=24),
            )
            assert rehearsed[0].tokens == probed.tokens, "the twin and the worker on board must agree"

            async def chat(**fields):
                answer = await client.chat.completions.create(model="one", messages=HELLO, max_tokens=24, **fields)
                return answer.choices[0]

            first = await chat()
            text = first.message.content
            assert (text, first.finish_reason) == (probed.text, "length")
            alone, *together = await asyncio.gather(chat(), *(chat(temperature=1.0, seed=7) for _ in range(3)))
            assert alone.message.content == text, "other requests must not change a greedy answer"
            assert len({choice.message.content for choice in together}) == 1, "a seed fixes an answer"
            assert (await chat(temperature=1.0, seed=8)).message.content != together[0].message.content

            stop = text[8:11]
            stopped = await chat(stop=[stop])
            assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(stop)], "stop")
            stream = await client.chat.completions.create(model="one", messages=HELLO, max_tokens=24, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text

            long_answer = asyncio.create_task(
                client.chat.completions.create(model="one", messages=HELLO, max_tokens=400)
            )
            await control.load("2", directory=two, name="two")
            await control.flip("2")
            await control.drain("1", timeout_s=60)
            answer = await chat()
            assert answer.message.content != text
            assert (await long_answer).choices[0].message.content.startswith(text)
            with pytest.raises(openai.BadRequestError, match="tokens long"):
                await client.completions.create(model="two", prompt=[5] * 5000)
            assert (await control.status()).requests_failed_total == 0
        finally:
            await client.close()
            await control.close()
            await process.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("damage", ["truncated", "missing", "pickle", "foreign code"])
def test_a_release_that_cannot_be_loaded_says_why(tmp_path, damage):
    release = make_tiny_qwen2(tmp_path / "release", seed=1)
    weights = release / "model.safetensors"
    marker = tmp_path / "ran"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "missing":
        weights.unlink()
    elif damage == "pickle":
        weights.rename(release / "pytorch_model.bin")
    else:
        config = (release / "config.json").read_text().replace('"model_type": "qwen2"', '"model_type": "moon"')
        auto_map = '"auto_map": {"AutoConfig": "moon.Config", "AutoModelForCausalLM": "moon.Model"},'
        (release / "config.json").write_text(config.replace("{", "{" + auto_map, 1))
        (release / "moon.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(ServingError) as caught:
        asyncio.run(answer_prompts(release, [{"messages": HELLO}], 4))
    assert caught.value.kind == "load_failed"
    assert not marker.exists(), "code of a release must never run"
