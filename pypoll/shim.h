/* The interface between Python and the C shim. The C compiler includes this file, and
 * build_poll.py gives it to cffi without the lines that begin with '#'. So each
 * preprocessor directive must be on one line. */
#ifndef PYPOLL_SHIM_H
#define PYPOLL_SHIM_H
#include <stddef.h>
#include <stdint.h>

/* ---- The build --------------------------------------------------------- */

/* The version of the package that this module was compiled for. */
const char *pypoll_version(void);

/* 1 if waits use ppoll(2), 0 if they use poll(2) alone. */
int pypoll_has_ppoll(void);

struct pypoll_constant {
    const char *name;
    int value;
};

/* Every POLL* constant of the system's headers. A null name ends the table. */
const struct pypoll_constant *pypoll_constants(void);

/* Registers the handlers that keep every set usable in a forked child. */
void pypoll_watch_forks(void);

/* ---- A set of descriptors ---------------------------------------------- */

/* A set of zero bytes is empty. Python allocates it. Any thread may call any of these functions
 * at any time, even while another thread waits in the same set. */
typedef struct pypoll_set pypoll_set;
#ifndef PYPOLL_SET_IS_DEFINED
struct pypoll_set {
    int64_t storage[44];
};
#endif

/* A set of more than PYPOLL_FEW_HOLDS descriptors needs memory from malloc, and an owner that
 * frees it. pypoll_own adds an owner, and pypoll_disown removes one. Removing the last owner
 * frees the memory. They are the alloc and free functions of a cffi allocator, and ignore its
 * arguments. pypoll_enlarge moves the set to memory from malloc, and returns 0 or -ENOMEM. The
 * caller must first store an owner that lives as long as the set. */
pypoll_set *pypoll_own(pypoll_set *set, size_t ignored);
void pypoll_disown(pypoll_set *set, pypoll_set *ignored);
int pypoll_enlarge(pypoll_set *set);

/* Adds fd at the end, or changes the event mask of a registered fd. Returns 0, -EINVAL
 * if fd or mask is out of range, -ENOSPC if the set must be enlarged first, or -ENOMEM. The
 * set is unchanged after an error. */
int pypoll_register(pypoll_set *set, int fd, int mask);

/* Changes the event mask of a registered fd. Returns 0, -EINVAL or -ENOENT. */
int pypoll_modify(pypoll_set *set, int fd, int mask);

/* Removes fd. Returns 0, -EINVAL or -ENOENT. */
int pypoll_unregister(pypoll_set *set, int fd);

/* Sets the event mask of fd, or removes fd if mask is 0, unless the set has been changed since it
 * had this number of changes. So a thread can choose a mask without a lock, and never overwrites a
 * newer one. fd and mask must be in range. Returns the new number of changes, -EAGAIN if there was
 * another change, -ENOSPC or -ENOMEM. */
int pypoll_follow(pypoll_set *set, int changes, int fd, int mask);

/* Returns the number of changes so far. A new set has 0. */
int pypoll_changes(pypoll_set *set);

/* Returns the event mask of fd, or -ENOENT. */
int pypoll_mask(pypoll_set *set, int fd);

/* Returns the number of registered descriptors. If fds has room for all of them, copies them
 * into it, in order. */
int pypoll_list(pypoll_set *set, int *fds, int room);

/* ---- Waiting in a set -------------------------------------------------- */

/* Each of these functions returns one of
 *    0                               time ran out
 *    fd << 16 | event                only this descriptor is ready
 *    -EBUSY                          another thread is waiting in the set
 *    -ENOBUFS                        no memory for the wait's copy or its results
 *    another -errno                  the system call failed
 *    PYPOLL_INTERRUPTED - deadline   a signal arrived: the caller runs the handlers
 *    below PYPOLL_SEVERAL            several are ready: see pypoll_latest
 * A single int64_t is enough for common waits, so they use no other memory.
 *
 * A time is the minimum number of nanoseconds to wait, or -1 or -2 to wait indefinitely. It
 * can also be the result of an interrupted wait, which then continues until its deadline. */
enum { PYPOLL_INTERRUPTED = -65536 };
static const int64_t PYPOLL_SEVERAL = -1152921504606846976;

/* pypoll_check does not wait, pypoll_wait waits indefinitely, and pypoll_wait_for waits for a
 * time. They are separate because a second argument adds 45 ns to a call on CPython. */
int64_t pypoll_check(pypoll_set *set);
int64_t pypoll_wait(pypoll_set *set);
int64_t pypoll_wait_for(pypoll_set *set, int64_t time);

/* Waits for a time, with the thread's signal mask replaced by these signals. Returns -ENOSYS
 * if the system lacks ppoll(2), and -EINVAL if it has no signal of such a number. */
int64_t pypoll_wait_masked(pypoll_set *set, int64_t time, const unsigned char *signals, int count);

struct pypoll_ready {
    int fd;
    int event;
};

/* Returns the answer of the last wait that found several descriptors ready. PYPOLL_SIZE
 * masks the size of its results in bytes; the bits above hold a serial number. A caller
 * reads the results first, and then calls this. If this does not return the caller's own
 * answer, a later wait has overwritten the results, and the caller reads again. */
enum { PYPOLL_SIZE = (1 << 29) - 1 };
int64_t pypoll_latest(pypoll_set *set);

/* Returns the window: the memory to which a wait with this answer has written its results. It
 * never moves, and is freed with the set. All answers from PYPOLL_MANY to PYPOLL_FEW - 1 share
 * one window. All answers below PYPOLL_MANY share another. */
static const int64_t PYPOLL_FEW = -2305843009213693952;
static const int64_t PYPOLL_MANY = -3458764513820540928;
struct pypoll_ready *pypoll_window(pypoll_set *set, int64_t answer);

/* The number of results that each of these two windows holds. */
enum { PYPOLL_FEW_HOLDS = 8, PYPOLL_MANY_HOLDS = 256 };

/* ---- Waiting for one descriptor ---------------------------------------- */

/* Both poll the descriptor in fd << 16 | mask, pypoll_check_one without waiting. They return its
 * events, 0 if time ran out, -errno, or PYPOLL_INTERRUPTED - deadline. */
int64_t pypoll_check_one(int64_t fd_and_mask);
int64_t pypoll_wait_one(int64_t fd_and_mask, int64_t time);

#endif
