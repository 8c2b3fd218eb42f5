/* Preloaded into a process, lets the disk below FULL_DISK_FOLDER be full as long as the file FULL_DISK_WHILE exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_full(int fd) {
    const char *folder = getenv("FULL_DISK_FOLDER"), *while_there = getenv("FULL_DISK_WHILE");
    char link[64], path[4096];
    if (!folder || !while_there || access(while_there, F_OK) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path);
    return len > 0 && (size_t)len >= strlen(folder) && strncmp(path, folder, strlen(folder)) == 0;
}

ssize_t write(int fd, const void *bytes, size_t len) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (is_full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return real(fd, bytes, len);
}
