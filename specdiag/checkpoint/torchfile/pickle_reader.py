"""An inert reader of pickles: it interprets the opcodes, imports nothing and calls nothing."""

import codecs
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from specdiag.checkpoint.torchfile.machine import MAX_CONTAINERS, Machine
from specdiag.checkpoint.tree import Global, Key, Object, Reference
from specdiag.wording import is_text, shown

MAX_OPERATIONS = 2_000_000  # a tensor of a state dict takes 32
MAX_INTEGER_BYTES = 1024
MAX_KEY = 2**60  # smaller integers are their own hashes, so nobody can make them collide


def interpret(
    stream: BinaryIO,
    end: int,
    where: str,
    references: list[Reference] | None = None,
    *,
    times: int = 1,
) -> Any:
    """Return the tree of nodes that the pickle at the stream's position describes.

    The stream is then right behind the pickle.

    Parameters
    ----------
    stream : binary file
    end : int
        Position in the stream that the pickle must not cross.
    where : str
        Begins every error message.
    references : list, optional
        Every reference to data outside of the pickle is appended to it.
    times : int
        How many times the usual number of operations and containers is allowed.

    Raises
    ------
    ValueError
        If the pickle is invalid, or exceeds a limit on operations, size or depth.
    """
    found = [] if references is None else references
    machine = Machine(stream, end, where, found, times * MAX_CONTAINERS)
    read = stream.read
    for _ in range(times * MAX_OPERATIONS):
        opcode = read(1)
        if opcode == b".":
            return machine.pop()
        operation = _OPERATIONS.get(opcode)
        if operation is None:
            machine.fail(f"unknown opcode {opcode!r}" if opcode else "the pickle is cut short")
        operation(machine)
    return machine.fail(f"more than {times * MAX_OPERATIONS:,} operations")


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_to_mark()


def _protocol(machine: Machine) -> None:
    version = machine.number(1)
    if version > 5:
        machine.fail(f"pickle protocol {version} is unknown (0 to 5 are)")


def _integer_line(machine: Machine) -> None:
    line = machine.line()
    if line in (b"00", b"01"):
        machine.push(line == b"01")
    else:
        machine.push(_integer(machine, line.removesuffix(b"L")))


def _integer(machine: Machine, digits: bytes) -> int:
    if not re.fullmatch(rb"[+-]?[0-9]{1,2400}", digits):
        machine.fail(f"{digits[:40]!r} is not a whole number within the limits")
    return int(digits)


def _long(machine: Machine, n_length: int) -> None:
    length = machine.number(n_length)
    if length > MAX_INTEGER_BYTES:
        machine.fail(f"an integer of {length:,} bytes; at most {MAX_INTEGER_BYTES:,} are read")
    machine.push(int.from_bytes(machine.read(length), "little", signed=True))


def _float_line(machine: Machine) -> None:
    line = machine.line()
    try:
        machine.push(float(line))
    except ValueError:
        machine.fail(f"{line[:40]!r} is not a number")


def _string_line(machine: Machine) -> None:
    """Push a byte string, written as its `repr` in Python 2."""
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        machine.fail("a quoted string has no quotes")
    if b"\\" in re.sub(rb"\\(x[0-9a-fA-F]{2}|[ntr\\'\"])", b"", line[1:-1]):
        machine.fail("a quoted string holds an unknown escape")
    machine.push(_bytes_or_text(codecs.escape_decode(line[1:-1])[0]))


