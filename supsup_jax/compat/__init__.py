"""Conversion of files of other implementations."""
