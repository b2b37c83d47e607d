/* Memory of objects that come and go with every callback, kept for the next one of the same type.

   AIO_FREELIST(name, max) defines name_install(type), to be called once, when the module is made. The type has garbage
   collection and static storage, and is not the base of another static type that was made ready later. What is kept is
   untracked and counts as allocated for the collector, so a steady stream of handles does not start collections. */
#ifndef AIO_FREELIST_H
#define AIO_FREELIST_H

#include <Python.h>
#include <string.h>

#if defined(Py_GIL_DISABLED) || defined(PYPY_VERSION)
#define AIO_FREELIST(name, max) \
    static void name##_install(PyTypeObject *type) { (void)type; }
#else
#define AIO_FREELIST(name, max)                                                                         \
    static PyObject *name##_kept[max];                                                                  \
    static int name##_count;                                                                            \
    static PyObject *name##_alloc(PyTypeObject *type, Py_ssize_t items) {                               \
        PyObject *object;                                                                               \
        if (name##_count == 0)                                                                          \
            return PyType_GenericAlloc(type, items);                                                    \
        object = name##_kept[--name##_count];                                                           \
        memset((char *)object + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject));    \
        PyObject_Init(object, type);                                                                    \
        PyObject_GC_Track(object);                                                                      \
        return object;                                                                                  \
    }                                                                                                   \
    static void name##_free(void *object) {                                                             \
        if (name##_count < (max))                                                                       \
            name##_kept[name##_count++] = (PyObject *)object;                                           \
        else                                                                                            \
            PyObject_GC_Del(object);                                                                    \
    }                                                                                                   \
    static void name##_install(PyTypeObject *type) {                                                    \
        if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)                                                       \
            return; /* its objects own a reference to it, which this does not look after */             \
        type->tp_alloc = name##_alloc;                                                                  \
        type->tp_free = name##_free;                                                                    \
        PyType_Modified(type);                                                                          \
    }
#endif

#endif
