"""The runner: model, data loader, optimizer, pretraining, checkpoints and generation in plain PyTorch.

This module imports nothing, so that `training.config` can be read where torch is not installed.
"""
