/* Stop a process, or fill the disk, at the n-th change it makes below one folder.
 *
 * Preloaded (LD_PRELOAD) into a process and its children, which share one counter. Counted are the calls that change
 * files below FAULTS_ROOT: opening with O_CREAT or O_TRUNC, write, fsync, rename, unlink, mkdir, rmdir, truncate.
 *
 * FAULTS_ROOT     folder; calls on other paths are let through uncounted
 * FAULTS_LOG      file that gets a line per counted call: number, name, path
 * FAULTS_CONTROL  file of three 64-bit numbers, mapped by all processes:
 *                   calls counted so far,
 *                   number of the call at which something happens (0: never),
 *                   what happens: 1 kill: the call is not made, the whole process group is killed
 *                                 2 torn: a write is made by half, then the whole process group is killed
 *                                 3 full: this and every later write, mkdir and creation fails with ENOSPC
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { COUNT, KILL, TORN, FULL };
struct control { int64_t counter, at, action; };

static const char *root;
static size_t root_length;
static volatile struct control *control;
static int log_fd = -1;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
    const char *file = getenv("FAULTS_CONTROL"), *log = getenv("FAULTS_LOG");
    root = getenv("FAULTS_ROOT");
    if (!root || !file) { root = NULL; return; }
    root_length = strlen(root);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR, 0);
    if (fd < 0) { root = NULL; return; }
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (control == MAP_FAILED) { root = NULL; return; }
    if (log) log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

static int below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || path[root_length] == 0);
}

/* Write the absolute path of (dirfd, path), or of an open file where path is NULL; 0 where it is unknown. */
static int absolute(int dirfd, const char *path, char *out) {
    char link[64];
    size_t n = 0;
    if (path && path[0] == '/') { snprintf(out, PATH_MAX, "%s", path); return 1; }
    if (path && dirfd == AT_FDCWD) {
        if (!getcwd(out, PATH_MAX)) return 0;
        n = strlen(out);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t got = readlink(link, out, PATH_MAX - 1);
        if (got <= 0) return 0;
        n = (size_t)got;
        out[n] = 0;
    }
    if (path) snprintf(out + n, PATH_MAX - n, "/%s", path);
    return 1;
}

/* Count a call; return 1 where it must fail for want of room. A torn write asks for the number of bytes to let out. */
static int count(const char *name, int dirfd, const char *path, int needs_room, size_t *torn) {
    char where[PATH_MAX], line[PATH_MAX + 64];
    if (!root || !absolute(dirfd, path, where) || !below(where)) return 0;
    int64_t number = __atomic_add_fetch(&control->counter, 1, __ATOMIC_SEQ_CST);
    if (log_fd >= 0) {
        int n = snprintf(line, sizeof line, "%lld\t%s\t%s\n", (long long)number, name, where + root_length);
        syscall(SYS_write, log_fd, line, n);
    }
    if (!control->at || number < control->at) return 0;
    if (control->action == FULL) return needs_room;
    if (number != control->at || control->action == COUNT) return 0;
    if (control->action == TORN && torn && *torn > 1) { *torn /= 2; return 0; }
    kill(0, SIGKILL);
    for (;;) pause();
}

#define GUARD(name, dirfd, path, room) do { if (count(name, dirfd, path, room, NULL)) { errno = ENOSPC; return -1; } } while (0)

static int dies_torn(size_t before, size_t after) { return root && control->action == TORN && after != before; }

ssize_t write(int fd, const void *data, size_t n) {
    size_t part = n;
    if (count("write", fd, NULL, 1, &part)) { errno = ENOSPC; return -1; }
    ssize_t done = (ssize_t)syscall(SYS_write, fd, data, part);
    if (dies_torn(n, part)) { kill(0, SIGKILL); for (;;) pause(); }
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t place) {
    size_t part = n;
    if (count("pwrite", fd, NULL, 1, &part)) { errno = ENOSPC; return -1; }
    ssize_t done = (ssize_t)syscall(SYS_pwrite64, fd, data, part, place);
    if (dies_torn(n, part)) { kill(0, SIGKILL); for (;;) pause(); }
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t place) { return pwrite64(fd, data, n, place); }

ssize_t writev(int fd, const struct iovec *parts, int n) {
    GUARD("writev", fd, NULL, 1);
    return REAL(writev)(fd, parts, n);
}
int fsync(int fd) { GUARD("fsync", fd, NULL, 0); return (int)REAL(fsync)(fd); }
int fdatasync(int fd) { GUARD("fdatasync", fd, NULL, 0); return (int)REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { GUARD("ftruncate", fd, NULL, 1); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { GUARD("ftruncate", fd, NULL, 1); return REAL(ftruncate64)(fd, size); }
int rename(const char *a, const char *b) { GUARD("rename", AT_FDCWD, b, 0); return REAL(rename)(a, b); }
int renameat(int x, const char *a, int y, const char *b) { GUARD("rename", y, b, 0); return REAL(renameat)(x, a, y, b); }
int unlink(const char *a) { GUARD("unlink", AT_FDCWD, a, 0); return REAL(unlink)(a); }
int unlinkat(int x, const char *a, int flags) { GUARD("unlink", x, a, 0); return REAL(unlinkat)(x, a, flags); }
int rmdir(const char *a) { GUARD("rmdir", AT_FDCWD, a, 0); return REAL(rmdir)(a); }
int mkdir(const char *a, mode_t mode) { if (access(a, F_OK)) GUARD("mkdir", AT_FDCWD, a, 1); return REAL(mkdir)(a, mode); }
int mkdirat(int x, const char *a, mode_t mode) { GUARD("mkdir", x, a, 1); return REAL(mkdirat)(x, a, mode); }
int link(const char *a, const char *b) { GUARD("link", AT_FDCWD, b, 1); return REAL(link)(a, b); }
int symlink(const char *a, const char *b) { GUARD("symlink", AT_FDCWD, b, 1); return REAL(symlink)(a, b); }

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

static int opened(int dirfd, const char *path, int flags, mode_t mode) {
    if (flags & (O_CREAT | O_TRUNC)) {
        struct stat seen;
        int fresh = !(flags & O_TRUNC) && fstatat(dirfd, path, &seen, 0) == 0;  /* O_CREAT on what is there changes nothing */
        if (!fresh) GUARD("open", dirfd, path, 1);
    }
    return (int)syscall(SYS_openat, dirfd, path, flags, mode);
}
int open(const char *path, int flags, ...) { MODE(flags); return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE(flags); return opened(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE(flags); return opened(dirfd, path, flags | O_LARGEFILE, mode); }
