/* Memory of objects that come and go with every callback, kept for the next one of the same type.

   AIO_FREELIST(name, max) defines name_install(type), to be called once, when the module is made. The type has garbage
   collection and static storage, and is not the base of another static type that was made ready later. What is kept
   counts as allocated for the collector, so a steady stream of handles does not start collections.

   Where name_install() returns 1, objects are made untracked: who makes one has the collector track it, or knows why not.

   name_take(type) gives a kept object, or NULL where there is none: its type and virtual table are set, its references are
   NULL and the rest is as its last life left it. That is half the instructions of tp_new. */
#ifndef AIO_FREELIST_H
#define AIO_FREELIST_H

#include <Python.h>
#include <string.h>

#if defined(Py_GIL_DISABLED) || defined(PYPY_VERSION)
#define AIO_FREELIST(name, max) \
    static int name##_install(PyTypeObject *type) { (void)type; return 0; }                             \
    static inline PyObject *name##_take(PyTypeObject *type) { (void)type; return NULL; }
#else
#define AIO_FREELIST(name, max)                                                                         \
    static PyObject *name##_kept[max];                                                                  \
    static int name##_count;                                                                            \
    static inline PyObject *name##_take(PyTypeObject *type) {                                           \
        if (name##_count == 0)                                                                          \
            return NULL;                                                                                \
        return PyObject_Init(name##_kept[--name##_count], type);                                        \
    }                                                                                                   \
    static PyObject *name##_alloc(PyTypeObject *type, Py_ssize_t items) {                               \
        PyObject *object = name##_take(type);                                                           \
        if (object != NULL) {                                                                           \
            memset((char *)object + sizeof(PyObject), 0, (size_t)type->tp_basicsize - sizeof(PyObject)); \
            return object;                                                                              \
        }                                                                                               \
        object = PyType_GenericAlloc(type, items);                                                      \
        if (object != NULL)                                                                             \
            PyObject_GC_UnTrack(object);                                                                \
        return object;                                                                                  \
    }                                                                                                   \
    static void name##_free(void *object) {                                                             \
        if (name##_count < (max))                                                                       \
            name##_kept[name##_count++] = (PyObject *)object;                                           \
        else                                                                                            \
            PyObject_GC_Del(object);                                                                    \
    }                                                                                                   \
    static int name##_install(PyTypeObject *type) {                                                     \
        if (type->tp_flags & Py_TPFLAGS_HEAPTYPE)                                                       \
            return 0; /* its objects own a reference to it, which this does not look after */           \
        type->tp_alloc = name##_alloc;                                                                  \
        type->tp_free = name##_free;                                                                    \
        PyType_Modified(type);                                                                          \
        return 1;                                                                                       \
    }
#endif

#endif
