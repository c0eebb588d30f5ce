"""The machine that interprets a pickle: stack, marks, memo and limits.

Nothing here compares, hashes or prints a value that may be nested, so deeply nested values need
memory, but cannot overflow the C stack.
"""

from typing import Any, BinaryIO, NoReturn

from specdiag.checkpoint.tree import Global, Reference

MAX_PICKLE = 512 * 2**20
MAX_CONTAINERS = 500_000  # a tensor of a state dict takes 7
MAX_MARKS = 10_000  # Python's pickler writes at most about 1,000 levels


class Machine:
    """The state of one interpretation: stack, marks and memo."""

    def __init__(
        self,
        stream: BinaryIO,
        end: int,
        where: str,
        references: list[Reference],
        max_containers: int = MAX_CONTAINERS,
    ) -> None:
        self.stream = stream
        self.end = min(end, stream.tell() + MAX_PICKLE)
        self.where = where
        self.references = references
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Global] = {}
        self.max_containers = self.room = max_containers

    def fail(self, fault: str) -> NoReturn:
        """Raise ValueError with the position in the file."""
        raise ValueError(f"{self.where}, byte {self.stream.tell():,}: {fault}; the file is damaged")

    def read(self, n_bytes: int) -> bytes:
        """Return the next bytes."""
        # A huge length is refused before Python reserves memory for it.
        if n_bytes > 2**16 and n_bytes > self.end - self.stream.tell():
            self.fail(f"{n_bytes:,} bytes are announced, more than the file has")
        data = self.stream.read(n_bytes)
        if len(data) != n_bytes:
            self.fail("the pickle is cut short")
        return data

    def number(self, n_bytes: int) -> int:
        """Return the next unsigned number."""
        return int.from_bytes(self.read(n_bytes), "little")

    def byte(self) -> int:
        """Return the next byte as a number."""
        data = self.stream.read(1)
        return data[0] if data else self.fail("the pickle is cut short")

    def line(self) -> bytes:
        """Return the rest of the line."""
        data = self.stream.readline(self.end - self.stream.tell())
        if not data.endswith(b"\n"):
            self.fail("a line does not end")
        return data[:-1]

    def text(self, data: bytes) -> str:
        """Decode UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.fail("text is not UTF-8")

    def pop(self) -> Any:
        """Take the topmost value."""
        if not self.stack:
            self.fail("a value is taken from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the topmost value."""
        if not self.stack:
            self.fail("a value is taken from an empty stack")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        """Take all values of the innermost group."""
        if not self.marks:
            self.fail("a mark is missing")
        items, self.stack = self.stack, self.marks.pop()
        return items

    def push(self, value: object) -> None:
        """Push a number, a text, bytes, or a value that exists already."""
        self.stack.append(value)

    def hold(self, value: object) -> None:
        """Push a new container; their limited number bounds the memory of an interpreted pickle."""
        self._count()
        self.stack.append(value)

    def refer(self, persistent_id: object) -> None:
        """Push a new reference."""
        self.references.append(Reference(persistent_id))
        self.hold(self.references[-1])

    def _count(self) -> None:
        self.room -= 1
        if self.room < 0:
            self.fail(f"more than {self.max_containers:,} lists, dicts, tuples and objects")

    def mark(self) -> None:
        """Start a group of values."""
        if len(self.marks) >= MAX_MARKS:
            self.fail(f"nested deeper than {MAX_MARKS:,} levels")
        self.marks.append(self.stack)
        self.stack = []

    def name(self, path: str) -> Global:
        """Return the `Global` of this path, always the same object."""
        if path not in self.globals:
            self._count()
            self.globals[path] = Global(path)
        return self.globals[path]
