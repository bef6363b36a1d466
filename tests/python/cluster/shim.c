/* What a node is told by its machine, changed while it runs: the wall clock, and how its disk syncs.
 *
 * Loaded into a process with LD_PRELOAD. LAB_PAGE names a file of one page that the test writes and this reads:
 *
 *   0  int64  nanoseconds to add to the wall clock
 *   8  int32  milliseconds that each sync takes besides
 *  12  int32  how many syncs fail from now on, with EIO and nothing synced
 *  16  int64  syncs that failed so far
 *  24  int64  syncs that were slowed so far
 *  32  text   syncs fail of files with this in their path, at most 63 bytes; empty: of any
 *  96  int64  syncs of the file whose sync had failed, by the process that was told so
 * 104  int64  wrong times that were told
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct page {
    volatile int64_t offset_ns;
    volatile int32_t sync_delay_ms;
    volatile int32_t sync_failures;
    volatile int64_t failed;
    volatile int64_t slowed;
    char target[64];
    volatile int64_t again;
    volatile int64_t misled;
};

static struct page nothing;
static struct page *page = &nothing;
static char failed_path[PATH_MAX];

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LAB_PAGE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *found = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (found != MAP_FAILED) page = found;
    close(file);
}

static int is_wall(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, time);
    if (answer == 0 && is_wall(clock)) {
        int64_t now = time->tv_sec * 1000000000LL + time->tv_nsec + page->offset_ns;
        if (now < 0) now = 0;
        time->tv_sec = now / 1000000000LL;
        time->tv_nsec = now % 1000000000LL;
        if (page->offset_ns != 0) __atomic_add_fetch(&page->misled, 1, __ATOMIC_RELAXED);
    }
    return answer;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int answer = clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}

static void find_path(int file, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

/* Whether this sync fails; takes its time first. */
static int disturbed(int file) {
    int32_t delay = page->sync_delay_ms;
    if (delay > 0) {
        struct timespec pause = {delay / 1000, (delay % 1000) * 1000000L};
        nanosleep(&pause, NULL);
        __atomic_add_fetch(&page->slowed, 1, __ATOMIC_RELAXED);
    }
    if (page->sync_failures <= 0 && failed_path[0] == 0) return 0;
    char path[PATH_MAX];
    find_path(file, path);
    if (failed_path[0] != 0 && strcmp(path, failed_path) == 0) __atomic_add_fetch(&page->again, 1, __ATOMIC_RELAXED);
    if (page->sync_failures <= 0 || !strstr(path, page->target)) return 0;
    if (__atomic_fetch_sub(&page->sync_failures, 1, __ATOMIC_RELAXED) <= 0) return 0;
    strcpy(failed_path, path);
    __atomic_add_fetch(&page->failed, 1, __ATOMIC_RELAXED);
    errno = EIO;
    return 1;
}

int fsync(int file) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return disturbed(file) ? -1 : real(file);
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return disturbed(file) ? -1 : real(file);
}
