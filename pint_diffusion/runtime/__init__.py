"""Where and when things run: the scheduler of evaluations, transports, devices, the world."""
