"""How a reward is called, and the process of its own in which it can be killed."""

from rewards.sandbox.sandbox import MAX_LOST, Sandbox

__all__ = ["MAX_LOST", "Sandbox"]
