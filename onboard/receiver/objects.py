"""Objects being received, as the core keeps them: per block which symbols came, how many are durable, what is next."""

from enum import Enum, auto

from onboard.store.shape import ObjectShape, SymbolSet

SHORT_SYMBOLS_MAX = 64  # this many more than K and still no solution: chance says never, so the log is poisoned
SYMBOL_COST_MIN = 512  # bytes of the quota; one far from all others takes some 130 bytes of memory
_DEATHS_MAX = 3  # workers that one block may cost


class BlockStage(Enum):
    """What a block is waiting for."""

    OPEN = auto()  # symbols
    SOLVING = auto()  # the solver
    REBUILT = auto()  # its mark on the disk
    SOLVED = auto()


class ObjectStage(Enum):
    """What an object is waiting for."""

    COLLECTING = auto()  # blocks
    CHECKING = auto()  # its digest
    OFFERED = auto()  # the owner's verdict
    KEPT = auto()  # the owner to want it


class OpenBlock:
    """One block of an object.

    Attributes:
        number: source block number.
        needed: K.
        symbols: those that came.
        durable: how many of them a power cut cannot take back.
        asked: how many there were when it was last to be solved.
        is_dirty: symbols came since the last sync began.
    """

    __slots__ = ("asked", "durable", "is_dirty", "needed", "num_deaths", "number", "stage", "symbols")

    def __init__(self, number: int, needed: int, symbols: SymbolSet | None = None) -> None:
        self.number, self.needed = number, needed
        self.symbols = symbols or SymbolSet()
        self.durable = self.symbols.num
        self.stage = BlockStage.OPEN
        self.asked = self.num_deaths = 0
        self.is_dirty = False

    @property
    def is_ready(self) -> bool:
        """Whether it is worth a try of the solver."""
        return self.stage is BlockStage.OPEN and self.symbols.num >= max(self.needed, self.asked + 1)

    @property
    def is_hopeless(self) -> bool:
        """Whether the solver has failed on it so often that its symbols must be wrong."""
        return self.asked >= self.needed + SHORT_SYMBOLS_MAX or self.num_deaths >= _DEATHS_MAX


class OpenObject:
    """One object.

    Attributes:
        shape: what all its frames agree on.
        blocks: those that have symbols or are solved.
        stage: what it is waiting for.
        cost: bytes of the quota.
        num_jobs: of the solver, running or queued: it cannot be dropped now.
        is_poisoned: to be thrown away as soon as nobody works on its files.
        num_foreign: frames of another shape since the last one of its own.
        owner: the trusted update that waits for it, None if there is none; the shelf's.
    """

    __slots__ = (
        "blocks",
        "cost",
        "is_poisoned",
        "kind",
        "layout",
        "num_foreign",
        "num_jobs",
        "num_solved",
        "num_symbols",
        "owner",
        "shape",
        "size",
        "stage",
        "symbol_size",
    )

    def __init__(self, shape: ObjectShape) -> None:
        self.shape = shape
        self.kind, self.num_symbols, self.symbol_size = shape.kind, shape.num_symbols, shape.symbol_size
        self.layout = shape.layout
        self.blocks: dict[int, OpenBlock] = {}
        self.stage = ObjectStage.COLLECTING
        self.cost = object_cost(shape)
        self.is_poisoned = False
        self.owner: bytes | None = None
        self.num_jobs = self.num_solved = self.num_foreign = self.size = 0

    @property
    def is_busy(self) -> bool:
        """Whether somebody works on its files."""
        return self.num_jobs > 0 or self.stage in {ObjectStage.CHECKING, ObjectStage.OFFERED}

    def block(self, number: int) -> OpenBlock | None:
        """The block with that number; None if the object has none."""
        block = self.blocks.get(number)
        if block is None and number < self.layout.num_blocks:
            block = self.blocks[number] = OpenBlock(number, self.layout.symbols_of(number))
        return block

    def note_solved(self, number: int) -> None:
        """That block is durable in the data file."""
        block = self.block(number)
        assert block is not None
        if block.stage is not BlockStage.SOLVED:
            block.stage = BlockStage.SOLVED
            block.symbols = SymbolSet()
            self.num_solved += 1


def object_cost(shape: ObjectShape) -> int:
    """What an object may take on the disk: all its symbols, and the block being solved a second time.

    A symbol counts no less than SYMBOL_COST_MIN: small ones take more in memory than on the disk.
    """
    layout = shape.layout
    return max(layout.padded_size, layout.num_symbols * SYMBOL_COST_MIN) + layout.size_of(0)
