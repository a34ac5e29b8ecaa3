"""The lab: arms x seeds through the trainer's own commands, what pairs of them show, tables and figures."""
