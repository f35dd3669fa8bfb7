"""What a value is before its elements are known: with this you can promote dtypes, check shapes and ask `finfo`."""
