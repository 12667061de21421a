"""How the serving process of a satellite is started: what the configuration says of endpoint, engine and its locks."""

from pathlib import Path

from onboard.config import Config
from onboard.inference.confinement.policy import Confinement, Mode
from onboard.serving_process import ServingOptions
from onboard.store.layout import StateLayout
from onboard.store.record import copy_paths


def serving_options(config: Config, layout: StateLayout, *, run_directory: Path) -> ServingOptions:
    """Return them; sockets and logs lie in `run_directory`."""
    host, port = config.endpoint_listen
    return ServingOptions(
        listen=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        run_directory=run_directory,
        engine_command=config.engine.command,
        num_threads=config.engine.threads,
        confinement=_engine_confinement(config, layout),
        weights_period_s=config.scrub.period_s,
    )


def _engine_confinement(config: Config, layout: StateLayout) -> Confinement:
    """An engine sees none of our keys, and writes neither releases nor what we remember."""
    engine, trust = config.engine, config.trust
    keys = (trust.release_key_file, trust.identity_key_file, config.link.link_key_file)
    guarded = (layout.state_dir, layout.releases, *copy_paths(layout.record))
    return Confinement(
        readable=engine.readable,
        writable=(),
        devices=("/dev/null", *engine.devices),
        secret=tuple(str(path) for path in keys if path is not None),
        guarded=tuple(str(path) for path in guarded),
        memory_bytes_max=engine.memory_bytes_max,
        user=engine.user,
        allows_network=engine.network,
        mode=Mode(engine.confinement),
    )
