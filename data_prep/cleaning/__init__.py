"""Cleaning documents before they are tokenized: what changes a text, what drops it, and which documents repeat others."""
