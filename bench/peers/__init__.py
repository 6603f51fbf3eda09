"""What we compare with, where it is no package of its own."""
