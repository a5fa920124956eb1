"""Settings of the commands: what they are, and how they are read from flags and YAML."""
