/* Preloaded into a process, kills it at its n-th write to a file through pwrite, n from the environment: half of the bytes
   are written first, as when the machine stops in the middle. SQLite writes all its files this way. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static long writes_left(void) {
    static long left = -1;
    if (left < 0) {
        const char *text = getenv("DIE_AT_WRITE");
        left = text ? atol(text) : 1000000000;
    }
    return --left;
}

static ssize_t written(const char *name, int fd, const void *bytes, size_t len, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, name);
    if (writes_left() == 0) {
        real(fd, bytes, len / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return real(fd, bytes, len, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) {
    return written("pwrite64", fd, bytes, len, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) {
    return written("pwrite", fd, bytes, len, offset);
}
