"""The command line of the satellite: `skyloadd`.

Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 other, 2 usage, 3 configuration
or kit, 4 store, 5 an update cannot go on, 6 no such release, 7 busy or nobody answers, 10 damage found or a file
refused, 130 interrupt.
"""

import argparse
import contextlib
import errno
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from onboard.console_parser import make_parser
from onboard.errors import ConfigError, OnboardError, StoreError

DAMAGE_EXIT_CODE = 10
REFUSED_EXIT_CODE = 10  # of import: not all of it went in
_INTERRUPT_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parsed = make_parser(_COMMANDS).parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except OnboardError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except OSError as error:
        return _tell_os_error(error)
    except KeyboardInterrupt:
        print("interrupted: what is durable is kept; run the same command again", file=sys.stderr)
        return _INTERRUPT_EXIT_CODE


def _tell_os_error(error: OSError) -> int:
    name = f"{error.filename}: " if error.filename else ""
    is_disk = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
    hint = "free some space, or look at the medium" if is_disk else "check the path and its permissions"
    print(f"error: {name}{error.strerror or error}", file=sys.stderr)
    print(f"hint: {hint}", file=sys.stderr)
    return StoreError.exit_code if is_disk else ConfigError.exit_code


def _run(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.daemon import log_to_stderr, run_daemon
    from onboard.read_only import is_read_only
    from onboard.serve_only import run_serve_only
    from onboard.state import check_kit

    config = load_config(args.config)
    if is_read_only(config.satellite.state_dir):
        log_to_stderr(is_verbose=args.verbose)
        run_serve_only(config)
        return 0
    check_kit(config)
    log_to_stderr(is_verbose=args.verbose)
    run_daemon(config)
    return 0


def _status(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.control_socket import ask_here
    from onboard.store.layout import StateLayout

    config = load_config(args.config)
    status = ask_here(StateLayout(config.satellite.state_dir), {"op": "status"})["status"]
    if args.json:
        _print_json(status)
        return 0
    serving, updates = status["serving"], status["updates"]
    print(f"satellite  {status['satellite']}, boot {status['boot_count']}, up {status['uptime_s']:.0f} s")
    if status["read_only"]:
        print("medium     READ-ONLY: what is there serves, and nothing is taken; look at the disk, then restart")
    if serving["digest"]:
        print(f"serving    {serving['name']} {serving['digest'][:16]} at {status['endpoint']}/v1")
    else:
        print("serving    nothing")
    if serving["trouble"]:
        print(f"           no serving process: {serving['trouble']}")
    if status["read_only"]:
        return 0
    for number, update in enumerate(updates):
        name = "" if number else "update"
        reason = "" if update["reason"] == "none" else f", {update['reason']}"
        print(
            f"{name:<10} {update['handle']} sequence {update['sequence']}: {update['state']}{reason},"
            f" bundles {update['bundles_installed']} of {update['num_bundles']}"
        )
    if not updates:
        print("update     none yet")
    receiver = status["receiver"]
    rejected = sum(receiver["frames_rejected"].values())
    print(f"link       {receiver['frames_received']} frames received, {rejected} rejected")
    if status["num_files_waiting"]:
        print(f"import     {status['num_files_waiting']} files wait for their update, or for room")
    print(
        f"trust      root {status['root_version']}, epoch {status['epoch']},"
        f" metadata version {status['accepted']}, floor {status['floor']}"
    )
    scrub = status["scrub"]
    print(
        f"scrub      {scrub['num_scrubs']} releases read, {scrub['flips_found']} flipped bits found,"
        f" {scrub['flips_repaired']} repaired, {scrub['flips_in_memory']} in memory"
    )
    for lost in scrub["lost"]:
        print(f"           {lost['release'][:16]}: {lost['num_bytes']} bytes lost in {lost['num_ranges']} places")
    print(f"disk       {status['free_mib']} MiB free")
    return 0


def _releases(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.state import open_release, read_record

    layout, record = read_record(load_config(args.config))
    rows: list[dict[str, Any]] = []
    for known in record.releases:
        size: int | None = None
        with contextlib.suppress(OnboardError):
            size = open_release(layout, known).size_bytes
        rows.append(
            {
                "digest": known.digest.hex(),
                "name": known.name,
                "sequence": known.sequence,
                "size_bytes": size,
                "is_current": known.digest == record.current,
                "is_previous": known.digest == record.previous,
                "is_golden": known.digest == record.golden,
                "directory": str(layout.release(known.digest)),
            }
        )
    if args.json:
        _print_json(rows)
        return 0
    for row in rows:
        roles = [role for role in ("current", "previous", "golden") if row[f"is_{role}"]]
        size_text = "damaged" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.1f} MB"
        print(f"{row['digest'][:16]}  {row['sequence']:>6}  {size_text:>12}  {','.join(roles):<8}  {row['name']}")
    if not rows:
        print("no release is on board yet", file=sys.stderr)
    return 0


def _revert(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.control_socket import ask_here
    from onboard.store.layout import StateLayout

    config = load_config(args.config)
    reply = ask_here(StateLayout(config.satellite.state_dir), {"op": "revert", "digest": args.digest})
    if args.json:
        _print_json({"digest": reply["digest"], "name": reply["name"]})
    else:
        print(f"{reply['name']} {reply['digest'][:16]} serves")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.errors import StoreCorruptError
    from onboard.state import find_release, open_release, read_record

    layout, record = read_record(load_config(args.config))
    chosen = record.releases if args.digest == "all" else (find_release(record, args.digest),)
    results: list[dict[str, Any]] = []
    for known in chosen:
        try:
            damage = open_release(layout, known).find_damage(lambda name: _progress(f"reading {name}"))
            found = [{"name": item.name, "problem": item.problem} for item in damage]
        except StoreCorruptError as error:
            found = [{"name": error.name, "problem": f"expected {error.expected}, got {error.got}"}]
        results.append({"digest": known.digest.hex(), "name": known.name, "damage": found})
    if args.json:
        _print_json(results)
    else:
        for result in results:
            print(f"{result['digest'][:16]}  {result['name']}  {'DAMAGED' if result['damage'] else 'whole'}")
            for item in result["damage"]:
                print(f"    {item['name']}: {item['problem']}")
    if any(result["damage"] for result in results):
        print("hint: `skyloadd revert` to another release; uplink this one again", file=sys.stderr)
        return DAMAGE_EXIT_CODE
    return 0


def _scrub(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.scrub_command import scrub_on_board

    results = scrub_on_board(load_config(args.config), args.digest)
    if args.json:
        _print_json(results)
    for result in () if args.json else results:
        print(
            f"{result['digest'][:16]}  {'whole' if result['is_whole'] else 'DAMAGED'}, {result['num_bytes'] / 1e6:.1f}"
            f" MB read, {result['flips_found']} flipped bits found, {result['flips_repaired']} repaired"
        )
        for flip in result["flips"]:
            bits = ", ".join(map(str, flip["bits"])) or f"{flip['num_bits'] or '?'} bits"
            print(f"    {flip['file']} at {flip['offset']}: {bits}: {'repaired' if flip['is_repaired'] else 'lost'}")
        if result["trouble"]:
            print(f"    {result['trouble']}")
    if all(result["is_whole"] for result in results):
        return 0
    print("hint: the ground is asked for what is lost; `skyloadd revert` to another release meanwhile", file=sys.stderr)
    return DAMAGE_EXIT_CODE


def _provision(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.state import provision
    from protocol.names import is_safe_name

    name = args.name or args.directory.resolve().name
    if not is_safe_name(name):
        raise ConfigError(f"--name: {name!r} must be one word of A-Z a-z 0-9 . _ -", hint="give another --name")
    done = provision(load_config(args.config), args.directory, name=name, is_golden=args.golden)
    known = done.known
    if args.json:
        facts = {"is_new": done.is_new, "is_current": done.is_current, "is_golden": done.is_golden}
        _print_json({"digest": known.digest.hex(), "name": known.name, **facts})
    else:
        there = "is on board" if done.is_new else "was on board already"
        roles = [*(["serves"] if done.is_current else []), *(["is golden"] if done.is_golden else [])]
        print(f"{known.name} {known.digest.hex()[:16]} {there}: it {' and '.join(roles)}")
    if name != known.name:
        print(f"it keeps its name, {known.name}", file=sys.stderr)
    if done.golden_before is not None:
        print(f"{done.golden_before.name} is golden no more: it may be deleted like any other", file=sys.stderr)
    return 0


def _rehearse(args: argparse.Namespace) -> int:
    from onboard.rehearse import RehearsalTask, rehearse

    task = RehearsalTask(
        manifest=args.manifest,
        bundles=args.bundles,
        release_key_file=args.release_key_file,
        base=args.base,
        prompts=args.prompts,
        max_tokens=args.max_tokens,
        engine_command=args.engine_command,
        num_threads=args.threads,
        work_dir=args.work_dir,
        held_out=args.held_out,
        held_out_tokens=args.held_out_tokens,
        reference=args.reference,
        judge_command=args.judge_command,
    )
    result = rehearse(task, _progress)
    if args.json:
        _print_json(
            {
                "digest": result.digest.hex(),
                "answers": list(result.answers),
                "load_s": round(result.load_s, 3),
                "rebuild_s": round(result.rebuild_s, 3),
                **({} if result.quality is None else {"quality": result.quality}),
            }
        )
        return 0
    print(f"release {result.digest.hex()[:16]} rebuilt in {result.rebuild_s:.1f} s, as signed")
    for answer in result.answers:
        print(f"  {len(answer['tokens'])} tokens: {answer['text']}")
    if result.quality is not None:
        print(f"  perplexity {result.quality['perplexity']:.3f} on {result.quality['num_tokens']} tokens")
    return 0


def _simulate(_: argparse.Namespace) -> int:
    from onboard.simulation.service import run as serve_simulation

    serve_simulation()
    return 0


def _import(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.import_command import import_files

    num_refused, rows = 0, []
    for result in import_files(load_config(args.config), args.paths):
        num_refused += not result.is_in
        rows.append(result.as_json())
        if not args.json:
            print(result, flush=True)
    if not rows:
        raise ConfigError(
            "none of these files is one of Skyload's", hint="give the directory that `skyload export` wrote"
        )
    if args.json:
        _print_json({"files": rows, "num_refused": num_refused})
    if num_refused:
        print(
            f"hint: {num_refused} of {len(rows)} files refused: bring those again, the others are in", file=sys.stderr
        )
    return REFUSED_EXIT_CODE if num_refused else 0


def _export_messages(args: argparse.Namespace) -> int:
    from onboard.config import load_config
    from onboard.message_export import export_messages

    rows = []
    for written in export_messages(load_config(args.config), args.directory):
        rows.append(written.as_json())
        if not args.json:
            print(f"{'written' if written.is_new else 'already there':<13}  {written.path}", flush=True)
    if args.json:
        _print_json({"files": rows})
    if rows:
        print(f"next: carry {args.directory} to the ground; there: skyload import {args.directory}", file=sys.stderr)
    else:
        print("nothing to say: no message waits, and no daemon runs that could report", file=sys.stderr)
    return 0


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"  {text}", file=sys.stderr)


_COMMANDS = {
    "run": _run,
    "status": _status,
    "releases": _releases,
    "revert": _revert,
    "verify": _verify,
    "scrub": _scrub,
    "provision": _provision,
    "import": _import,
    "export-messages": _export_messages,
    "rehearse": _rehearse,
    "simulate": _simulate,
}


if __name__ == "__main__":
    main()
