"""Worked solutions, as responses that SFT can teach."""
