"""Experiments: their settings, the lab that runs arms over seeds, benches, and results."""
