/* poll(2) and ppoll(2) over a set of descriptors. docs/design.md explains how it works
 * and why. In short:
 *
 * A set has an array of entries in the order of registration, and an index that maps a
 * descriptor to its entry. Each change is one call, which takes a lock and O(1) time. Each
 * wait is one call, too, and polls its own copy of the array. The set is marked as busy only
 * during this call, so no exception, signal, thread or greenlet can leave it marked.
 *
 * Functions marked inline are on the path to the system call and back. After a system
 * call the return-address prediction is cold, so each level of calls costs 3 of 290 ns.
 *
 * The comment of a function says which threads may call it. */

/* Exposes POLLRDHUP and ppoll. It must be defined before the first header is included. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#define PYPOLL_SET_IS_DEFINED
#include "shim.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Of the supported systems, only macOS lacks ppoll. PYPOLL_POLL_ONLY builds the macOS variant
 * on other systems, for tests. */
#if defined(__APPLE__) || defined(PYPOLL_POLL_ONLY)
#define HAS_PPOLL 0
#else
#define HAS_PPOLL 1
#endif

#define NANOSECONDS_PER_SECOND INT64_C(1000000000)
#define NANOSECONDS_PER_MILLISECOND INT64_C(1000000)

/* ---- The build --------------------------------------------------------- */

/* Any thread. */
const char *pypoll_version(void)
{
    return PYPOLL_VERSION;
}

/* Any thread. */
int pypoll_has_ppoll(void)
{
    return HAS_PPOLL;
}

#define CONSTANT(name) {#name, name},

static const struct pypoll_constant constants[] = {
    CONSTANT(POLLIN)
    CONSTANT(POLLPRI)
    CONSTANT(POLLOUT)
    CONSTANT(POLLERR)
    CONSTANT(POLLHUP)
    CONSTANT(POLLNVAL)
#ifdef POLLRDNORM
    CONSTANT(POLLRDNORM)
#endif
#ifdef POLLRDBAND
    CONSTANT(POLLRDBAND)
#endif
#ifdef POLLWRNORM
    CONSTANT(POLLWRNORM)
#endif
#ifdef POLLWRBAND
    CONSTANT(POLLWRBAND)
#endif
#ifdef POLLMSG
    CONSTANT(POLLMSG)
#endif
#ifdef POLLREMOVE
    CONSTANT(POLLREMOVE)
#endif
#ifdef POLLRDHUP
    CONSTANT(POLLRDHUP)
#endif
#ifdef POLLINIGNEOF
    CONSTANT(POLLINIGNEOF)
#endif
#ifdef POLLEXTEND
    CONSTANT(POLLEXTEND)
#endif
#ifdef POLLATTRIB
    CONSTANT(POLLATTRIB)
#endif
#ifdef POLLNLINK
    CONSTANT(POLLNLINK)
#endif
#ifdef POLLWRITE
    CONSTANT(POLLWRITE)
#endif
#ifdef POLLSTANDARD
    CONSTANT(POLLSTANDARD)
#endif
    {NULL, 0},
};

/* Any thread. */
const struct pypoll_constant *pypoll_constants(void)
{
    return constants;
}

/* ---- The set ----------------------------------------------------------- */

enum {
    FEW = PYPOLL_FEW_HOLDS, /* descriptors, and results, that fit into the set itself */
    WINDOWS = 10,           /* each holds four times as many results as the one before */
    HOLE = -1,              /* the descriptor of a removed entry */
    EMPTY = -1              /* an unused place of the index */
};

struct pypoll_set {
    /* Used only by the wait that has the mark. */
    unsigned mark;          /* the generation of the process in which a thread waits, or 0 */
    int copied;             /* entries in the copy */
    int copy_room;
    struct pollfd *copy;    /* null: the copy is in `few_copied` */

    /* Guarded by the lock, except that a wait reads `changed` without it. */
    int changed;            /* the copy is out of date */
    int changes;            /* counts the changes */
    int owners;
    int live;               /* registered descriptors */
    int count;              /* entries in use, holes included */
    int room;               /* 0: the entries are in `few`, and there is no index */
    struct pollfd *entries; /* in the order of registration */
    int *places;            /* the index: a hash table from descriptor to entry */
    unsigned serial;        /* counts the waits that found several ready */
    int64_t latest;         /* the answer of the last of them */
    struct pypoll_ready *windows[WINDOWS];

