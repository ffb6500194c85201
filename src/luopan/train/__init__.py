"""The one training loop: optimizer, schedule, checkpoints, device, progress and tracking.

Nothing is imported here, so that `luopan.train.config` can be read without torch.
"""
