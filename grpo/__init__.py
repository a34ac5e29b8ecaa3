"""The reference GRPO trainer: group sampling, advantages, clipped policy loss, four training stages."""

__version__ = "0.1.0"
