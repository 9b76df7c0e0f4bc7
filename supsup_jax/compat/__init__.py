"""Files of other implementations."""