def _bytes_or_text(data: bytes) -> bytes | str:
    """Return text if the bytes are UTF-8: Python 2 wrote text and bytes with the same opcodes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _unicode_line(machine: Machine) -> None:
    try:
        text = machine.line().decode("raw-unicode-escape")
    except UnicodeDecodeError:
        machine.fail("text holds a broken escape")
    if not is_text(text):
        machine.fail("text is not valid Unicode")
    machine.push(text)


def _tuple(machine: Machine, length: int) -> None:
    if len(machine.stack) < length:
        machine.fail("a value is taken from an empty stack")
    items = tuple(machine.stack[-length:])
    del machine.stack[-length:]
    machine.hold(items)


def _global(machine: Machine, module: object, name: object) -> Global:
    if type(module) is not str or type(name) is not str:
        machine.fail("the name of a global is not text")
    return machine.name(f"{module}.{name}")


def _global_lines(machine: Machine) -> Global:
    module, name = machine.line(), machine.line()
    return _global(machine, machine.text(module), machine.text(name))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(_global(machine, module, name))


def _call(machine: Machine) -> None:
    args, cls = machine.pop(), machine.pop()
    if type(args) is not tuple:
        machine.fail("the arguments of a call are not a tuple")
    machine.hold(Object(cls, args))


def _call_with_keywords(machine: Machine) -> None:
    keywords, args, cls = machine.pop(), machine.pop(), machine.pop()
    # Not args + (keywords,): copying long arguments repeatedly would fill the memory.
    machine.hold(Object(cls, (args, keywords)))


def _call_marked(machine: Machine) -> None:
    items = machine.pop_to_mark()
    if not items:
        machine.fail("an object has no class")
    machine.hold(Object(items[0], tuple(items[1:])))


def _build(machine: Machine) -> None:
    state, target = machine.pop(), machine.top()
    if type(target) is not Object:
        machine.fail("a state is set on a value that is not an object")
    if target.state is not None:
        machine.fail("the state of an object is set twice")
    target.state = state


def _extend(machine: Machine, items: Sequence[object]) -> None:
    target = machine.top()
    if type(target) is Object:
        if target.items is None:
            target.items = []
        target.items.extend(items)
    elif type(target) is list:
        target.extend(items)
    else:
        machine.fail("items are appended to a value that is not a list")


def _update(machine: Machine, items: Sequence[object]) -> None:
    target = machine.top()
    if type(target) is Object:
        if target.pairs is None:
            target.pairs = {}
        target = target.pairs
    if type(target) is not dict:
        machine.fail("items are set in a value that is not a dict")
    if len(items) % 2:
        machine.fail("a key has no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        safe = _safe_key(machine, key)
        if safe in target:
            machine.fail(f"the key {shown(str(safe))} occurs twice")
        target[safe] = value


def _safe_key(machine: Machine, key: object) -> object:
    kind = type(key)
    if kind is str or kind is bool or key is None or kind is Object or kind is bytes:
        return key
    if kind is int and abs(key) < MAX_KEY:  # type: ignore[arg-type]
        return key
    if kind is list or kind is dict:
        machine.fail(f"a {kind.__name__} is used as a key")
    return Key(key)


def _new_dict(machine: Machine) -> None:
    items = machine.pop_to_mark()
    machine.hold({})
    _update(machine, items)


def _get(machine: Machine, index: int) -> None:
    if index not in machine.memo:
        machine.fail(f"memo entry {index} is used before it is set")
    machine.push(machine.memo[index])


def _put(machine: Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _index_line(machine: Machine) -> int:
    return _integer(machine, machine.line()[:20])


_OPERATIONS: dict[bytes, Callable[[Machine], object]] = {
    # values
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"I": _integer_line,
    b"L": _integer_line,
    b"J": lambda m: m.push(int.from_bytes(m.read(4), "little", signed=True)),
    b"K": lambda m: m.push(m.byte()),
    b"M": lambda m: m.push(m.number(2)),
    b"\x8a": lambda m: _long(m, 1),
    b"\x8b": lambda m: _long(m, 4),
    b"F": _float_line,
    b"G": lambda m: m.push(struct.unpack(">d", m.read(8))[0]),
    b"S": _string_line,
    b"T": lambda m: m.push(_bytes_or_text(m.read(m.number(4)))),
    b"U": lambda m: m.push(_bytes_or_text(m.read(m.number(1)))),
    b"V": _unicode_line,
    b"X": lambda m: m.push(m.text(m.read(m.number(4)))),
    b"\x8c": lambda m: m.push(m.text(m.read(m.number(1)))),
    b"\x8d": lambda m: m.push(m.text(m.read(m.number(8)))),
    b"B": lambda m: m.push(m.read(m.number(4))),
    b"C": lambda m: m.push(m.read(m.number(1))),
    b"\x8e": lambda m: m.push(m.read(m.number(8))),
    b"\x96": lambda m: m.hold(Object(m.name("builtins.bytearray"), (m.read(m.number(8)),))),
    # containers
    b"]": lambda m: m.hold([]),
    b"}": lambda m: m.hold({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.hold(Object(m.name("builtins.set"), ())),
    b"l": lambda m: m.hold(m.pop_to_mark()),
    b"t": lambda m: m.hold(tuple(m.pop_to_mark())),
    b"d": _new_dict,
    b"\x91": lambda m: m.hold(Object(m.name("builtins.frozenset"), (m.pop_to_mark(),))),
    b"\x85": lambda m: _tuple(m, 1),
    b"\x86": lambda m: _tuple(m, 2),
    b"\x87": lambda m: _tuple(m, 3),
    b"a": lambda m: _extend(m, (m.pop(),)),
    b"e": lambda m: _extend(m, m.pop_to_mark()),
    b"\x90": lambda m: _extend(m, m.pop_to_mark()),
    b"s": lambda m: _update(m, (m.pop(), m.pop())[::-1]),
    b"u": lambda m: _update(m, m.pop_to_mark()),
    # objects
    b"c": lambda m: m.push(_global_lines(m)),
    b"\x93": _stack_global,
    b"R": _call,
    b"\x81": _call,
    b"\x92": _call_with_keywords,
    b"o": _call_marked,
    b"i": lambda m: m.hold(Object(_global_lines(m), tuple(m.pop_to_mark()))),
    b"b": _build,
    b"P": lambda m: m.refer(m.text(m.line())),
    b"Q": lambda m: m.refer(m.pop()),
    b"\x82": lambda m: m.push(_global(m, "copyreg", f"extension_{m.number(1)}")),
    b"\x83": lambda m: m.push(_global(m, "copyreg", f"extension_{m.number(2)}")),
    b"\x84": lambda m: m.push(_global(m, "copyreg", f"extension_{m.number(4)}")),
    b"\x97": lambda m: m.fail("buffers outside of the pickle are not supported"),
    b"\x98": lambda m: m.fail("buffers outside of the pickle are not supported"),
    # stack
    b"\x80": _protocol,
    b"\x95": lambda m: m.read(8),  # the length of a frame, not needed
    b"(": Machine.mark,
    b"0": _pop,
    b"1": lambda m: m.pop_to_mark(),
    b"2": lambda m: m.push(m.top()),
    b"g": lambda m: _get(m, _index_line(m)),
    b"h": lambda m: _get(m, m.byte()),
    b"j": lambda m: _get(m, m.number(4)),
    b"p": lambda m: _put(m, _index_line(m)),
    b"q": lambda m: _put(m, m.byte()),
    b"r": lambda m: _put(m, m.number(4)),
    b"\x94": lambda m: _put(m, len(m.memo)),
}