    struct pollfd few[FEW];
    struct pollfd few_copied[FEW];
    struct pypoll_ready few_results[FEW];
};

/* Fails to compile if a set does not fit into the storage that shim.h declares. */
typedef char set_fits[sizeof(struct pypoll_set) <= 44 * sizeof(int64_t) ? 1 : -1];

/* ---- Locks and forks --------------------------------------------------- */

enum { LOCKS = 16 };

/* The address of a set selects its lock. So sets stay small, and a fork takes few locks.
 * Each lock has its own cache line. */
static union {
    pthread_mutex_t mutex;
    char line[64];
} locks[LOCKS] = {
#define LOCK {PTHREAD_MUTEX_INITIALIZER}
    LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK, LOCK,
};

/* 1 in the process that imported the module, 2 in its children, and so on. */
static unsigned generation = 1;

/* Any thread that holds no lock. */
static inline void lock(const pypoll_set *set)
{
    pthread_mutex_lock(&locks[((uintptr_t)set >> 6) % LOCKS].mutex);
}

/* The thread that holds the lock. */
static inline void unlock(const pypoll_set *set)
{
    pthread_mutex_unlock(&locks[((uintptr_t)set >> 6) % LOCKS].mutex);
}

/* The thread that is about to fork. It waits for changes to finish, so that the child does not
 * get a half-changed set. */
static void before_fork(void)
{
    int i;

    for (i = 0; i < LOCKS; i++)
        pthread_mutex_lock(&locks[i].mutex);
}

/* The thread that forked. */
static void after_fork_in_parent(void)
{
    int i;

    for (i = 0; i < LOCKS; i++)
        pthread_mutex_unlock(&locks[i].mutex);
}

/* The child's only thread. The parent's waiting threads do not exist here. Their marks have an
 * older generation, so they are void. */
static void after_fork_in_child(void)
{
    generation++;
    after_fork_in_parent();
}

/* The thread that imports the module, perhaps again. Handlers registered twice would deadlock,
 * because they would take each lock twice. */
