"""The program that trained the bundled network."""
