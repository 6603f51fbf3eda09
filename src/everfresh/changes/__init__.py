"""How changes are heard."""
