"""From a URL to a connection, and what a database says of itself."""
