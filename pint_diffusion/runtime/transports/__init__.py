"""How values move between ranks."""
