/* A file system that fails on purpose: preloaded into lgd by faults.py.
 *
 * Calls that change files below TORTURE_ROOT are counted, or calls that read files if TORTURE_KIND starts with "read".
 * Call number TORTURE_AT (from 0) fails:
 *   enospc, eio     the call returns the error
 *   short           a write takes only half of its bytes
 *   read-eio        a read returns EIO
 *   read-short      a read returns half of its bytes
 *   power           the process ends at once; TORTURE_LOG then lists what a disk without power would not have
 * Without such a call, TORTURE_LOG receives the number of calls at the end of the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 4096

struct unsynced { char path[PATH_MAX]; off_t synced; int dirty; };
struct renamed { char from[PATH_MAX], to[PATH_MAX], backup[PATH_MAX]; int durable; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct unsynced *files;
static struct renamed *renames;
static int file_count, rename_count;
static long calls;

static const char *setting(const char *name) { const char *value = getenv(name); return value ? value : ""; }
static int is_kind(const char *kind) { return !strcmp(setting("TORTURE_KIND"), kind); }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
    const char *root = setting("TORTURE_ROOT");
    return *root && !strncmp(path, root, strlen(root));
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static void absolute(const char *path, char *out) {
    char here[PATH_MAX];
    if (*path == '/' || !getcwd(here, sizeof here)) snprintf(out, PATH_MAX, "%s", path);
    else snprintf(out, PATH_MAX, "%.2000s/%.2000s", here, path);
}

static struct unsynced *file_at(const char *path) {
    for (int i = 0; i < file_count; i++)
        if (!strcmp(files[i].path, path)) return &files[i];
    if (!files) files = calloc(MOST, sizeof *files);
    if (file_count == MOST) abort();
    struct unsynced *file = &files[file_count++];
    snprintf(file->path, PATH_MAX, "%s", path);
    return file;
}

static void lose_power(void) {
    FILE *log = fopen(setting("TORTURE_LOG"), "w");
    if (!log) _exit(99);
    for (int i = 0; i < file_count; i++)
        if (files[i].dirty) fprintf(log, "dirty\t%s\t%ld\n", files[i].path, (long)files[i].synced);
    for (int i = 0; i < rename_count; i++)
        if (!renames[i].durable) fprintf(log, "renamed\t%s\t%s\t%s\n", renames[i].from, renames[i].to, renames[i].backup);
    fclose(log);
    _exit(137);
}

/* Counts a call that writes; returns whether it is the one that fails. */
static int strikes(int reading) {
    if (reading != !strncmp(setting("TORTURE_KIND"), "read", 4)) return 0;
    long number = __atomic_fetch_add(&calls, 1, __ATOMIC_SEQ_CST);
    const char *at = setting("TORTURE_AT");
    if (!*at || number != atol(at)) return 0;
    if (is_kind("power")) { pthread_mutex_lock(&lock); lose_power(); }
    return 1;
}

static int failure(void) { errno = is_kind("enospc") ? ENOSPC : EIO; return -1; }

__attribute__((destructor)) static void report(void) {
    if (*setting("TORTURE_AT")) return;
    FILE *log = fopen(setting("TORTURE_LOG"), "w");
    if (log) { fprintf(log, "%ld\n", calls); fclose(log); }
}

static void wrote(const char *path) {
    pthread_mutex_lock(&lock);
    file_at(path)->dirty = 1;
    pthread_mutex_unlock(&lock);
}

#define WRITES(call, half)                                  \
    char path[PATH_MAX];                                    \
    if (!path_of(fd, path)) return call;                    \
    if (strikes(0)) { if (!is_kind("short")) return failure(); half; } \
    ssize_t done = call;                                    \
    if (done > 0) wrote(path);                              \
    return done;

