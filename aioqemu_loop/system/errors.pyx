"""OSError by number."""

import os

# os.strerror() goes through the locale each time, which takes longer than all the rest of a connection's end.
cdef dict texts = {}


cdef object os_error(int err):
    """The instance of OSError's subclass for `err`, with the system's text."""
    text = texts.get(err)
    if text is None:
        text = texts[err] = os.strerror(err)
    return OSError(err, text)
