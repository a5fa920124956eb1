"""How the bundled network was trained."""
