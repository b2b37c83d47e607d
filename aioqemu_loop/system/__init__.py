"""The lowest floor: system calls, errno, the clock, and which process we are."""
