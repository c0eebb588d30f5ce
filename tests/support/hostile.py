"""What must hold for a file that is damaged or hostile, whatever its format."""

import subprocess
import sys

import pytest

from specdiag.checkpoint.reader import open_checkpoint
from specdiag.checkpoint.tensor import read_values

MAX_MEMORY = 400 * 2**10  # KiB; Python and the libraries that read HDF5 and ONNX take about 100 MiB


def refused(path, expected):
    """Assert that a file, or its first tensor, is refused with one line that has the text."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        list(map(read_values, open_checkpoint(path).tensors))
    message = str(caught.value)
    assert expected in message
    assert len(message.splitlines()) == 1
    assert len(message) < 500


def mutate(data, rng):
    """Return `data` with one to four bytes changed, moved, dropped or repeated."""
    mutant = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(mutant))
        match rng.randrange(6):
            case 0:
                mutant[at] ^= 1 << rng.randrange(8)
            case 1:
                mutant[at] = rng.choice([0, 1, 0x28, 0x2E, 0x52, 0x7F, 0x80, 0xFF])
            case 2:
                del mutant[at : at + rng.choice([1, 4, 100])]
            case 3:
                mutant[at:at] = mutant[at : at + rng.choice([1, 8, 60])]
            case 4:
                start = rng.randrange(len(mutant))
                mutant[at : at + 16] = mutant[start : start + 16]
            case 5:
                number = rng.choice([2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 0])
                mutant[at : at + 8] = number.to_bytes(8, "little")
        if not mutant:
            break
    return bytes(mutant)


def mutated(path, data, rng, count):
    """Read mutants of a file; return how many gave all values. Errors are of two types."""
    survivors = 0
    for _ in range(count):
        path.write_bytes(mutate(data, rng))
        try:
            for tensor in open_checkpoint(path).tensors:
                if not tensor.problem:
                    tensor.read()
        except (ValueError, OSError):
            continue
        survivors += 1
    return survivors


def peak_memory(path):
    """Return the KiB that another process takes to read all tensors of a file, or to refuse it."""
    code = (
        "import sys\n"
        "from specdiag.checkpoint.reader import open_checkpoint\n"
        "try:\n"
        "    for tensor in open_checkpoint(sys.argv[1]).tensors:\n"
        "        if not tensor.problem: tensor.read()\n"
        "except (ValueError, OSError) as error: print(error, file=sys.stderr)\n"
        "status = open('/proc/self/status').read()\n"
        "print(status.partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)
