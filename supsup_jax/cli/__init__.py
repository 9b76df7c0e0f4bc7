"""The command line: options, progress, sweeps, clusters, and the commands of `python -m supsup_jax`."""
