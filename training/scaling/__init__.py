"""A ladder of small runs, the scaling law through their losses, and what it says of the next size."""
