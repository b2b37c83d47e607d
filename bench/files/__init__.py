"""Files, by this package and by all others: `python -m bench.files`, from the top of the checkout."""
