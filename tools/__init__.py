"""What maintains the project; not part of the package."""
