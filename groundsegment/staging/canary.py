"""The canary's prompts: those that come with skyload, or the operator's own."""

import json
from importlib.resources import files
from pathlib import Path

from groundsegment.errors import InputError
from protocol.limits import CANARY_PROMPTS_MAX, PROMPT_SIZE_MAX

_HINT = 'give a JSON file with a list of questions: ["What is ...?", "Translate ..."]'


def read_prompts(path: Path | None) -> tuple[str, ...]:
    """Return the prompts in a JSON file; without one, those that come with skyload.

    Raises:
        InputError: not a list of 1 to 32 questions.
    """
    if path is None:
        text = files("groundsegment.staging").joinpath("canary_prompts.json").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not text in UTF-8", hint=_HINT) from None
    try:
        prompts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}", hint=_HINT) from None
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= CANARY_PROMPTS_MAX:
        raise InputError(f"{path}: expected a list of 1 to {CANARY_PROMPTS_MAX} questions", hint=_HINT)
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > PROMPT_SIZE_MAX:
            raise InputError(f"{path}: {str(prompt)[:60]!r} is not a question", hint=_HINT)
    return tuple(prompts)
