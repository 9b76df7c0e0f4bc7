"""Runs on disk: checkpoints, what was measured, settings, tables; and a restored run as an object to use."""
