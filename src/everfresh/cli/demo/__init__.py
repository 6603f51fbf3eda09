"""The demo: twelve dashboard questions on real flights data, and what three commits do to them."""
