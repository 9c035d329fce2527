"""The runner: model, data loader, optimizer, pretraining, checkpoints and generation in plain PyTorch.

This module imports neither torch nor any other of its own, so that `training.config` works where torch is missing.
"""

import os

# OpenMP threads that wait should sleep, not spin: on a machine that does other work too, spinning made training on two
# threads four times slower (docs/training.md). Read when torch is loaded, so it must be set before; a user's value stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
