"""Network architectures written here."""
