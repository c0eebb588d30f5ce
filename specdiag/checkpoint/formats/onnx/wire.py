"""Protocol Buffers -> the fields of a message, of which only the small ones are read.

The values of a tensor are a field like any other. A parser of the whole message would hold all
tensors of a model in memory; here a field is the place where its bytes are.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from specdiag.files import read_bytes

BLOCK = 2**16  # bytes that are read at once
MAX_FIELDS = 2_000_000
MAX_TEXT = 1_000_000
MAX_TEXTS = 200_000_000  # bytes of all texts together
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # bytes by type


class Span(NamedTuple):
    """The bytes of a field: a text, a message, or packed numbers."""

    start: int
    stop: int


class Wire:
    """A file that is one message; its fields are read once, in any order.

    Parameters
    ----------
    stream : binary file
    size : int
        Bytes of the file.
    where : str
        Name of the file, for messages.
    """

    def __init__(self, stream: BinaryIO, size: int, where: str) -> None:
        self._stream, self.where = stream, where
        self._at, self._buffer = 0, b""  # bytes of the file from a position on
        self.whole = Span(0, size)
        self._left, self._texts_left = MAX_FIELDS, MAX_TEXTS

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Yield number and value of each field of a message: a whole number, or a place.

        Raises
        ------
        ValueError
            If the bytes are no message.
        """
        at = span.start
        while at < span.stop:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"{self.where}: more than {MAX_FIELDS:,} fields in the model")
            key, start = self._varint(at, span.stop)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value: int | Span
                value, at = self._varint(start, span.stop)
            else:
                length = _FIXED.get(kind, -1)
                if kind == _BYTES:
                    length, start = self._varint(start, span.stop)
                at = start + length
                value = Span(start, at)
            if number == 0 or not start <= at <= span.stop:
                raise self.damaged()
            yield number, value

    def text(self, value: int | Span) -> str:
        """Return a field that is text."""
        data = self.data(value, MAX_TEXT)
        self._texts_left -= len(data)
        if self._texts_left < 0:
            raise ValueError(f"{self.where}: more than {MAX_TEXTS:,} bytes of texts in the model")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.where}: a text of the model is not UTF-8") from None

    def data(self, value: int | Span, limit: int) -> bytes:
        """Return the bytes of a field; raise ValueError if there are more than the limit."""
        span = self.span(value)
        start = span.start - self._at
        if start >= 0 and span.stop <= self._at + len(self._buffer):
            return self._buffer[start : span.stop - self._at]
        if span.stop - span.start > limit:
            raise ValueError(
                f"{self.where}: {span.stop - span.start:,} bytes in one field; at most {limit:,} "
                "are read"
            )
        return read_bytes(self._stream, span.start, span.stop - span.start, self.where)

    def numbers(self, value: int | Span) -> list[int]:
        """Return the signed whole numbers of a repeated field, packed or not."""
        if isinstance(value, int):
            return [_signed(value)]
        data, numbers = self.data(value, MAX_TEXT), []
        at = 0
        while at < len(data):
            number, shift = 0, 0
            while True:
                if at == len(data) or shift > 63:
                    raise self.damaged()
                number |= (data[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if data[at - 1] < 0x80:
                    break
            numbers.append(_signed(number))
        return numbers

    def number(self, value: int | Span) -> int:
        """Return a field that is one signed whole number."""
        if not isinstance(value, int):
            raise self.damaged()
        return _signed(value)

    def span(self, value: int | Span) -> Span:
        """Return the place of a field that is text, a message or packed numbers."""
        if isinstance(value, int):
            raise self.damaged()
        return value

    def damaged(self) -> ValueError:
        """Return the error of bytes that are no message."""
        return ValueError(
            f"{self.where}: not a valid ONNX model: its Protocol Buffers are damaged, or cut "
            "short; copy or download it again"
        )

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        """Return the whole number at a position, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if at >= stop:
                raise self.damaged()
            if not self._at <= at < self._at + len(self._buffer):
                self._stream.seek(at)
                self._at, self._buffer = at, self._stream.read(BLOCK)
                if not self._buffer:
                    raise self.damaged()
            byte = self._buffer[at - self._at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise self.damaged()


def _signed(value: int) -> int:
    """Return the 64-bit number that is stored without its sign."""
    value &= 2**64 - 1
    return value - 2**64 if value >> 63 else value
