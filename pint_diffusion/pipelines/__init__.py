"""A diffusers pipeline as it is, its loop as a function of a step's number and a state."""