void pypoll_watch_forks(void)
{
    static int watching;

    if (!__atomic_exchange_n(&watching, 1, __ATOMIC_ACQ_REL))
        (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- Entries and index (the caller holds the lock) ---------------------- */

static inline struct pollfd *entries_of(pypoll_set *set)
{
    return set->room > 0 ? set->entries : set->few;
}

/* The place where the search for fd begins. The index has two places for each entry that there
 * is room for. Descriptors are often consecutive; Fibonacci hashing spreads them. */
static inline unsigned first_place(const pypoll_set *set, int fd)
{
    return (unsigned)((uint64_t)((uint32_t)fd * UINT32_C(2654435769)) * 2 * (unsigned)set->room >> 32);
}

/* The place after this one. The number of places is a power of two. */
static inline unsigned next_place(const pypoll_set *set, unsigned place)
{
    return (place + 1) & (2 * (unsigned)set->room - 1);
}

/* The place of fd in the index, or the empty place where it would go. */
static inline unsigned place_of(const pypoll_set *set, int fd)
{
    unsigned place = first_place(set, fd);

    while (set->places[place] != EMPTY && set->entries[set->places[place]].fd != fd)
        place = next_place(set, place);
    return place;
}

/* The entry of fd, or null. */
static inline struct pollfd *entry_of(pypoll_set *set, int fd)
{
    int i;

    if (set->room > 0) {
        i = set->places[place_of(set, fd)];
        return i == EMPTY ? NULL : &set->entries[i];
    }
    for (i = 0; i < set->count; i++)
        if (set->few[i].fd == fd)
            return &set->few[i];
    return NULL;
}

/* Removes fd from the index. Its entry must still exist. Moves later places up, because a
 * search ends at the first empty place. */
static void index_remove(pypoll_set *set, int fd)
{
    unsigned last = 2 * (unsigned)set->room - 1, gap = place_of(set, fd), place = gap;

    while (set->places[place = next_place(set, place)] != EMPTY) {
        unsigned home = first_place(set, set->entries[set->places[place]].fd);

        if (((place - home) & last) >= ((place - gap) & last)) {
            set->places[gap] = set->places[place];
            gap = place;
        }
    }
    set->places[gap] = EMPTY;
}

/* Copies the entries, without holes, to memory with room for them, which may be the array
 * itself. Writes no more than that, because the last entry is never a hole. */
static void copy_live(pypoll_set *set, struct pollfd *to)
{
    const struct pollfd *from = entries_of(set), *end = from + set->count;

    for (; from < end; from++) {
        *to = *from;
        to += from->fd != HOLE;
    }
}

/* Moves the entries, without holes, to new memory with room for twice as many. Returns 0,
 * or -ENOMEM with the set unchanged. */
static int move(pypoll_set *set)
{
    const size_t size = sizeof *set->entries + 2 * sizeof *set->places;
    size_t room = 2 * FEW;
    struct pollfd *entries;
    int i;

    while (room < 2 * (size_t)set->live)
        room *= 2;
    /* The size of that many results must fit into an answer. */
    entries = room <= PYPOLL_SIZE / sizeof(struct pypoll_ready) ? malloc(room * size) : NULL;
    if (entries == NULL)
        return -ENOMEM;
    copy_live(set, entries);
    free(set->entries);
    set->entries = entries;
    set->places = (int *)(entries + room);
    set->room = (int)room;
    set->count = set->live;
    for (i = 0; i < 2 * set->room; i++)
        set->places[i] = EMPTY;
    for (i = 0; i < set->count; i++)
        set->places[place_of(set, entries[i].fd)] = i;
    return 0;
}

/* Adds fd, which is not registered, at the end. Returns 0, -ENOSPC or -ENOMEM. */
static int add(pypoll_set *set, int fd, int mask)
{
    struct pollfd *entry;

    if (set->room > 0) {
        if (set->count == set->room && move(set) < 0)
            return -ENOMEM;
        set->places[place_of(set, fd)] = set->count;
    } else if (set->count == FEW) {
        if (set->live == FEW)
            return -ENOSPC;
        copy_live(set, set->few);
        set->count = set->live;
    }
    entry = entries_of(set) + set->count;
    entry->fd = fd;
    entry->events = (short)mask;
    set->count++;
    set->live++;
    return 0;
}

/* ---- Changes (any thread, even while another waits; each takes the lock) --- */

/* Whether a struct pollfd can hold both. */
static inline int in_range(int fd, int mask)
{
    return fd >= 0 && mask >= 0 && mask <= USHRT_MAX;
}

/* The number of changes after one more. After INT_MAX it starts again at 0. */
static inline int one_more(int changes)
{
    return (int)(((unsigned)changes + 1) & INT_MAX);
}

/* Makes the next wait copy the set, and unlocks it. */
static inline void unlock_changed(pypoll_set *set)
{
    set->changes = one_more(set->changes);
    __atomic_store_n(&set->changed, 1, __ATOMIC_RELAXED);
    unlock(set);
}

/* Sets the mask of fd. If fd is not registered, adds it or returns -ENOENT. The caller holds the
 * lock. */
static inline int put(pypoll_set *set, int fd, int mask, int may_add)
{
    struct pollfd *entry = entry_of(set, fd);

    if (entry == NULL)
        return may_add ? add(set, fd, mask) : -ENOENT;
    entry->events = (short)mask;
    return 0;
}

/* Removes fd. Returns 0 or -ENOENT. The caller holds the lock. */
static int drop(pypoll_set *set, int fd)
{
    struct pollfd *entry = entry_of(set, fd);

    if (entry == NULL)
        return -ENOENT;
    if (set->room > 0)
        index_remove(set, fd);
    entry->fd = HOLE;
    set->live--;
    while (set->count > 0 && entries_of(set)[set->count - 1].fd == HOLE)
        set->count--;
    /* Release memory. If the smaller block cannot be allocated, the set keeps the larger one. */
    if (set->room > 2 * FEW && set->live < set->room / 4)
        (void)move(set);
    return 0;
}

static inline int change(pypoll_set *set, int fd, int mask, int may_add)
{
    int error;

    if (!in_range(fd, mask))
        return -EINVAL;
    lock(set);
    error = put(set, fd, mask, may_add);
    unlock_changed(set);
    return error;
}

int pypoll_register(pypoll_set *set, int fd, int mask)
{
    return change(set, fd, mask, 1);
}

int pypoll_modify(pypoll_set *set, int fd, int mask)
{
    return change(set, fd, mask, 0);
}

int pypoll_unregister(pypoll_set *set, int fd)
{
    int error;

    if (!in_range(fd, 0))
        return -EINVAL;
    lock(set);
    error = drop(set, fd);
    unlock_changed(set);
    return error;
}

int pypoll_follow(pypoll_set *set, int changes, int fd, int mask)
{
    int error = 0;

    lock(set);
    if (set->changes != changes) {
        unlock(set);
        return -EAGAIN;
    }
    if (mask != 0)
        error = put(set, fd, mask, 1);
    else
        (void)drop(set, fd);
    unlock_changed(set);
    return error < 0 ? error : one_more(changes);
}

int pypoll_changes(pypoll_set *set)
{
    int changes;

    lock(set);
    changes = set->changes;
    unlock(set);
    return changes;
}

int pypoll_mask(pypoll_set *set, int fd)
{
    const struct pollfd *entry;
    int mask;

    lock(set);
    entry = fd >= 0 ? entry_of(set, fd) : NULL; /* not a hole */
    mask = entry != NULL ? (unsigned short)entry->events : -ENOENT;
    unlock(set);
    return mask;
}

int pypoll_list(pypoll_set *set, int *fds, int room)
{
    const struct pollfd *entry;
    int i, live;

    lock(set);
    live = set->live;
    entry = entries_of(set);
    for (i = 0; i < set->count && live <= room; i++, entry++)
        if (entry->fd != HOLE)
            *fds++ = entry->fd;
    unlock(set);
    return live;
}

/* ---- Owners (any thread; each takes the lock) ---------------------------- */

pypoll_set *pypoll_own(pypoll_set *set, size_t ignored)
{
    (void)ignored;
    lock(set);
    set->owners++;
    unlock(set);
    return set;
}

int pypoll_enlarge(pypoll_set *set)
{
    int error = 0;

    lock(set);
    if (set->room == 0)
        error = move(set);
    unlock(set);
    return error;
}

void pypoll_disown(pypoll_set *set, pypoll_set *ignored)
{
    int i, owners;

    (void)ignored;
    lock(set);
    owners = --set->owners;
    unlock(set);
    if (owners > 0)
        return;
    /* A set with memory from malloc has an owner as long as it lives. So either this set is being
     * destroyed, or it has no such memory. */
    free(set->copy);
    free(set->entries);
    for (i = 0; i < WINDOWS; i++)
        free(set->windows[i]);
}

/* ---- The system call --------------------------------------------------- */

/* A deadline is a time of the monotonic clock in nanoseconds. NEVER is 18 years, because the
 * result of an interrupted wait must be above PYPOLL_SEVERAL. */
#define NO_WAIT INT64_C(0)
#define NEVER (INT64_C(1) << 59)

/* The time left until NEVER. */
#define NO_LIMIT INT64_C(-1)

/* When a process is stopped and continued, poll(2) keeps its deadline, but ppoll(2) on
 * Linux starts over with the time that was left. So ppoll waits only for the last fraction
 * of a millisecond or, with a signal mask, for a slice. A stop cannot lengthen a wait by
 * more than that. */
#define SLICE (100 * NANOSECONDS_PER_MILLISECOND)

/* Any thread. */
static inline int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NANOSECONDS_PER_SECOND + time.tv_nsec;
}

/* Returns the nanoseconds until the deadline: 0 if it has passed, NO_LIMIT for NEVER. */
static inline int64_t time_left(int64_t deadline)
{
    int64_t time;

    if (deadline == NO_WAIT)
        return 0;
    if (deadline == NEVER)
        return NO_LIMIT;
    time = now();
    return time < deadline ? deadline - time : 0;
}

/* Returns the deadline of a time as shim.h defines it, and the time left in *left. */
static inline int64_t deadline_of(int64_t time, int64_t *left)
{
    int64_t begun;

    *left = time;
    if (time == 0)
        return NO_WAIT;
    if (time > 0) {
        begun = now();
        return time < NEVER - begun ? begun + time : NEVER;
    }
    if (time > PYPOLL_INTERRUPTED) {
        *left = NO_LIMIT;
        return NEVER;
    }
    time = PYPOLL_INTERRUPTED - time;
    *left = time_left(time);
    return time;
}

/* Makes one system call, which may return before the time has passed. Returns the result of
 * poll(2). The caller owns the entries. */
static inline int poll_once(struct pollfd *entries, int count, int64_t left, const sigset_t *signals)
{
    int64_t milliseconds = left / NANOSECONDS_PER_MILLISECOND;

#if HAS_PPOLL
    if (signals != NULL || (milliseconds == 0 && left > 0)) {
        struct timespec time;

        time.tv_sec = 0;
        time.tv_nsec = (long)(left < SLICE ? left : SLICE);
        return ppoll(entries, (nfds_t)count, left < 0 ? NULL : &time, signals);
    }
#else
    (void)signals;
    milliseconds += left % NANOSECONDS_PER_MILLISECOND > 0;
#endif
    if (left < 0)
        milliseconds = -1;
    return poll(entries, (nfds_t)count, milliseconds < INT_MAX ? (int)milliseconds : INT_MAX);
}

/* Makes system calls until an entry is ready, one fails, or the deadline has passed. left
 * is the time until then. Returns the number of ready entries, or -errno. The caller owns
 * the entries. */
static inline int poll_until(struct pollfd *entries, int count, int64_t deadline, int64_t left,
                             const sigset_t *signals)
{
    int again = 1;

    for (;;) {
        int ready = poll_once(entries, count, left, signals);

        if (ready > 0)
            return ready;
        if (ready == 0) {
            if (left == 0 || (left = time_left(deadline)) == 0)
                return 0;
            continue;
        }
        /* EAGAIN: the kernel could not check. Try once more, even if time has run out. After
         * that, treat it as a signal, so that a handler can end an endless loop. */
        if (errno != EAGAIN)
            return -errno;
        if (again-- == 0)
            return -EINTR;
        left = time_left(deadline);
    }
}

/* Any thread; touches no set. */
static inline int64_t wait_for_one(int64_t fd_and_mask, int64_t deadline, int64_t left)
{
    struct pollfd entry;
    int ready;

    entry.fd = (int)(fd_and_mask >> 16);
    entry.events = (short)(fd_and_mask & USHRT_MAX);
    entry.revents = 0;
    ready = poll_until(&entry, 1, deadline, left, NULL);
    if (ready > 0)
        return (unsigned short)entry.revents;
    return ready == -EINTR ? PYPOLL_INTERRUPTED - deadline : ready;
}

/* Any thread; touches no set. */
int64_t pypoll_check_one(int64_t fd_and_mask)
{
    return wait_for_one(fd_and_mask, NO_WAIT, 0);
}

/* Any thread; touches no set. */
int64_t pypoll_wait_one(int64_t fd_and_mask, int64_t time)
{
    int64_t left, deadline = deadline_of(time, &left);

    return left == 0 && time < 0 ? 0 : wait_for_one(fd_and_mask, deadline, left);
}

/* ---- Results ----------------------------------------------------------- */

/* Returns the window for an answer, or null if memory runs out. The caller holds the
 * lock. */
static struct pypoll_ready *window_for(pypoll_set *set, int64_t answer)
{
    size_t size = PYPOLL_MANY_HOLDS * sizeof(struct pypoll_ready);
    int i = 0;

    if (answer >= PYPOLL_MANY && answer < PYPOLL_FEW)
        return set->few_results;
    for (; size < (size_t)(answer & PYPOLL_SIZE); size *= 4)
        i++;
    if (set->windows[i] == NULL)
        set->windows[i] = malloc(size);
    return set->windows[i];
}

/* Any thread; takes the lock. */
struct pypoll_ready *pypoll_window(pypoll_set *set, int64_t answer)
{
    struct pypoll_ready *results;

    lock(set);
    results = window_for(set, answer);
    unlock(set);
    return results;
}

/* Any thread. Takes the lock, so it waits until results are written completely. */
int64_t pypoll_latest(pypoll_set *set)
{
    int64_t answer;

    lock(set);
    answer = set->latest;
    unlock(set);
    return answer;
}

/* Writes the ready entries of the wait's copy to a window, where other threads may be
 * reading, and returns the wait's answer. The caller has the mark; takes the lock. */
static int64_t publish(pypoll_set *set, const struct pollfd *entry, int ready)
{
    const struct pollfd *end = entry + set->copied;
    struct pypoll_ready *result;
    int64_t answer;

    lock(set);
    answer = set->room == 0 ? PYPOLL_FEW : ready <= PYPOLL_MANY_HOLDS ? PYPOLL_MANY : PYPOLL_SEVERAL;
    set->serial = (set->serial + 1) & INT32_MAX;
    answer += (int64_t)set->serial << 29 | (int64_t)ready * (int)sizeof *result;
    answer -= INT64_C(1) << 60;
    result = window_for(set, answer);
    if (result != NULL) {
        for (; entry < end; entry++)
            if (entry->revents != 0) {
                __atomic_store_n(&result->fd, entry->fd, __ATOMIC_RELAXED);
                __atomic_store_n(&result->event, (unsigned short)entry->revents, __ATOMIC_RELAXED);
                result++;
            }
        set->latest = answer;
    } else
        answer = -ENOBUFS;
    unlock(set);
    return answer;
}

/* ---- Waiting ----------------------------------------------------------- */

/* Updates the wait's copy, and gives it as much room as the set has. Returns 0, or -ENOBUFS
 * if memory runs out. The caller has the mark; takes the lock. */
static int copy_set(pypoll_set *set)
{
    int error = 0;

    lock(set);
    if (set->copy_room != set->room) {
        struct pollfd *copy = malloc((size_t)set->room * sizeof *copy);

        if (copy != NULL) {
            free(set->copy);
            set->copy = copy;
            set->copy_room = set->room;
        } else if (set->copy_room < set->live)
            error = -ENOBUFS;
    }
    if (error == 0) {
        copy_live(set, set->copy != NULL ? set->copy : set->few_copied);
        set->copied = set->live;
        __atomic_store_n(&set->changed, 0, __ATOMIC_RELAXED);
    }
    unlock(set);
    return error;
}

/* A wait. Takes the mark, and clears it. Any thread; others may change the set meanwhile. */
static inline int64_t wait_in(pypoll_set *set, int64_t deadline, int64_t left, const sigset_t *signals)
{
    unsigned mark = __atomic_load_n(&set->mark, __ATOMIC_RELAXED);
    int64_t answer;

    if (mark == generation
        || !__atomic_compare_exchange_n(&set->mark, &mark, generation, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return -EBUSY;
    if (__atomic_load_n(&set->changed, __ATOMIC_RELAXED) && copy_set(set) < 0)
        answer = -ENOBUFS;
    else {
        struct pollfd *entry = set->copy != NULL ? set->copy : set->few_copied;

        answer = poll_until(entry, set->copied, deadline, left, signals);
        if (answer == 1) {
            const struct pollfd *last = entry + set->copied - 1;

            while (entry->revents == 0 && entry < last)
                entry++;
            answer = (int64_t)entry->fd << 16 | (unsigned short)entry->revents;
        } else if (answer > 1)
            answer = publish(set, entry, (int)answer);
        else if (answer == -EINTR)
            answer = PYPOLL_INTERRUPTED - deadline;
    }
    __atomic_store_n(&set->mark, 0, __ATOMIC_RELEASE);
    return answer;
}

/* Any thread; others may change the set meanwhile. */
int64_t pypoll_check(pypoll_set *set)
{
    return wait_in(set, NO_WAIT, 0, NULL);
}

/* Any thread; others may change the set meanwhile. */
int64_t pypoll_wait(pypoll_set *set)
{
    return wait_in(set, NEVER, NO_LIMIT, NULL);
}

/* Any thread; others may change the set meanwhile. */
int64_t pypoll_wait_for(pypoll_set *set, int64_t time)
{
    int64_t left, deadline = deadline_of(time, &left);

    return left == 0 && time < 0 ? 0 : wait_in(set, deadline, left, NULL);
}

/* Any thread; others may change the set meanwhile. */
int64_t pypoll_wait_masked(pypoll_set *set, int64_t time, const unsigned char *signals, int count)
{
    int64_t left, answer, deadline = deadline_of(time, &left);
    sigset_t mask, all, before;
    int i;

    if (!HAS_PPOLL)
        return -ENOSYS;
    sigemptyset(&mask);
    for (i = 0; i < count; i++)
        if (sigaddset(&mask, signals[i]) < 0)
            return -EINVAL;
    if (left == 0 && time < 0)
        return 0;
    if (left <= SLICE)
        return wait_in(set, deadline, left, &mask);
    /* Block all signals between two slices. On every supported system with ppoll, sigprocmask
     * affects only this thread. pthread_sigmask guarantees that, but a wheel built with a new
     * glibc would then need glibc 2.32 or later. */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    answer = wait_in(set, deadline, left, &mask);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return answer;
}
