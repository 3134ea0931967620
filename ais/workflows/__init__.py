"""What each command does, from data to result."""
