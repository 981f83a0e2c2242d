"""Single runs, rankings, estimates before runs, and evaluations of finished models."""
