/* poll(2) and ppoll(2) over a set of descriptors that is kept ready for the kernel.
 *
 * The set is one array of struct pollfd in the order of registration. A descriptor
 * that was taken out leaves a hole (fd -1, which poll ignores), and the next wait that
 * finds more holes than an eighth of the rest squeezes them out; a hash table leads from
 * a descriptor to its place. So a change costs O(1), amortized, and a wait finds its
 * array ready.
 *
 * Each change is one call into this file: no exception of the interpreter, which
 * may strike between any two of its instructions, can leave it half done.
 *
 * A set is free or in the hands of one wait, and at the same time somebody may be
 * changing it. While a wait has it, its array belongs to the kernel: changes go to a
 * copy of it, which the next wait takes over. A lock per set orders the changes; no wait
 * ever sleeps with it.
 *
 * What is inline here stands between the caller and the system call: after that one the
 * processor has forgotten where functions return to, and each level costs 3 of 290 ns. */

/* POLLRDHUP and ppoll hide behind it, in every header, so before the first. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include "shim.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* macOS alone of the systems that we know has no ppoll. PYPOLL_POLL_ONLY builds its
 * form elsewhere, for the tests. */
#if defined(__APPLE__) || defined(PYPOLL_POLL_ONLY)
#define HAS_PPOLL 0
#else
#define HAS_PPOLL 1
#endif

#define NANOSECONDS_PER_SECOND INT64_C(1000000000)
#define NANOSECONDS_PER_MILLISECOND INT64_C(1000000)

/* A deadline of 0 has always passed, a negative one never comes. */
#define NO_WAIT INT64_C(0)
#define NO_LIMIT INT64_C(-1)

/* ---- What was built ---------------------------------------------------- */

/* Any thread; reads constants only. */
const char *pypoll_version(void)
{
    return PYPOLL_VERSION;
}

/* Any thread; reads constants only. */
int pypoll_has_ppoll(void)
{
    return HAS_PPOLL;
}

static const struct pypoll_constant constants[] = {
    {"POLLIN", POLLIN},
    {"POLLPRI", POLLPRI},
    {"POLLOUT", POLLOUT},
    {"POLLERR", POLLERR},
    {"POLLHUP", POLLHUP},
    {"POLLNVAL", POLLNVAL},
#ifdef POLLRDNORM
    {"POLLRDNORM", POLLRDNORM},
#endif
#ifdef POLLRDBAND
    {"POLLRDBAND", POLLRDBAND},
#endif
#ifdef POLLWRNORM
    {"POLLWRNORM", POLLWRNORM},
#endif
#ifdef POLLWRBAND
    {"POLLWRBAND", POLLWRBAND},
#endif
#ifdef POLLMSG
    {"POLLMSG", POLLMSG},
#endif
#ifdef POLLREMOVE
    {"POLLREMOVE", POLLREMOVE},
#endif
#ifdef POLLRDHUP
    {"POLLRDHUP", POLLRDHUP},
#endif
#ifdef POLLINIGNEOF
    {"POLLINIGNEOF", POLLINIGNEOF},
#endif
#ifdef POLLEXTEND
    {"POLLEXTEND", POLLEXTEND},
#endif
#ifdef POLLATTRIB
    {"POLLATTRIB", POLLATTRIB},
#endif
#ifdef POLLNLINK
    {"POLLNLINK", POLLNLINK},
#endif
#ifdef POLLWRITE
    {"POLLWRITE", POLLWRITE},
#endif
#ifdef POLLSTANDARD
    {"POLLSTANDARD", POLLSTANDARD},
#endif
    {NULL, 0},
};

/* Any thread; reads constants only. */
const struct pypoll_constant *pypoll_constants(void)
{
    return constants;
}

/* ---- The array --------------------------------------------------------- */

enum { HOLE = -1, LEAST_CAPACITY = 8, LEAST_PLACE_BITS = 4 };

struct array {
    int capacity;
    int count; /* entries in use, holes among them: what the kernel is given */
    int live;  /* entries that are descriptors */
    struct pollfd entries[];
};