ssize_t write(int fd, const void *bytes, size_t count) { WRITES(REAL(write)(fd, bytes, count), count = (count + 1) / 2) }
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) { WRITES(REAL(pwrite64)(fd, bytes, count, at), count = (count + 1) / 2) }
ssize_t writev(int fd, const struct iovec *parts, int count) { WRITES(REAL(writev)(fd, parts, count), count = count > 1 ? count / 2 : count) }

#define READS(call)                                         \
    char path[PATH_MAX];                                    \
    if (!path_of(fd, path) || !strikes(1)) return call;     \
    if (is_kind("read-eio")) return failure();              \
    count = (count + 1) / 2;                                \
    return call;

ssize_t read(int fd, void *bytes, size_t count) { READS(REAL(read)(fd, bytes, count)) }
ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) { READS(REAL(pread64)(fd, bytes, count, at)) }

static int synced(int fd, int (*call)(int)) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return call(fd);
    if (strikes(0) && !is_kind("short")) return failure();
    int done = call(fd);
    struct stat stat;
    if (done || fstat(fd, &stat)) return done;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(stat.st_mode)) {
        for (int i = 0; i < rename_count; i++) {
            char *slash = strrchr(renames[i].to, '/');
            if (slash && strlen(path) == (size_t)(slash - renames[i].to) && !strncmp(path, renames[i].to, slash - renames[i].to)) renames[i].durable = 1;
        }
    } else {
        struct unsynced *file = file_at(path);
        file->dirty = 0;
        file->synced = stat.st_size;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return synced(fd, REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, REAL(fdatasync)); }

int rename(const char *from, const char *to) {
    char source[PATH_MAX], target[PATH_MAX], backup[PATH_MAX] = "";
    absolute(from, source);
    absolute(to, target);
    if (!below(target)) return REAL(rename)(from, to);
    if (strikes(0) && !is_kind("short")) return failure();
    pthread_mutex_lock(&lock);
    if (is_kind("power")) {
        snprintf(backup, sizeof backup, "%.3000s.%d", setting("TORTURE_LOG"), rename_count);
        if (REAL(link)(target, backup)) *backup = 0;
    }
    int done = REAL(rename)(from, to);
    if (!done) {
        if (!renames) renames = calloc(MOST, sizeof *renames);
        if (rename_count == MOST) abort();
        struct renamed *entry = &renames[rename_count++];
        strcpy(entry->from, source);
        strcpy(entry->to, target);
        strcpy(entry->backup, backup);
        for (int i = 0; i < file_count; i++) {
            if (!strcmp(files[i].path, target)) files[i].dirty = 0;
            if (!strcmp(files[i].path, source)) strcpy(files[i].path, target);
        }
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int link(const char *from, const char *to) {
    char target[PATH_MAX];
    absolute(to, target);
    if (below(target) && strikes(0) && !is_kind("short")) return failure();
    return REAL(link)(from, to);
}

int mkdir(const char *name, mode_t mode) {
    char target[PATH_MAX];
    absolute(name, target);
    if (below(target) && strikes(0) && !is_kind("short")) return failure();
    return REAL(mkdir)(name, mode);
}

#define OPENS(real)                                                                  \
    mode_t mode = 0;                                                                 \
    if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
    char target[PATH_MAX];                                                           \
    absolute(name, target);                                                          \
    if ((flags & O_CREAT) && below(target) && strikes(0) && !is_kind("short")) return failure(); \
    return real;

int open(const char *name, int flags, ...) { OPENS(REAL(open)(name, flags, mode)) }
int open64(const char *name, int flags, ...) { OPENS(REAL(open64)(name, flags, mode)) }
int openat(int dir, const char *name, int flags, ...) { OPENS(REAL(openat)(dir, name, flags, mode)) }
int openat64(int dir, const char *name, int flags, ...) { OPENS(REAL(openat64)(dir, name, flags, mode)) }
int ftruncate64(int fd, off64_t length) {
    char path[PATH_MAX];
    if (path_of(fd, path) && strikes(0) && !is_kind("short")) return failure();
    return REAL(ftruncate64)(fd, length);
}
