"""Arrays of references inside Python lists: C speed, and the garbage collector sees what they hold.

References in plain C memory would hide cycles (loop -> queue -> handle -> loop) and leak every unclosed loop. Such a
list is full of None where nothing is stored and is never resized while its items are used.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef extern from "Python.h":
    PyObject **list_items "PySequence_Fast_ITEMS" (list store)
    # len() without counting the reference: pass <PyObject *>store.
    Py_ssize_t list_size "PyList_GET_SIZE" (PyObject *store)
    Py_ssize_t Py_REFCNT(object item)
    void PyObject_GC_Track(object item)
    bint PyObject_GC_IsTracked(object item)


cdef inline list new_store(Py_ssize_t size):
    return [None] * size


cdef inline void store_set(PyObject **slot, object item) noexcept:
    """Put `item` where None is."""
    Py_INCREF(item)
    slot[0] = <PyObject *>item
    Py_DECREF(None)


cdef inline PyObject *store_take(PyObject **slot) noexcept:
    """Take the item out; its reference is the caller's."""
    cdef PyObject *item = slot[0]
    Py_INCREF(None)
    slot[0] = <PyObject *>None
    return item
