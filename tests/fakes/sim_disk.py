"""A disk whose power can be cut: bytes and names become durable separately, as `onboard.store.layout` assumes.

A test rehearses once to count the operations, then cuts before each of them and after the last. `images` gives the
disks that could be found afterwards: of the names and bytes that were not synced, any part may have made it, each
write whole, torn or not at all.
"""

import itertools
from pathlib import Path


class PowerCut(Exception):  # noqa: N818 - an event, not an error
    """The operation did not happen, and nothing after it."""


class _File:
    def __init__(self, data=b""):
        self.live = bytearray(data)
        self.durable = bytes(data)
        self.pending = []  # ("write", offset, data) or ("size", size)


class _Directory:
    def __init__(self):
        self.live = {}
        self.durable = {}
        self.pending = []  # {name: node or None}, each atomic


class SimDisk:
    """See the module. Paths are taken as they are; their root is whatever their first part is.

    Args:
        cut_at: number of the mutating operation before which the power goes, from 0; None never.
        write_max: bytes of one write at most, so that short writes happen.
    """

    def __init__(self, cut_at=None, write_max=None):
        self.cut_at, self.write_max = cut_at, write_max
        self.num_operations = 0
        self._root = _Directory()
        self._handles = {}
        self._next_handle = 100

    # Disk

    def open(self, path, *, create=False):
        node = self._find(path)
        if node is None:
            if not create:
                raise FileNotFoundError(path)
            self._operate()
            node = _File()
            self._name(path, node)
        self._next_handle += 1
        self._handles[self._next_handle] = node
        return self._next_handle

    def open_log(self, path):
        return self.open(path, create=True)

    def close(self, handle):
        del self._handles[handle]

    def read(self, handle, size, offset):
        return bytes(self._handles[handle].live[offset : offset + size])

    def size(self, handle):
        return len(self._handles[handle].live)

    def write(self, handle, data):
        return self.write_at(handle, data, len(self._handles[handle].live))

    def write_at(self, handle, data, offset):
        self._operate()
        node, data = self._handles[handle], bytes(data)[: self.write_max]
        node.pending.append(("write", offset, data))
        _apply(node.live, ("write", offset, data))
        return len(data)

    def allocate(self, handle, offset, size):
        self._resize(handle, max(len(self._handles[handle].live), offset + size))

    def truncate(self, handle, size):
        self._resize(handle, size)

    def sync(self, handle):
        self._operate()
        node = self._handles[handle]
        node.durable, node.pending = bytes(node.live), []

    def forget(self, handle):
        pass

    def rename(self, source, target):
        node = self._find(source)
        if node is None:
            raise FileNotFoundError(source)
        assert source.parent == target.parent, "not modelled"
        self._operate()
        directory = self._find(source.parent)
        _rename(directory, {source.name: None, target.name: node})

    def link(self, source, target):
        node = self._find(source)
        if node is None:
            raise FileNotFoundError(source)
        assert self._find(target) is None, "there is one of that name"
        self._operate()
        self._name(target, node)

    def unlink(self, path):
        if self._find(path) is not None:
            self._operate()
            self._name(path, None)

    def make_directory(self, path):
        if self._find(path) is None:
            self._operate()
            self._name(path, _Directory())

    def remove_directory(self, path):
        node = self._find(path)
        if node is not None:
            assert not node.live, "directory is not empty"
            self._operate()
            self._name(path, None)

    def list_directory(self, path):
        node = self._find(path)
        return sorted(node.live) if node else []

    def sync_directory(self, path):
        node = self._find(path)
        if node is None:
            raise FileNotFoundError(path)
        self._operate()
        node.durable, node.pending = dict(node.live), []

    def free_bytes(self, path):
        return 1 << 40

    def free_files(self, path):
        return 1 << 32

    # For tests

    def has(self, path):
        """Whether there is something of that name."""
        return self._find(path) is not None

    def content(self, path):
        """What is in a file, None if there is none."""
        node = self._find(path)
        return None if node is None else bytes(node.live)

    def put(self, path, data):
        """Make a durable file, and durable directories above it."""
        directory = self._root
        for part in path.parts[:-1]:
            directory = directory.live.setdefault(part, _Directory())
        directory.live[path.name] = _File(data)
        _settle(self._root)

    def images(self, rng, *, at_most=48):
        """Yield disks as they may be found after a cut now: all of them, or a sample with the extremes in it."""
        choices = list(_choices(self._root))
        num_images = 1
        for levels in choices:
            num_images *= len(levels)
            if num_images > at_most:
                break
        if num_images <= at_most:
            picks = itertools.product(*choices)
        else:
            extremes = [[levels[0] for levels in choices], [levels[-1] for levels in choices]]
            picks = extremes + [[rng.choice(levels) for levels in choices] for _ in range(at_most - 2)]
        for pick in picks:
            found = SimDisk()
            found._root = _survivor(self._root, iter(pick))
            yield found

    # Private

    def _operate(self):
        if self.num_operations == self.cut_at:
            raise PowerCut
        self.num_operations += 1

    def _find(self, path):
        node = self._root
        for part in Path(path).parts:
            node = node.live.get(part) if isinstance(node, _Directory) else None
            if node is None:
                return None
        return node

    def _name(self, path, node):
        directory = self._find(path.parent)
        if directory is None:
            raise FileNotFoundError(path.parent)
        _rename(directory, {path.name: node})

    def _resize(self, handle, size):
        self._operate()
        node = self._handles[handle]
        node.pending.append(("size", size))
        _apply(node.live, ("size", size))


