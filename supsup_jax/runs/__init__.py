"""Runs on disk: training, checkpoints, records, settings and tables; and restored runs for prediction."""
