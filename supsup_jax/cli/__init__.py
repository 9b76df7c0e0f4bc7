"""The command line: options, console, sweeps, clusters, the commands of `python -m supsup_jax`."""
