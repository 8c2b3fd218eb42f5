/* Preloaded into a process, gives no memory to requests for tensors of more than LITTLE_MEMORY_BYTES. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

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
