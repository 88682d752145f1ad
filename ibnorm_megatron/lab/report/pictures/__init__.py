"""One module a picture. Each has ``draw``, and ``lacks``: why there is nothing to draw, or an empty text."""
