"""Everything that a user can get wrong, run for real: the rows of docs/errors.md."""
