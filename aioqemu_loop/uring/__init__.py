"""The ring itself: the kernel's io_uring ABI and its set-up, submission and completion. Knows no fd and no handler."""
