"""`python -m rewards.audit REWARD`: what does a reward wrongly pay?"""

from rewards.audit.audit import GOLD, Audit, main

__all__ = ["GOLD", "Audit", "main"]
