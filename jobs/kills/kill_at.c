/* Counts the calls by which a process changes files below a directory, and ends the process before one
   of them. Loaded in front of libc (LD_PRELOAD), it sees the calls of Python and of native libraries. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char root[PATH_MAX];
static size_t root_length;
static atomic_long seen, kill_at;

/* Starts to count below a directory; with at above 0, the process ends before the at-th call. */
void kill_at_arm(const char *below, long at) {
    root_length = (size_t)snprintf(root, sizeof root, "%s", below);
    atomic_store(&seen, 0);
    atomic_store(&kill_at, at);
}

long kill_at_seen(void) { return atomic_load(&seen); }

static int under(int dir, const char *path) {
    char full[2 * PATH_MAX];
    if (!root_length || !path) return 0;
    if (path[0] == '/') return !strncmp(path, root, root_length);
    char link[64], base[PATH_MAX];
    if (dir == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return 0;
    base[n] = 0;
    snprintf(full, sizeof full, "%s/%s", base, path);
    return !strncmp(full, root, root_length);
}

static int open_below(int fd) {
    char link[64], path[PATH_MAX];
    struct stat about;
    if (!root_length || fstat(fd, &about) || !S_ISREG(about.st_mode)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return !strncmp(path, root, root_length);
}

static void count(void) {
    long now = atomic_fetch_add(&seen, 1) + 1;
    if (now == atomic_load(&kill_at)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC) || ((flags) & O_TMPFILE) == O_TMPFILE)
#define MODE mode_t mode = 0; \
    if (CHANGES(flags)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
    MODE REAL(open); if (CHANGES(flags) && under(AT_FDCWD, path)) count(); return real(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE REAL(open64); if (CHANGES(flags) && under(AT_FDCWD, path)) count(); return real(path, flags, mode);
}
int openat(int dir, const char *path, int flags, ...) {
    MODE REAL(openat); if (CHANGES(flags) && under(dir, path)) count(); return real(dir, path, flags, mode);
}
int openat64(int dir, const char *path, int flags, ...) {
    MODE REAL(openat64); if (CHANGES(flags) && under(dir, path)) count(); return real(dir, path, flags, mode);
}
int link(const char *from, const char *to) {
    REAL(link); if (under(AT_FDCWD, to)) count(); return real(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(linkat); if (under(b, to)) count(); return real(a, from, b, to, flags);
}
int symlink(const char *to, const char *path) {
    REAL(symlink); if (under(AT_FDCWD, path)) count(); return real(to, path);
}
int rename(const char *from, const char *to) {
    REAL(rename); if (under(AT_FDCWD, to) || under(AT_FDCWD, from)) count(); return real(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat); if (under(b, to) || under(a, from)) count(); return real(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(renameat2); if (under(b, to) || under(a, from)) count(); return real(a, from, b, to, flags);
}
int unlink(const char *path) { REAL(unlink); if (under(AT_FDCWD, path)) count(); return real(path); }
int unlinkat(int dir, const char *path, int flags) {
    REAL(unlinkat); if (under(dir, path)) count(); return real(dir, path, flags);
}
int rmdir(const char *path) { REAL(rmdir); if (under(AT_FDCWD, path)) count(); return real(path); }
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir); if (under(AT_FDCWD, path)) count(); return real(path, mode);
}
int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(mkdirat); if (under(dir, path)) count(); return real(dir, path, mode);
}
int ftruncate(int fd, off_t size) { REAL(ftruncate); if (open_below(fd)) count(); return real(fd, size); }
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64); if (open_below(fd)) count(); return real(fd, size);
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL(write); if (open_below(fd)) count(); return real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite); if (open_below(fd)) count(); return real(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64); if (open_below(fd)) count(); return real(fd, data, size, at);
}
