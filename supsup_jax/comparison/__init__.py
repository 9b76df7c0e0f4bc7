"""Comparison of the methods of several runs on one benchmark, as a table and as a web page."""
