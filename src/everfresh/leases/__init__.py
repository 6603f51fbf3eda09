"""Who may fill a key."""
