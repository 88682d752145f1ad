"""A plugin with a mistake in it."""

1 / 0  # noqa: B018
