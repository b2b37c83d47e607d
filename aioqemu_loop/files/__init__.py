"""Files without blocking the loop."""
