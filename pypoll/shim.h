/* The interface between Python and the C shim, declared once: the C compiler
 * includes this file, and build_poll.py hands the same text to cffi without the
 * lines that begin with '#', each of which must therefore stand on one line. */
#ifndef PYPOLL_SHIM_H
#define PYPOLL_SHIM_H
#include <stdint.h>

/* ---- What was built ---------------------------------------------------- */

/* The version of the package that this library was compiled for. */
const char *pypoll_version(void);

/* 1 if waits use ppoll(2), 0 if they use poll(2) alone. */
int pypoll_has_ppoll(void);

struct pypoll_constant {
    const char *name;
    int value;
};

/* Every POLL* constant of the system's headers; a null name ends the table. */
const struct pypoll_constant *pypoll_constants(void);

/* ---- A set of descriptors ---------------------------------------------- */

/* Any thread may call any of these functions at any time, also while another
 * thread waits in the same set; pypoll_free alone needs the last reference. Where a
 * nanosecond counts the set is given by its address: cffi converts a pointer in 230
 * instructions, of 2,000 that a whole poll() takes on CPython, and an integer in 20. */
typedef struct pypoll_set pypoll_set;

/* Has every fork() see to the sets, so that the child's work. For the import. */
void pypoll_watch_forks(void);

/* A new empty set, or null when memory is refused. */
pypoll_set *pypoll_new(void);

/* Frees the set. */
void pypoll_free(pypoll_set *set);

/* Each of the three changes answers -EINVAL if fd or mask is out of range.
 *
 * Registers fd at the end, or gives a registered fd a new event mask in its
 * place. 0, or -ENOMEM with the set as it was. */
int pypoll_register(intptr_t set, int fd, int mask);

/* Gives a registered fd a new event mask. 0, or with the set as it was -ENOENT
 * or -ENOMEM. */
int pypoll_modify(intptr_t set, int fd, int mask);

/* Takes fd out. 0, or with the set as it was -ENOENT or -ENOMEM. */
int pypoll_unregister(intptr_t set, int fd);

/* The event mask of fd, or -ENOENT. */
int pypoll_mask(pypoll_set *set, int fd);

/* How many descriptors are registered. */
int pypoll_len(pypoll_set *set);

/* Copies the registered descriptors, in order, into fds if there is room for
 * them all, and returns how many there are. */
int pypoll_list(pypoll_set *set, int *fds, int room);

/* ---- Waiting in a set -------------------------------------------------- */

struct pypoll_ready {
    int fd;
    int event;
};

/* What the waiting functions answer:
 *    0                      time ran out; the set is free
 *    fd << 16 | event       this descriptor alone is ready; the set is free
 *    -EBUSY                 somebody else waits in the set
 *    -EINTR                 a signal arrived; this thread still holds the set
 *                           and owes it a pypoll_resume
 *    another -errno         the system call failed; the set is free
 *    PYPOLL_MANY - n        n entries of the window are filled; this thread
 *                           still holds the set and owes it a pypoll_gather
 * The one-descriptor answer, the commonest, spares the window and the second
 * call: 60 of 540 ns on CPython 3.11. */
enum { PYPOLL_MANY = -65536, PYPOLL_WINDOW = 256 };

/* Where the ready descriptors are put, PYPOLL_WINDOW at a time. It lives as long
 * as the set, never moves, and is written only for the thread that holds the set. */
struct pypoll_ready *pypoll_window(pypoll_set *set);

/* Wait: not at all; without limit; for no less than so many nanoseconds. cffi
 * compiles a call with one argument to its cheapest form (45 ns less than one with
 * two on CPython), so the two common waits take no more than that. */
int64_t pypoll_check(intptr_t set);
int64_t pypoll_wait(intptr_t set);
int64_t pypoll_wait_for(intptr_t set, int64_t nanoseconds);

/* Waits with the thread's signal mask replaced, during the system call alone, by
 * these signals; negative nanoseconds are no limit. -ENOSYS without ppoll(2),
 * -EINVAL for a signal that the system does not have. */
int64_t pypoll_wait_masked(pypoll_set *set, int64_t nanoseconds, const unsigned char *signals, int count);

/* Goes on with a wait that answered -EINTR, for what is left of its time. */
int64_t pypoll_resume(pypoll_set *set);

/* Fills the window with the next ready entries and returns how many; 0 when
 * there are no more, and then the set is free. */
int pypoll_gather(intptr_t set);

/* The hold on the set, a positive number of its own, while a thread owes it a
 * pypoll_resume or a pypoll_gather; otherwise 0. */
int pypoll_hold(pypoll_set *set);

/* The thread of the latest hold, as threading.get_ident() numbers it. */
uint64_t pypoll_holder(pypoll_set *set);

/* Ends this hold, if it has not ended by itself. */
void pypoll_release(pypoll_set *set, int hold);

/* ---- Waiting for one descriptor ---------------------------------------- */

/* The monotonic clock of the deadlines, in nanoseconds. */
int64_t pypoll_clock(void);

/* Waits for one descriptor until the clock reads deadline; 0 does not wait, a
 * negative deadline is no limit. Its events, 0 when time ran out, or -errno;
 * after -EINTR the same call goes on. */
int pypoll_one(int fd, int mask, int64_t deadline);

/* The same for fd << 16 | mask, without a wait. */
int pypoll_check_one(int64_t fd_and_mask);

#endif
