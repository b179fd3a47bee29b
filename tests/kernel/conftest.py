"""What is in guest/ runs in the lab's guest, started from here."""

collect_ignore = ["guest", "lab"]
