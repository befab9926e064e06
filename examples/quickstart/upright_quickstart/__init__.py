"""Made-up clinic notes whose defects are known, and a step that compares planted with found."""
