"""The machine: devices, memory, several hosts, interruption, files that are written whole, YAML."""
