#!/usr/bin/env python3
"""A twin without a model, standard library only: takes `rehearse`'s options, answers with numbers made of the prompts.

The digest it "rebuilds" is read from the draft manifest, the 32 bytes after the key `digest`. What goes wrong is said
by the environment: FAKE_TWIN=fail | digest | garbage | silent | wait (until killed; touches WORK_DIR/../waiting).
It judges every release alike, by the figures below.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

PERPLEXITY, PERPLEXITY_THERE, DIVERGENCE = 12.3456, 12.0, 0.0123456


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["rehearse"])
    for option in ("manifest", "bundles", "release-key-file", "base", "prompts", "work-dir", "held-out", "reference"):
        parser.add_argument(f"--{option}", type=Path)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--held-out-tokens", type=int)
    parser.add_argument("--json", action="store_true", required=True)
    given = parser.parse_args()
    trouble = os.environ.get("FAKE_TWIN", "")
    assert (given.release_key_file.stat().st_mode & 0o777) == 0o600
    assert len(bytes.fromhex(given.release_key_file.read_text())) == 32
    assert list(given.bundles.glob("bundle-*.skb"))
    assert given.work_dir.is_dir()
    assert not any(given.work_dir.iterdir())
    if trouble == "wait":
        (given.bundles / "waiting").touch()
        time.sleep(60)
    if trouble == "fail":
        sys.stderr.write("the engine has no such layer\n")
        sys.exit(3)
    manifest = given.manifest.read_bytes()
    at = manifest.index(b"\xa6digest\xc4\x20") + 9
    digest = bytes(32) if trouble == "digest" else manifest[at : at + 32]
    prompts = [] if given.prompts is None else json.loads(given.prompts.read_text())
    answers = [{"tokens": list(prompt.encode()[: given.max_tokens]), "text": prompt.upper()} for prompt in prompts]
    if trouble == "silent":
        answers = [{"tokens": [], "text": ""} for _ in prompts]
    if trouble == "garbage":
        sys.stdout.write("loading...\n")
        return
    if given.base is not None:
        (given.bundles / "base-seen").write_text("\n".join(sorted(path.name for path in given.base.iterdir())))
    result = {"digest": digest.hex(), "answers": answers, "load_s": 0.1}
    if given.held_out is not None:
        result["quality"] = judge(given)
    sys.stdout.write(json.dumps(result) + "\n")


def judge(given):
    there = None
    if given.reference is not None:
        assert given.reference.is_dir()
        there = {"perplexity": PERPLEXITY_THERE, "divergence": DIVERGENCE}
    return {
        "text": hashlib.sha256(given.held_out.read_bytes()).hexdigest(),
        "num_tokens": given.held_out_tokens,
        "perplexity": PERPLEXITY,
        "reference": there,
    }


if __name__ == "__main__":
    main()
