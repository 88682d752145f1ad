"""Probes that go wrong."""