/* Gives the array, or a new one where it is null, room for capacity entries. Null
 * when memory is refused: the array is then as it was. The caller owns the array;
 * no wait has it. */
static struct array *array_resized(struct array *array, int capacity)
{
    struct array *resized = NULL;

    if ((size_t)capacity <= (SIZE_MAX - sizeof *array) / sizeof array->entries[0])
        resized = realloc(array, sizeof *array + (size_t)capacity * sizeof array->entries[0]);
    if (resized != NULL)
        resized->capacity = capacity;
    return resized;
}

/* A copy with room for the same entries, or null when memory is refused. The kernel
 * may be writing revents meanwhile, so those are not read. The caller has the lock. */
static struct array *array_copied(const struct array *array)
{
    struct array *copy = array_resized(NULL, array->capacity);
    int i;

    if (copy == NULL)
        return NULL;
    copy->count = array->count;
    copy->live = array->live;
    for (i = 0; i < array->count; i++) {
        copy->entries[i].fd = array->entries[i].fd;
        copy->entries[i].events = array->entries[i].events;
        copy->entries[i].revents = 0;
    }
    return copy;
}

/* Moves the descriptors together, in order. The caller owns the array, and the hash
 * table is wrong about it afterwards. */
static void array_squeeze(struct array *array)
{
    int from, to = 0;

    for (from = 0; from < array->count; from++)
        if (array->entries[from].fd != HOLE)
            array->entries[to++] = array->entries[from];
    array->count = to;
}

/* ---- The set ----------------------------------------------------------- */

/* The low bits of the set's word say whether a wait has it; the bits above number the
 * waits, so that a hold can be told from the next one. */
enum { FREE = 0, WAITING = 1, HELD = 2, STATE = 3, ONE_WAIT = 4 };

struct pypoll_set {
    /* What every wait touches stands together, in one line of the cache or two: the kernel
     * has used the cache for its own meanwhile. */
    unsigned word;
    unsigned changing;   /* the lock: 1 while somebody changes the set or looks at it */
    struct array *array; /* written only under the lock while the set is free, or by its wait */
    struct array *next;  /* changed copy of an array in use, for the next wait */
    uintptr_t holder; /* a word: processors of 32 bits have no atomic access to more */
    int64_t deadline;
    int masked; /* the wait has signals */
    int ready;  /* how many ready entries are still to be gathered */
    int seen;   /* how far gathering has come in the array */

    /* Read and written under the lock, as next is. */
    int place_bits; /* the hash table has 1 << place_bits places */
    int *places;    /* with linear probing: index into the latest array, or HOLE */

    /* Of the wait that has the set, as its deadline and all that stands there; nobody else
     * reads or writes them. */
    sigset_t signals;
    struct pypoll_ready window[PYPOLL_WINDOW];

    /* The list of all sets, under all_sets. */
    struct pypoll_set *after;
    struct pypoll_set **link;
};

/* This thread as threading.get_ident() numbers it. */
static uintptr_t this_thread(void)
{
    return (uintptr_t)pthread_self();
}

/* Waits a little for another thread. Sleeping after a while lets it run even if this one's
 * priority is higher. */
static void pause_after(int tries)
{
    static const struct timespec microsecond = {0, 1000};

    if (tries < 100)
        (void)sched_yield();
    else
        (void)nanosleep(&microsecond, NULL);
}

/* Takes the lock. Any thread that has it not; never for longer than a change takes. A
 * mutex costs two atomic operations more, which is half of a change on PyPy. */
