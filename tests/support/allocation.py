"""Numbers of the published code of AlphaPruning and FARMS on made weights.

`published_alphas.json` holds alpha and distance of each weight by five settings. They were made by
running, on the CPU with torch 2.13, `net_esd_estimator` of lib/esd_utils.py in
github.com/haiquanlu/AlphaPruning (commit 5f0e984) with fix_fingers 'xmin_mid' and 'xmin_peak', and
`net_esd_estimator_farms` of LLM_Pruning/lib/esd_utils_farms.py in github.com/HUST-AI-HYZ/FARMS
(commit 8e07c3f) with both, num_row_samples 2000, Q_ratio 1 and sampling_ops_per_dim 10; and once
with xmin_mid, 40, 2 and 4. Of the latter, `.cpu().numpy()` after np.concatenate, which raises an
error for convolutions, was removed. Each weight was that of a torch.nn.Linear or Conv2d.
TempBalance (github.com/YefanZhou/TempBalance, commit 9f0d9c7) has the same lines as AlphaPruning.
"""

import json
from pathlib import Path

import numpy as np

PUBLISHED = Path(__file__).with_name("published_alphas.json")


def published():
    return json.loads(PUBLISHED.read_text())


def weights():
    """Return made weights: random and heavy-tailed ones, of two scales, and kernels."""
    rng = np.random.default_rng(2025)

    def heavy(n, m, alpha, scale=1.0):
        values = scale * (1 - rng.random(min(n, m))) ** (-1 / (alpha - 1))
        U, _, V = np.linalg.svd(rng.standard_normal((n, m)), full_matrices=False)
        return (U * np.sqrt(values) @ V).astype(np.float32)

    def normal(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return {
        "normal": normal(200, 120, scale=0.02),
        "normal_large": normal(120, 200),  # its peak is above 1.05: a lower limit
        "heavy": heavy(160, 160, 2.5),
        "heavy_small": heavy(300, 90, 3.5, scale=1e-3),
        "heavy_large": heavy(90, 300, 2.0, scale=1e4),
        "few": normal(64, 8),
        "kernel": normal(96, 32, 3, 3, scale=0.05),
        "kernel_wide": normal(40, 90, 1, 1),
    }
