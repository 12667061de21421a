"""What goes into staging and what comes out of it: frozen records."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from groundsegment.depot.records import Satellite, Update
from groundsegment.packer.packing import Packed, Sources
from groundsegment.packer.plan import PackPlan
from groundsegment.packer.transforms import LEVEL_DEFAULT
from groundsegment.packer.workers import Workers
from groundsegment.staging.base import AUTO, ChosenBase, HashedRelease
from groundsegment.twin import Judging, TwinAnswer
from protocol.manifest import AdapterUse, Manifest

if TYPE_CHECKING:
    from groundsegment.staging.adapters import AdapterChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What the operator wants.

    Attributes:
        satellite: whom it is for.
        base: see `choice.choose`.
        name: of the release; None takes the directory's.
        prompts: of the canary; none for no canary.
        max_tokens: of one canary answer.
        twin: command line in place of `skyloadd`.
        bundle_size_bytes: None for the default.
        level: how hard the coders try, as a zstd level.
        priority: higher flies first, strictly.
        weight: its share of the link among updates of one priority, > 0.
        beside: updates that are under way go on beside it, instead of being superseded.
        hold: its trial waits for an `activate` command.
        symbol_size: bytes of a symbol (T); None for the satellite's.
        floor: no release with a smaller sequence may serve once this one is confirmed.
        workers: who encodes.
        forbid_full_fallback: no base to be had is an error, not a full update.
        payload_bytes_max: of all bundles; more is an error, once they are packed.
        adapter: what becomes of a LoRA adapter on board; None: it is served beside its base.
        judging: text and limits that the twin judges the rebuilt release by; None signs no figures.
        is_repair: bring back what the satellite lost of the release; see `repairing`.
    """

    satellite: str
    base: str = AUTO
    name: str | None = None
    prompts: tuple[str, ...] = ()
    max_tokens: int = 16
    twin: str | None = None
    bundle_size_bytes: int | None = None
    level: int = LEVEL_DEFAULT
    priority: int = 0
    weight: float = 1.0
    beside: bool = False
    hold: bool = False
    symbol_size: int | None = None
    floor: int = 0
    workers: Workers = field(default_factory=Workers)
    forbid_full_fallback: bool = False
    payload_bytes_max: int | None = None
    adapter: AdapterUse | None = None
    judging: Judging | None = None
    is_repair: bool = False

    @property
    def needs_twin(self) -> bool:
        """Whether anything is asked of what will be rebuilt."""
        return bool(self.prompts) or self.judging is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is to be staged, read and checked; with `adapter`, what flies is an adapter of the base."""

    satellite: Satellite
    name: str
    release: HashedRelease
    base: ChosenBase
    plan: PackPlan
    sources: Sources
    symbol_size: int
    accepted: int
    warnings: tuple[str, ...] = ()
    adapter: "AdapterChoice | None" = None

    @property
    def memory_bytes(self) -> int:
        """What an engine loads: the release, and its base if it is served beside one."""
        is_beside = self.adapter is not None and self.adapter.entry.use is AdapterUse.BESIDE
        base = self.base.release.size_bytes if is_beside and self.base.release else 0
        return self.release.size_bytes + base


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A registered update."""

    update: Update
    manifest: Manifest
    packed: Packed
    answers: tuple[TwinAnswer, ...] = field(default=())
