/* Preloaded into a process, gives no memory to requests for tensors of more than LITTLE_MEMORY_BYTES: the heap of tensors
 * gets nothing from the system, and LibTorch's own allocator, which it asks then, no more than that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Least that the heap of tensors asks for at once, more than anything else does but for stacks, which glibc takes itself. */
static const size_t GROWTH = 8 << 20;

int posix_memalign(void **place, size_t alignment, size_t len) {
    static int (*real)(void **, size_t, size_t);
    static size_t most;
    if (!real) {
        const char *said = getenv("LITTLE_MEMORY_BYTES");
        most = said ? strtoull(said, NULL, 10) : (size_t)-1;
        real = dlsym(RTLD_NEXT, "posix_memalign");
    }
    return len > most ? ENOMEM : real(place, alignment, len);
}

void *mmap(void *place, size_t len, int protection, int flags, int file, off_t offset) {
    static void *(*real)(void *, size_t, int, int, int, off_t);
    if (!real) {
        real = dlsym(RTLD_NEXT, "mmap");
    }
    if ((flags & MAP_ANONYMOUS) && len >= GROWTH) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return real(place, len, protection, flags, file, offset);
}
