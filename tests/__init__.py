"""The tests: a package, so that what they share is imported from here and not from another one of this name."""
