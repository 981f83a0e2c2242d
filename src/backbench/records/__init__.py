"""Run folders on disk: the schema, the only reader and writer, and resumable runs."""