static inline void lock(pypoll_set *set)
{
    unsigned unlocked = 0;
    int tries;

    for (tries = 0; !__atomic_compare_exchange_n(&set->changing, &unlocked, 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
         tries++) {
        pause_after(tries);
        unlocked = 0;
    }
}

/* Gives the lock back. */
static inline void unlock(pypoll_set *set)
{
    __atomic_store_n(&set->changing, 0, __ATOMIC_RELEASE);
}

/* The array that has every change. The caller has the lock. */
static inline struct array *latest(pypoll_set *set)
{
    return set->next != NULL ? set->next : set->array;
}

/* Where the search for fd begins: Fibonacci hashing, for descriptors come in runs. */
static inline unsigned first_place(const pypoll_set *set, int fd)
{
    return (uint32_t)fd * UINT32_C(2654435769) >> (32 - set->place_bits);
}

/* The place of fd, or the empty place where it would go. The caller has the lock. */
static inline unsigned place_of(pypoll_set *set, int fd)
{
    const struct array *array = latest(set);
    unsigned last = (1u << set->place_bits) - 1;
    unsigned place = first_place(set, fd);

    while (set->places[place] != HOLE && array->entries[set->places[place]].fd != fd)
        place = (place + 1) & last;
    return place;
}

/* Fills the hash table anew. The caller has the lock. */
static void index_all(pypoll_set *set)
{
    const struct array *array = latest(set);
    unsigned last = (1u << set->place_bits) - 1;
    int i;

    memset(set->places, 0xff, sizeof(int) << set->place_bits);
    for (i = 0; i < array->count; i++)
        if (array->entries[i].fd != HOLE) {
            unsigned place = first_place(set, array->entries[i].fd);

            while (set->places[place] != HOLE)
                place = (place + 1) & last;
            set->places[place] = i;
        }
}

/* Gives the hash table 1 << bits places. 0, or -ENOMEM with the table as it was. The
 * caller has the lock. */
static int index_resize(pypoll_set *set, int bits)
{
    int *places = bits < 31 ? malloc(sizeof(int) << bits) : NULL;

    if (places == NULL)
        return -ENOMEM;
    free(set->places);
    set->places = places;
    set->place_bits = bits;
    index_all(set);
    return 0;
}

/* Empties the place and closes the gap in its run, so that no search ends early. The
 * caller has the lock, and the entry still has its descriptor. */
static void index_remove(pypoll_set *set, unsigned place)
{
    const struct array *array = latest(set);
    unsigned last = (1u << set->place_bits) - 1;
    unsigned gap = place;

    for (;;) {
        unsigned home;

        place = (place + 1) & last;
        if (set->places[place] == HOLE)
            break;
        home = first_place(set, array->entries[set->places[place]].fd);
        if (((place - home) & last) >= ((place - gap) & last)) {
            set->places[gap] = set->places[place];
            gap = place;
        }
    }
    set->places[gap] = HOLE;
}

/* Puts the changed copy in the place of the array. The caller has the lock, and the set
 * is free or the caller's wait has it. */
static void adopt_next(pypoll_set *set)
{
    free(set->array);
    set->array = set->next;
    __atomic_store_n(&set->next, NULL, __ATOMIC_RELAXED);
}

/* The array to change, the latest from now on, or null when memory is refused. The caller
 * has the lock.
 *
 * Here a changer has written `changing` and then reads `word`, and in take() a wait has
 * written `word` and then reads `changing`. In the one order of all four, the later writer
 * sees what the earlier one wrote: either the change goes to the copy, or the wait waits
 * until it is done, or both. */
static struct array *array_to_change(pypoll_set *set)
{
    if ((__atomic_load_n(&set->word, __ATOMIC_SEQ_CST) & STATE) == FREE) {
        if (set->next != NULL)
            adopt_next(set);
        return set->array;
    }
    /* The wait may be about to look for a copy: it will find none and go on without this
     * change, or find one and then want the lock. */
    if (set->next == NULL)
        __atomic_store_n(&set->next, array_copied(set->array), __ATOMIC_RELAXED);
    return set->next;
}

/* Gives the latest array another capacity. 0, or -ENOMEM with the array as it was. The
 * caller has the lock and has asked for the array to change. */
static int resize(pypoll_set *set, int capacity)
{
    struct array *resized = array_resized(latest(set), capacity);

    if (resized == NULL)
        return -ENOMEM;
    if (set->next != NULL)
        __atomic_store_n(&set->next, resized, __ATOMIC_RELAXED);
    else
        set->array = resized;
    return 0;
}

/* Squeezes the holes out of the latest array. The caller has the lock and has asked for
 * the array to change. */
static void squeeze(pypoll_set *set)
{
    array_squeeze(latest(set));
    index_all(set);
}

/* Whether the array has so many holes that a wait squeezes them out first: a hole costs a
 * wait about 2 ns and squeezing 3 ns an entry, so one change per wait pays both at an
 * eighth. The caller has the lock, or its wait has the array. */
static inline int has_many_holes(const struct array *array)
{
    return array->count - array->live > array->live / 8 + LEAST_CAPACITY;
}

/* Makes room in the array for one more descriptor: where a quarter of it is holes, out of
 * those. 0 or -ENOMEM. The caller has the lock and has asked for the array to change. */
static int make_room(pypoll_set *set)
{
    const struct array *array = latest(set);

    if (array->live < array->count - array->count / 4) {
        squeeze(set);
        return 0;
    }
    if (array->capacity > INT_MAX / 3 * 2)
        return -ENOMEM;
    return resize(set, array->capacity + array->capacity / 2);
}

/* Takes memory back after a removal: holes at the end, and room of which less than half is
 * used. The caller has the lock and has asked for the array to change. */
static void tidy(pypoll_set *set)
{
    struct array *array = latest(set);
    int bits = set->place_bits;

    while (array->count > 0 && array->entries[array->count - 1].fd == HOLE)
        array->count--;
    if (array->capacity / 2 <= array->live + LEAST_CAPACITY)
        return;
    array_squeeze(array);
    while (bits > LEAST_PLACE_BITS && (int64_t)array->live * 3 <= INT64_C(1) << (bits - 1))
        bits--;
    /* The set is whole at its old size too, so a refusal changes nothing. */
    (void)resize(set, array->live + array->live / 4 + LEAST_CAPACITY);
    if (bits == set->place_bits || index_resize(set, bits) < 0)
        index_all(set);
}

/* Adds fd, which has this empty place, at the end. 0 or -ENOMEM. The caller has the lock
 * and has asked for the array to change. */
static int add(pypoll_set *set, unsigned place, int fd, int mask)
{
    struct array *array = latest(set);
    /* Two thirds full at the most, which keeps the runs short. */
    int crowded = ((int64_t)array->live + 1) * 3 > INT64_C(2) << set->place_bits;

    if (array->count == array->capacity || crowded) {
        if (array->count == array->capacity && make_room(set) < 0)
            return -ENOMEM;
        if (crowded && index_resize(set, set->place_bits + 1) < 0)
            return -ENOMEM;
        array = latest(set);
        place = place_of(set, fd);
    }
    set->places[place] = array->count;
    array->entries[array->count].fd = fd;
    array->entries[array->count].events = (short)mask;
    array->entries[array->count].revents = 0;
    array->count++;
    array->live++;
    return 0;
}

/* True of what a struct pollfd can hold. Any thread. */
static inline int in_range(int fd, int mask)
{
    return fd >= 0 && mask >= 0 && mask <= USHRT_MAX;
}

/* Gives fd the mask, adding it if it is absent and that is wanted. 0, -EINVAL, -ENOENT or
 * -ENOMEM. Any thread; takes the lock. */
static inline int put(pypoll_set *set, int fd, int mask, int wanted)
{
    struct array *array;
    unsigned place;
    int error = 0;

    if (!in_range(fd, mask))
        return -EINVAL;
    lock(set);
    place = place_of(set, fd);
    if (set->places[place] == HOLE && !wanted)
        error = -ENOENT;
    else if ((array = array_to_change(set)) == NULL)
        error = -ENOMEM;
    else if (set->places[place] != HOLE)
        array->entries[set->places[place]].events = (short)mask;
    else
        error = add(set, place, fd, mask);
    unlock(set);
    return error;
}

/* Any thread, also while another waits; takes the lock for the change alone. */
int pypoll_register(intptr_t set, int fd, int mask)
{
    return put((pypoll_set *)set, fd, mask, 1);
}

/* Any thread, also while another waits; takes the lock for the change alone. */
int pypoll_modify(intptr_t set, int fd, int mask)
{
    return put((pypoll_set *)set, fd, mask, 0);
}

/* Any thread, also while another waits; takes the lock for the change alone. */
int pypoll_unregister(intptr_t address, int fd)
{
    pypoll_set *set = (pypoll_set *)address;
    struct array *array;
    unsigned place;
    int error = 0;

    if (!in_range(fd, 0))
        return -EINVAL;
    lock(set);
    place = place_of(set, fd);
    if (set->places[place] == HOLE)
        error = -ENOENT;
    else if ((array = array_to_change(set)) == NULL)
        error = -ENOMEM;
    else {
        int i = set->places[place];

        index_remove(set, place);
        array->entries[i].fd = HOLE;
        array->entries[i].events = 0;
        array->live--;
        tidy(set);
    }
    unlock(set);
    return error;
}

/* Any thread, also while another waits; takes the lock and writes nothing. */
int pypoll_mask(pypoll_set *set, int fd)
{
    int i, mask = -ENOENT;

    lock(set);
    i = set->places[place_of(set, fd)];
    if (i != HOLE)
        mask = (unsigned short)latest(set)->entries[i].events;
    unlock(set);
    return mask;
}

/* Any thread, also while another waits; takes the lock and writes nothing. */
int pypoll_len(pypoll_set *set)
{
    int live;

    lock(set);
    live = latest(set)->live;
    unlock(set);
    return live;
}

/* Any thread, also while another waits; takes the lock and writes only to fds. */
int pypoll_list(pypoll_set *set, int *fds, int room)
{
    const struct array *array;
    int i, live;

    lock(set);
    array = latest(set);
    live = array->live;
    if (live <= room)
        for (i = 0; i < array->count; i++)
            if (array->entries[i].fd != HOLE)
                *fds++ = array->entries[i].fd;
    unlock(set);
    return live;
}

/* ---- Life, death and fork ---------------------------------------------- */

static pthread_mutex_t all_sets = PTHREAD_MUTEX_INITIALIZER;
static pypoll_set *first_set;

/* Runs in the thread that forks, before it does: nothing may be half changed in the
 * child's copy of the memory. No other function takes a second lock. */
static void before_fork(void)
{
    pypoll_set *set;

    pthread_mutex_lock(&all_sets);
    for (set = first_set; set != NULL; set = set->after)
        lock(set);
}

/* Runs after the fork in the thread that forked. */
static void after_fork_in_parent(void)
{
    pypoll_set *set;

    for (set = first_set; set != NULL; set = set->after)
        unlock(set);
    pthread_mutex_unlock(&all_sets);
}

/* Runs after the fork in the child's only thread. Waits of other threads do not exist
 * here; a hold of this one does, if a signal handler that interrupted it forked. */
static void after_fork_in_child(void)
{
    pypoll_set *set;

    for (set = first_set; set != NULL; set = set->after)
        if ((set->word & STATE) != HELD || set->holder != this_thread())
            set->word &= ~(unsigned)STATE;
    after_fork_in_parent();
}

/* Called when the module is imported, before there is a set; what is imported twice is
 * told once. pthread_once would do it in pypoll_new, but glibc 2.34 moved it, and a
 * wheel that is built there would install nowhere else. */
void pypoll_watch_forks(void)
{
    static int watching;

    if (!__atomic_exchange_n(&watching, 1, __ATOMIC_ACQ_REL))
        (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* Any thread; takes all_sets. */
pypoll_set *pypoll_new(void)
{
    pypoll_set *set = calloc(1, sizeof *set);

    if (set == NULL)
        return NULL;
    set->array = array_resized(NULL, LEAST_CAPACITY);
    if (set->array != NULL) {
        set->array->count = set->array->live = 0;
        if (index_resize(set, LEAST_PLACE_BITS) < 0) {
            free(set->array);
            set->array = NULL;
        }
    }
    if (set->array == NULL) {
        free(set);
        return NULL;
    }
    pthread_mutex_lock(&all_sets);
    set->after = first_set;
    set->link = &first_set;
    if (first_set != NULL)
        first_set->link = &set->after;
    first_set = set;
    pthread_mutex_unlock(&all_sets);
    return set;
}

/* The caller has the last reference; takes all_sets. */
void pypoll_free(pypoll_set *set)
{
    pthread_mutex_lock(&all_sets);
    *set->link = set->after;
    if (set->after != NULL)
        set->after->link = set->link;
    pthread_mutex_unlock(&all_sets);
    free(set->places);
    free(set->next);
    free(set->array);
    free(set);
}

/* ---- The system call --------------------------------------------------- */

/* Any thread; reads the clock alone. */
int64_t pypoll_clock(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NANOSECONDS_PER_SECOND + now.tv_nsec;
}

/* The time on the clock after so many nanoseconds, which is the last one if there are
 * too many. Negative is no limit. */
static inline int64_t deadline_after(int64_t nanoseconds)
{
    int64_t now;

    if (nanoseconds < 0)
        return NO_LIMIT;
    if (nanoseconds == 0)
        return NO_WAIT;
    now = pypoll_clock();
    return nanoseconds > INT64_MAX - now ? INT64_MAX : now + nanoseconds;
}

/* The nanoseconds until the clock reads deadline, 0 if it has passed; negative is no
 * limit. */
static inline int64_t time_left(int64_t deadline)
{
    int64_t now;

    if (deadline <= 0)
        return deadline;
    now = pypoll_clock();
    return now < deadline ? deadline - now : 0;
}

/* One system call, for so many nanoseconds at the most, rounded up; negative is no
 * limit. The caller owns the entries, and comes again if that was not all of its time:
 * a system call takes no more than a time_t of 32 bits, or an int, can have. What poll
 * returns. */
static inline int poll_once(struct pollfd *entries, nfds_t count, int64_t nanoseconds, const sigset_t *signals)
{
    int64_t milliseconds = nanoseconds / NANOSECONDS_PER_MILLISECOND;
    int64_t rest = nanoseconds % NANOSECONDS_PER_MILLISECOND;

#if HAS_PPOLL
    /* poll takes its time by value, and is 60 of 320 ns faster. */
    if (signals != NULL || rest > 0) {
        struct timespec time;
        int64_t seconds = nanoseconds / NANOSECONDS_PER_SECOND;

        time.tv_sec = (time_t)(seconds < INT32_MAX ? seconds : INT32_MAX);
        time.tv_nsec = (long)(nanoseconds % NANOSECONDS_PER_SECOND);
        return ppoll(entries, count, nanoseconds < 0 ? NULL : &time, signals);
    }
#else
    (void)signals;
#endif
    milliseconds += rest > 0;
    if (nanoseconds < 0)
        milliseconds = -1;
    return poll(entries, count, milliseconds < INT_MAX ? (int)milliseconds : INT_MAX);
}

/* System calls until there is an answer or the clock reads deadline, which is so many
 * nanoseconds from now. The number of ready entries, or -errno. The caller owns the
 * entries. */
static inline int poll_until(struct pollfd *entries, int count, int64_t deadline, int64_t nanoseconds,
                             const sigset_t *signals)
{
    int again = 1;

    for (;;) {
        int ready = poll_once(entries, (nfds_t)count, nanoseconds, signals);

        if (ready > 0)
            return ready;
        if (ready == 0) {
            /* A slice of the time may be over, and not all of it. */
            if (nanoseconds <= 0 || (nanoseconds = time_left(deadline)) == 0)
                return 0;
            continue;
        }
        /* EAGAIN says that the kernel could not look: look once more, even if time
         * has run out, and from then on treat it as a signal, so that a handler
         * can end what does not end by itself. */
        if (errno != EAGAIN)
            return -errno;
        if (again-- == 0)
            return -EINTR;
        nanoseconds = time_left(deadline);
    }
}

/* Any thread; touches no set. */
static inline int one(int fd, int mask, int64_t deadline)
{
    struct pollfd entry;
    int ready;

    entry.fd = fd;
    entry.events = (short)mask;
    entry.revents = 0;
    ready = poll_until(&entry, 1, deadline, time_left(deadline), NULL);
    return ready > 0 ? (unsigned short)entry.revents : ready;
}

/* Any thread; touches no set. */
int pypoll_one(int fd, int mask, int64_t deadline)
{
    return one(fd, mask, deadline);
}

/* Any thread; touches no set. */
int pypoll_check_one(int64_t fd_and_mask)
{
    return one((int)(fd_and_mask >> 16), (int)(fd_and_mask & USHRT_MAX), NO_WAIT);
}

/* ---- Waiting in the set ------------------------------------------------ */

/* Ends the wait of this thread, leaving the set free, or held. */
static inline void set_state(pypoll_set *set, unsigned state)
{
    unsigned word = __atomic_load_n(&set->word, __ATOMIC_RELAXED);

    __atomic_store_n(&set->word, (word & ~(unsigned)STATE) | state, __ATOMIC_RELEASE);
}

/* Makes the array of a wait that begins the latest one, without too many holes. The caller's
 * wait has the set; takes the lock. */
static void settle(pypoll_set *set)
{
    lock(set);
    if (set->next != NULL)
        adopt_next(set);
    if (has_many_holes(set->array))
        squeeze(set);
    unlock(set);
}

/* Takes the set for a wait of this thread: 0, or -EBUSY. From here on the array is its
 * own, and other threads change only the copy. */
static inline int take(pypoll_set *set)
{
    unsigned word = __atomic_load_n(&set->word, __ATOMIC_RELAXED);
    int tries;

    do
        if ((word & STATE) != FREE)
            return -EBUSY;
    while (!__atomic_compare_exchange_n(&set->word, &word, (word + ONE_WAIT) | WAITING, 0, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED));
    /* See array_to_change(). */
    for (tries = 0; __atomic_load_n(&set->changing, __ATOMIC_SEQ_CST); tries++)
        pause_after(tries);
    __atomic_store_n(&set->holder, this_thread(), __ATOMIC_RELAXED);
    if (__atomic_load_n(&set->next, __ATOMIC_RELAXED) != NULL || has_many_holes(set->array))
        settle(set);
    return 0;
}

/* Squeezes the holes out of the array in use. 1 if there were any. The caller's wait has
 * the set; takes the lock. */
static int squeeze_in_use(pypoll_set *set)
{
    int holes;

    lock(set);
    holes = set->array->count - set->array->live;
    array_squeeze(set->array);
    if (set->next == NULL)
        index_all(set);
    unlock(set);
    return holes > 0;
}

/* Copies ready entries to the window until it is full or all are found. How many were
 * copied. The caller's wait has the set. */
static int fill_window(pypoll_set *set)
{
    const struct pollfd *entries = set->array->entries;
    int i = set->seen, count = set->array->count, filled = 0;

    for (; i < count && filled < set->ready && filled < PYPOLL_WINDOW; i++)
        if (entries[i].revents != 0) {
            set->window[filled].fd = entries[i].fd;
            set->window[filled].event = (unsigned short)entries[i].revents;
            filled++;
        }
    set->seen = i;
    set->ready -= filled;
    return filled;
}

/* The whole of a wait, of so many nanoseconds: system call, and what it found. The
 * caller's wait has the set, and its deadline and signals are there. */
static inline int64_t wait_and_gather(pypoll_set *set, int64_t nanoseconds)
{
    struct array *array = set->array;
    int ready;

    do
        ready = poll_until(array->entries, array->count, set->deadline, nanoseconds,
                           set->masked ? &set->signals : NULL);
    /* More entries than RLIMIT_NOFILE: holes are ours and no reason to refuse. */
    while (ready == -EINVAL && squeeze_in_use(set));

    if (ready == -EINTR) {
        set_state(set, HELD);
        return ready;
    }
    if (ready > 1) {
        int64_t many;

        set->seen = 0;
        set->ready = ready;
        many = PYPOLL_MANY - fill_window(set);
        set_state(set, HELD);
        return many;
    }
    if (ready == 1) {
        const struct pollfd *entry = array->entries;
        const struct pollfd *last = entry + array->count - 1;
        int64_t one;

        while (entry->revents == 0 && entry < last)
            entry++;
        one = (int64_t)entry->fd << 16 | (unsigned short)entry->revents;
        set_state(set, FREE);
        return one;
    }
    set_state(set, FREE);
    return ready;
}

/* A wait from its beginning, in the set at the address. Any thread. */
static inline int64_t begin_wait(intptr_t address, int64_t nanoseconds)
{
    pypoll_set *set = (pypoll_set *)address;
    int64_t deadline = deadline_after(nanoseconds);

    if (take(set) < 0)
        return -EBUSY;
    set->deadline = deadline;
    set->masked = 0;
    return wait_and_gather(set, nanoseconds);
}

/* Any thread; others may change the set meanwhile, but not wait in it. */
int64_t pypoll_check(intptr_t set)
{
    return begin_wait(set, NO_WAIT);
}

/* Any thread; others may change the set meanwhile, but not wait in it. */
int64_t pypoll_wait(intptr_t set)
{
    return begin_wait(set, NO_LIMIT);
}

/* Any thread; others may change the set meanwhile, but not wait in it. */
int64_t pypoll_wait_for(intptr_t set, int64_t nanoseconds)
{
    return begin_wait(set, nanoseconds);
}

/* Any thread; others may change the set meanwhile, but not wait in it. The mask is the
 * waiting thread's alone. */
int64_t pypoll_wait_masked(pypoll_set *set, int64_t nanoseconds, const unsigned char *signals, int count)
{
    int64_t deadline = deadline_after(nanoseconds);
    sigset_t mask;
    int i;

    if (!HAS_PPOLL)
        return -ENOSYS;
    sigemptyset(&mask);
    for (i = 0; i < count; i++)
        if (sigaddset(&mask, signals[i]) < 0)
            return -EINVAL;
    if (take(set) < 0)
        return -EBUSY;
    set->deadline = deadline;
    set->masked = 1;
    set->signals = mask;
    return wait_and_gather(set, nanoseconds);
}

/* True if this thread holds the set. */
static int holds(pypoll_set *set)
{
    return (__atomic_load_n(&set->word, __ATOMIC_ACQUIRE) & STATE) == HELD
           && __atomic_load_n(&set->holder, __ATOMIC_RELAXED) == this_thread();
}

/* The thread that got -EINTR; for others the set is busy. */
int64_t pypoll_resume(pypoll_set *set)
{
    if (!holds(set))
        return -EBUSY;
    if (set->deadline != NO_LIMIT && pypoll_clock() >= set->deadline) {
        set_state(set, FREE);
        return 0;
    }
    set_state(set, WAITING);
    return wait_and_gather(set, time_left(set->deadline));
}

/* The thread that got PYPOLL_MANY - n; for others there is nothing. */
int pypoll_gather(intptr_t address)
{
    pypoll_set *set = (pypoll_set *)address;
    int filled;

    if (!holds(set))
        return 0;
    filled = fill_window(set);
    if (filled == 0)
        set_state(set, FREE);
    return filled;
}

/* Any thread; the pointer is good for as long as the set. */
struct pypoll_ready *pypoll_window(pypoll_set *set)
{
    return set->window;
}

/* Any thread, also while another waits. */
int pypoll_hold(pypoll_set *set)
{
    unsigned word = __atomic_load_n(&set->word, __ATOMIC_ACQUIRE);

    /* One bit on top, so that the number is never 0. */
    return (word & STATE) == HELD ? (int)(word >> 2 | 1u << 30) : 0;
}

/* Any thread, also while another waits. */
uint64_t pypoll_holder(pypoll_set *set)
{
    return __atomic_load_n(&set->holder, __ATOMIC_RELAXED);
}

/* Any thread that knows the hold to be nobody's any more. */
void pypoll_release(pypoll_set *set, int hold)
{
    unsigned word = ((unsigned)hold & ~(1u << 30)) << 2 | HELD;

    (void)__atomic_compare_exchange_n(&set->word, &word, word & ~(unsigned)STATE, 0, __ATOMIC_RELEASE,
                                      __ATOMIC_RELAXED);
}
