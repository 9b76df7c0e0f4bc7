"""System layer: devices, memory, multiple hosts, interruption, atomic file writes, YAML."""
