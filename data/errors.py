"""The one error of this package: something in the data, or in how it is asked for, that the user can fix."""

from __future__ import annotations


class DataError(ValueError):
    """One line that says what is wrong, where (`file:line` when there is one) and what to do about it."""
