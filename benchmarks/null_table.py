"""Draw the null of common shapes and write the table that ships with the package.

    python -m benchmarks.null_table

Run it again after every change of `specdiag.htsr.null.VERSION`. A test compares one shape.
"""

from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from specdiag.htsr import null

SQUARE = (64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048, 4096)
WIDTHS = (
    64,
    128,
    192,
    256,
    320,
    384,
    512,
    640,
    768,
    1024,
)  # of transformers, with their usual ratios
RATIOS = (2, 3, 4, 8)
OTHER = (
    *((1536, 128), (1536, 64), (4096, 2048), (8192, 2048), (5632, 2048)),
    *((4096, 1024), (2816, 1024), (11008, 4096), (14336, 4096)),
)


def main():
    shapes = {(n, n) for n in SQUARE} | {(r * n, n) for r in RATIOS for n in WIDTHS} | set(OTHER)
    with threadpool_limits(1):
        table = {f"{N}x{M}": null.simulate(N, M).astype(np.float32) for N, M in sorted(shapes)}
    path = Path(null.__file__).with_name("null_draws.npz")
    np.savez_compressed(path, version=np.array(null.VERSION), **table)
    print(f"{len(table)} shapes, {path.stat().st_size / 1024:.0f} KiB in {path.name}")


if __name__ == "__main__":
    main()
