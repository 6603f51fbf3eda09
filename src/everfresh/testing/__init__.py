"""Servers and conformance suites, for our tests and those of users."""