class NoFileSync(SimDisk):
    """What happens to code that forgets to sync its files."""

    def sync(self, handle):
        self._operate()


class NoDirectorySync(SimDisk):
    """What happens to code that forgets to sync its directories."""

    def sync_directory(self, path):
        self._operate()


class FailingSync(SimDisk):
    """A sync fails once, as kernels do it: what was to be written stays in memory, and no later sync speaks of it.

    Attributes:
        error: of the next sync of a file; None if it works.
    """

    error = None

    def sync(self, handle):
        self._operate()
        node = self._handles[handle]
        data, pending, node.pending = bytearray(node.durable), node.pending, []
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        for operation in pending:
            _apply(data, operation)
        node.durable = bytes(data)

    def forget(self, handle):
        node = self._handles[handle]
        if not node.pending:
            node.live[:] = node.durable


def _rename(directory, change):
    directory.pending.append(change)
    _apply_names(directory.live, change)


def _apply_names(names, change):
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _apply(data, operation):
    if operation[0] == "size":
        size = operation[1]
        del data[size:]
        data.extend(bytes(size - len(data)))
        return
    _, offset, written = operation
    data.extend(bytes(max(0, offset - len(data))))
    data[offset : offset + len(written)] = written


def _nodes(root):
    """Every file and directory that some cut could leave, each once, in a fixed order."""
    seen, queue = [], [root]
    while queue:
        node = queue.pop()
        if any(node is other for other in seen):
            continue
        seen.append(node)
        if isinstance(node, _Directory):
            queue += node.durable.values()
            queue += [named for change in node.pending for named in change.values() if named is not None]
    return seen


def _choices(root):
    """For each pending operation: how much of it may survive."""
    for node in _nodes(root):
        for operation in node.pending:
            is_write = isinstance(node, _File) and operation[0] == "write"
            yield (0.0, 0.5, 1.0) if is_write else (0.0, 1.0)


def _survivor(root, pick):
    nodes = _nodes(root)
    made = {id(node): (_Directory() if isinstance(node, _Directory) else None) for node in nodes}
    kept = {id(node): [(operation, next(pick)) for operation in node.pending] for node in nodes}
    for node in nodes:
        if isinstance(node, _File):
            made[id(node)] = _File(_surviving_bytes(node, kept[id(node)]))
    for node in nodes:
        if isinstance(node, _Directory):
            names = dict(node.durable)
            for change, level in kept[id(node)]:
                if level:
                    _apply_names(names, change)
            made[id(node)].live = {name: made[id(named)] for name, named in names.items()}
    survivor = made[id(root)]
    _settle(survivor)
    return survivor


def _surviving_bytes(node, kept):
    data = bytearray(node.durable)
    for operation, level in kept:
        if operation[0] == "size":
            if level:
                _apply(data, operation)
        elif level:
            _, offset, written = operation
            _apply(data, ("write", offset, written[: int(len(written) * level)]))
    return data


def _settle(directory):
    """All that is there is durable."""
    directory.durable, directory.pending = dict(directory.live), []
    for node in directory.live.values():
        if isinstance(node, _Directory):
            _settle(node)
        else:
            node.durable, node.pending = bytes(node.live), []
