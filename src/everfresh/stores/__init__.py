"""Where values lie, and how they become bytes."""
