"""Hostile input to everything that reads what others wrote: configs, manifests, shards, tokenizers, recipes."""
