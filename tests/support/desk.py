"""The desk entries of the lock and the settings of their simulated recordings."""

from recipes._tasks import AREA2
from specdiag.lock.lockfile import load
from support.paths import ROOT

DESK = [e for e in load(ROOT / "checkpoints.lock").entries if e.scale == "desk"]
SETTINGS = {s: e.params["simulation"] for e in DESK for s in e.params["data"]["sessions"]}
CENTER_OUT = [s for s in SETTINGS if s.endswith("center_out_reaching")]
SESSION, RAT, RSG = "c_20131003_center_out_reaching", "of_24365_2", "haydn_dmfc_rsg_train"
(BUMP,) = AREA2.sessions
SHORT = {"task": "center_out", "seconds": 60.0, "units": [5, 8], "seed": 99}
