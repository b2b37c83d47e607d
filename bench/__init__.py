"""The benchmark: `python -m bench`, from the top of the checkout. `python -m bench --help` says the rest."""


class NotMeasured(Exception):
    """Something could not be measured here. The text is the reason, in words; it becomes a row of the report."""
