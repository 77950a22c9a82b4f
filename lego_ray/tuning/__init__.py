"""The best merge for a user's own data: merges that are made, scored and compared, one after another."""
