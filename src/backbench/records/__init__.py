"""What a run leaves on disk: the schema, the only reader and writer of run folders, resumable runs."""
