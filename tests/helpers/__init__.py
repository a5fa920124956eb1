"""What tests have in common: networks, runs, processes, hosts, clusters."""
