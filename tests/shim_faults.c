/* Tests of the shim for what Python cannot cause at will: failing allocations, unusual results of
 * the system call, and another thread or a fork between any two machine instructions.
 *
 *     cc -pthread -I pypoll tests/shim_faults.c -o shim_faults && ./shim_faults
 *
 * This file includes the shim, so that it can replace the C library functions that the shim calls. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(truth)                                                               \
    do {                                                                           \
        if (!(truth)) {                                                            \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #truth);  \
            abort();                                                               \
        }                                                                          \
    } while (0)

/* ---- What the shim calls ----------------------------------------------- */

static int refuse_at; /* 1: the next allocation fails, 2: the one after it, ...; 0: none fails */

static void *refusable_malloc(size_t size)
{
    return refuse_at > 0 && --refuse_at == 0 ? NULL : malloc(size);
}

/* What the next system calls return: an error, 0 for a timeout, or that one entry is ready. */
enum { ASK_KERNEL = -1, ONE_READY = -2 };
static struct answers {
    int list[6];
} answers = {{ASK_KERNEL}};
static const int *next_answer = answers.list;

#define KERNEL_ANSWERS(...) \
    (answers = (struct answers){{__VA_ARGS__, ASK_KERNEL}}, next_answer = answers.list)

static int answered(void)
{
    int answer = *next_answer++;

    errno = answer;
    return answer == ONE_READY ? 1 : answer == 0 ? 0 : -1;
}

/* The other thread of a test. In the tests that stop the first thread at an instruction, it then
 * runs until it has finished, blocks on a lock, or waits in the system call to be woken. */
static pthread_t other;
static volatile int takes_turns, other_blocked, stays_in_poll;
static sem_t other_stopped, wake;
static const void *volatile in_kernel; /* the array of its system call */

static int answered_poll(struct pollfd *entries, nfds_t count, int timeout)
{
    if (stays_in_poll && pthread_equal(pthread_self(), other)) {
        in_kernel = entries;
        sem_post(&other_stopped);
        CHECK(sem_wait(&wake) == 0);
        in_kernel = NULL;
    }
    return *next_answer == ASK_KERNEL ? poll(entries, count, timeout) : answered();
}

#if !defined(__APPLE__) && !defined(PYPOLL_POLL_ONLY)
static int answered_ppoll(struct pollfd *entries, nfds_t count, const struct timespec *time, const sigset_t *signals)
{
    return *next_answer == ASK_KERNEL ? ppoll(entries, count, time, signals) : answered();
}
#endif

static void checked_free(void *memory)
{
    CHECK(memory == NULL || memory != in_kernel);
    free(memory);
}

static int announced_lock(pthread_mutex_t *mutex)
{
    if (pthread_mutex_trylock(mutex) == 0)
        return 0;
    if (takes_turns && pthread_equal(pthread_self(), other)) {
        other_blocked = 1;
        sem_post(&other_stopped);
    }
    return pthread_mutex_lock(mutex);
}

static int announced_unlock(pthread_mutex_t *mutex)
{
    int error = pthread_mutex_unlock(mutex);

    if (other_blocked && !pthread_equal(pthread_self(), other)) {
        CHECK(sem_wait(&other_stopped) == 0); /* the other thread finishes first */
        other_blocked = 0;
    }
    return error;
}

#define malloc refusable_malloc
#define free checked_free
#define poll answered_poll
#define ppoll answered_ppoll
#define pthread_mutex_lock announced_lock
#define pthread_mutex_unlock announced_unlock
#define PYPOLL_VERSION "0"
#include "shim.c"

/* ---- Sets -------------------------------------------------------------- */

/* Descriptors from CLOSED on are not open, so they are always ready, with POLLNVAL. */
enum { CLOSED = 1000000, MOST = 320, ADDED = CLOSED + MOST, ROOM = MOST + 1 };

/* A set that was polled when it had `polled` descriptors, grew to `most`, and now has `count`. A
 * set that has outgrown its own storage has room for 16, then for twice as many, and so on. */
struct history {
    int polled, most, count;
};

static const struct history small = {8, 8, 8};
static const struct history full = {16, 16, 16};   /* adding a descriptor moves the entries */
static const struct history sparse = {33, 33, 16}; /* removing one moves them */
static const struct history moved = {9, 17, 9};    /* they were moved since the last wait */

struct content {
    int count, fds[ROOM], masks[ROOM];
};

static struct content content_of(pypoll_set *set)
{
    struct content content;
    int i;

    memset(&content, 0, sizeof content);
    content.count = pypoll_list(set, content.fds, ROOM);
    for (i = 0; i < content.count; i++)
        content.masks[i] = pypoll_mask(set, content.fds[i]);
    return content;
}

static int same(struct content one, struct content another)
{
    return memcmp(&one, &another, sizeof one) == 0;
}

/* Registers as Python does. Returns 0 or -ENOMEM. */
static int add_fd(pypoll_set *set, int fd)
{
    int error = pypoll_register(set, fd, POLLIN);

    if (error == -ENOSPC && (error = pypoll_enlarge(set)) == 0)
        error = pypoll_register(set, fd, POLLIN);
    return error;
}

/* Reads the results of a wait as Python does. Returns the number of descriptors, or -errno. */
static int read_results(pypoll_set *set, int64_t answer, int *fds)
{
    int64_t read;
    int i, count;

    if (answer > 0) {
        CHECK((answer & USHRT_MAX) == POLLNVAL);
        fds[0] = (int)(answer >> 16);
        return 1;
    }
    if (answer >= PYPOLL_SEVERAL)
        return (int)answer;
    do {
        struct pypoll_ready *window = pypoll_window(set, answer);

        read = answer;
        count = (int)(read & PYPOLL_SIZE) / (int)sizeof *window;
        CHECK(count <= ROOM);
        for (i = 0; i < count; i++) {
            fds[i] = __atomic_load_n(&window[i].fd, __ATOMIC_RELAXED);
            CHECK(__atomic_load_n(&window[i].event, __ATOMIC_RELAXED) == POLLNVAL);
        }
    } while ((answer = pypoll_latest(set)) != read);
    return count;
}

/* Checks that a wait finds every registered descriptor, in order. */
static void check_ready(pypoll_set *set)
{
    struct content content = content_of(set);
    int fds[ROOM];

    CHECK(read_results(set, pypoll_check(set), fds) == content.count);
    CHECK(memcmp(fds, content.fds, (size_t)content.count * sizeof *fds) == 0);
}

static pypoll_set *new_set(struct history history)
{
    pypoll_set *set = calloc(1, sizeof *set);
    int i;

    CHECK(set != NULL && pypoll_own(set, 0) == set);
    for (i = 0; i < history.most; i++) {
        CHECK(add_fd(set, CLOSED + i) == 0);
        if (i + 1 == history.polled)
            check_ready(set);
    }
    while (i > history.count)
        CHECK(pypoll_unregister(set, CLOSED + --i) == 0);
    return set;
}

static void end_set(pypoll_set *set)
{
    pypoll_disown(set, NULL);
    free(set);
}

/* ---- Calls that the tests interrupt. Each returns 0, or -errno if memory was refused. ---- */

typedef int call(pypoll_set *set);

static int least_ready; /* how many descriptors are in the set all the time */

/* Checks that a wait's results are complete and not mixed with another's. */
static void check_whole(pypoll_set *set, int64_t answer)
{
    char seen[ROOM] = {0};
    int fds[ROOM], i, count = read_results(set, answer, fds);

    CHECK(count >= least_ready || count == -EBUSY);
    for (i = 0; i < count; i++)
        CHECK(fds[i] >= CLOSED && fds[i] < CLOSED + ROOM && seen[fds[i] - CLOSED]++ == 0);
}

static int polls(pypoll_set *set)
{
    int64_t answer = pypoll_check(set);

    if (answer == -ENOBUFS)
        return -ENOBUFS;
    check_whole(set, answer);
    return 0;
}

static int polls_and_stays(pypoll_set *set)
{
    stays_in_poll = 1;
    polls(set);
    stays_in_poll = 0;
    return 0;
}

static int registers(pypoll_set *set)
{
    return add_fd(set, ADDED);
}

static int unregisters(pypoll_set *set)
{
    return pypoll_unregister(set, CLOSED + 1);
}

static int owns_and_disowns(pypoll_set *set)
{
    pypoll_disown(pypoll_own(set, 0), NULL);
    return 0;
}

/* Checks that a child has a whole set in which nobody waits. The child ends with _exit() if another
 * thread may be anywhere. Otherwise it ends with exit(), which saves the coverage. */
static void fork_and_check(pypoll_set *set, void (*end)(int))
{
    int status;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        alarm(20);
        in_kernel = NULL;
        check_ready(set);
        CHECK(registers(set) == 0 && pypoll_mask(set, ADDED) == POLLIN);
        check_ready(set);
        end(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static int forks(pypoll_set *set)
{
    fork_and_check(set, _exit);
    return 0;
}

/* ---- One thread -------------------------------------------------------- */

static void test_arguments_out_of_range(void)
{
    const unsigned char signals[] = {SIGINT, 0};
    pypoll_set *set = new_set(small);
    struct content before;

    CHECK(pypoll_unregister(set, CLOSED) == 0);
    before = content_of(set);
    CHECK(pypoll_register(set, -1, 0) == -EINVAL && pypoll_modify(set, 0, -1) == -EINVAL);
    CHECK(pypoll_register(set, 0, USHRT_MAX + 1) == -EINVAL);
    CHECK(pypoll_unregister(set, -1) == -EINVAL && pypoll_unregister(set, 0) == -ENOENT);
    CHECK(pypoll_mask(set, -1) == -ENOENT); /* not the removed entry, which has this number */
    CHECK(pypoll_wait_masked(set, 0, signals, 2) == (pypoll_has_ppoll() ? -EINVAL : -ENOSYS));
    CHECK(same(content_of(set), before) && pypoll_list(set, NULL, -1) == before.count);
    set->live = INT_MAX / 8; /* more than an answer can count, so the size is never allocated */
    refuse_at = 1;
    CHECK(move(set) == -ENOMEM && refuse_at == 1);
    refuse_at = 0;
    end_set(set);
}

static void test_follow_makes_no_change_after_another_change(void)
{
    pypoll_set *set = new_set(small);
    int changes = pypoll_changes(set);
    struct content before;

    CHECK(pypoll_modify(set, CLOSED, POLLOUT) == 0);
    before = content_of(set);
    CHECK(pypoll_follow(set, changes, CLOSED, POLLIN) == -EAGAIN);
    CHECK(pypoll_follow(set, changes, CLOSED, 0) == -EAGAIN);
    CHECK(same(content_of(set), before));
    CHECK(pypoll_follow(set, pypoll_changes(set), ADDED, POLLIN) == -ENOSPC);
    CHECK(same(content_of(set), before));
    changes = pypoll_follow(set, pypoll_changes(set), CLOSED, POLLIN);
    CHECK(changes == pypoll_changes(set) && pypoll_mask(set, CLOSED) == POLLIN);
    set->changes = changes = INT_MAX;
    CHECK(pypoll_follow(set, changes, CLOSED, 0) == 0 && pypoll_mask(set, CLOSED) == -ENOENT);
    CHECK(pypoll_follow(set, 0, CLOSED, 0) == 1); /* nothing to remove */
    CHECK(pypoll_follow(set, changes, CLOSED, 0) == -EAGAIN);
    end_set(set);
}

/* Refuses each allocation of a call in turn. If that is an error, the set must be unchanged, and
 * the next try must succeed. Otherwise the call must have its usual effect. */
static void test_refused_memory(call *call, struct history history, int allocations, int error)
{
    struct content after;
    int which;

    for (which = 0; which <= allocations + 1; which++) {
        pypoll_set *set = new_set(history);
        struct content before = content_of(set);
        int refused = which >= 1 && which <= allocations;

        refuse_at = which;
        CHECK(call(set) == (refused ? error : 0));
        CHECK(refuse_at == (which > allocations));
        refuse_at = 0;
        if (refused && error != 0)
            CHECK(same(content_of(set), before) && call(set) == 0);
        if (which == 0)
            after = content_of(set);
        CHECK(same(content_of(set), after));
        check_ready(set);
        end_set(set);
    }
}

/* ---- Answers of the kernel --------------------------------------------- */

enum way { CHECKS, CHECKS_ONE, WAITS, WAITS_FOR, WAITS_ONE, WAITS_MASKED };

static int64_t wait_in_way(enum way way, pypoll_set *set, int64_t time)
{
    const int64_t one = (int64_t)CLOSED << 16 | POLLIN;

    switch (way) {
    case CHECKS: return pypoll_check(set);
    case CHECKS_ONE: return pypoll_check_one(one);
    case WAITS: return pypoll_wait(set);
    case WAITS_FOR: return pypoll_wait_for(set, time);
    case WAITS_ONE: return pypoll_wait_one(one, time);
    default: return pypoll_wait_masked(set, time, NULL, 0);
    }
}

static int64_t clock_now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int is_interrupted(int64_t answer)
{
    return answer <= PYPOLL_INTERRUPTED && answer >= PYPOLL_SEVERAL;
}

static void test_unusual_answers_of_the_kernel(enum way way)
{
    const enum way resume = way == CHECKS_ONE ? WAITS_ONE : way < WAITS_FOR ? WAITS_FOR : way;
    const int64_t hour = INT64_C(3600000000000), begun = clock_now();
    const int64_t ready = resume == WAITS_ONE ? POLLNVAL : (int64_t)CLOSED << 16 | POLLNVAL;
    pypoll_set *set = new_set((struct history){0, 2, 2});
    int64_t answer;

    KERNEL_ANSWERS(ONE_READY); /* but no entry says so */
    CHECK(pypoll_check(set) == (int64_t)(CLOSED + 1) << 16);
    CHECK(pypoll_unregister(set, CLOSED + 1) == 0);
    KERNEL_ANSWERS(ENOMEM);
    CHECK(wait_in_way(way, set, hour) == -ENOMEM);
    KERNEL_ANSWERS(EAGAIN, EINVAL);
    CHECK(wait_in_way(way, set, hour) == -EINVAL);
    KERNEL_ANSWERS(EAGAIN); /* one more call, even though time has run out */
    CHECK(wait_in_way(way, set, 1) == ready);
    KERNEL_ANSWERS(EAGAIN, EAGAIN);
    CHECK(is_interrupted(wait_in_way(way, set, hour)) && *next_answer == ASK_KERNEL);
    KERNEL_ANSWERS(EINTR);
    CHECK(is_interrupted(answer = wait_in_way(way, set, hour)));
    if (way >= WAITS_FOR) /* the answer has the deadline in it */
        CHECK(PYPOLL_INTERRUPTED - answer >= begun + hour && PYPOLL_INTERRUPTED - answer <= clock_now() + hour);
    if (way >= WAITS) { /* time is left, so it continues after a timeout and a signal */
        KERNEL_ANSWERS(0, 0, EINTR, 0, EINVAL);
        CHECK(is_interrupted(wait_in_way(way, set, hour)));
        CHECK(wait_in_way(resume, set, answer) == -EINVAL);
        CHECK(wait_in_way(resume, set, answer) == ready);
    }
    if (way != WAITS) { /* no time is left, so there is no other system call */
        KERNEL_ANSWERS(EINTR, 0, EINVAL);
        answer = wait_in_way(way, set, 1);
        CHECK(wait_in_way(resume, set, answer) == 0 && *next_answer == 0);
        CHECK(wait_in_way(way, set, 1) == 0 && *next_answer == EINVAL);
    }
    KERNEL_ANSWERS(ASK_KERNEL);
    check_ready(set);
    end_set(set);
}

/* ---- Several threads --------------------------------------------------- */

static void *poll_until_woken(void *set)
{
    other = pthread_self();
    polls_and_stays(set);
    return NULL;
}

static void test_changes_and_a_fork_during_another_threads_wait(struct history history)
{
    pypoll_set *set = new_set(history);
    struct pollfd before[ROOM];
    size_t size = (size_t)history.count * sizeof *before;
    pthread_t thread;
    int i;

    least_ready = history.count;
    CHECK(pthread_create(&thread, NULL, poll_until_woken, set) == 0);
    CHECK(sem_wait(&other_stopped) == 0);
    memcpy(before, (const void *)in_kernel, size);
    fork_and_check(set, exit);
    for (i = 1; i < 80; i++)
        CHECK(add_fd(set, CLOSED + i) == 0 && pypoll_check(set) == -EBUSY);
    CHECK(pypoll_enlarge(set) == 0);
    owns_and_disowns(set);
    for (i = 0; i < 80; i++)
        CHECK(pypoll_unregister(set, CLOSED + i) == 0 && pypoll_check(set) == -EBUSY);
    CHECK(memcmp(before, (const void *)in_kernel, size) == 0);
    sem_post(&wake);
    CHECK(pthread_join(thread, NULL) == 0);
    check_ready(set);
    end_set(set);
}

static int threads_end;
static pypoll_set of_one; /* waiting in it takes no lock, so only the mark orders two waits */

static void *change_often(void *set)
{
    static int threads;
    int fd, first = CLOSED + 8 + 40 * (__atomic_fetch_add(&threads, 1, __ATOMIC_RELAXED) % 2);

    while (!__atomic_load_n(&threads_end, __ATOMIC_RELAXED)) {
        for (fd = first; fd < first + 40; fd++)
            CHECK(add_fd(set, fd) == 0 && pypoll_modify(set, fd, POLLOUT) == 0);
        for (fd = first; fd < first + 40; fd++)
            CHECK(pypoll_mask(set, fd) == POLLOUT && pypoll_unregister(set, fd) == 0);
    }
    return NULL;
}

static void *poll_often(void *set)
{
    int64_t answer;

    while (!__atomic_load_n(&threads_end, __ATOMIC_RELAXED)) {
        check_whole(set, pypoll_wait_for(set, 1));
        CHECK(content_of(set).count >= least_ready);
        owns_and_disowns(set);
        answer = pypoll_check(&of_one);
        CHECK(answer == -EBUSY || answer == ((int64_t)CLOSED << 16 | POLLNVAL));
    }
    return NULL;
}

static void test_threads_that_change_and_poll_all_the_time(void)
{
    void *(*const runs[])(void *) = {change_often, change_often, poll_often, poll_often};
    int64_t begun = clock_now();

    CHECK(pypoll_register(&of_one, CLOSED, POLLIN) == 0);
    least_ready = small.count;
    while (clock_now() < begun + INT64_C(1000000000)) { /* each time with a new, small set */
        pypoll_set *set = new_set(small);
        pthread_t threads[4];
        int i;

        __atomic_store_n(&threads_end, 0, __ATOMIC_RELAXED);
        for (i = 0; i < 4; i++)
            CHECK(pthread_create(&threads[i], NULL, runs[i], set) == 0);
        for (i = 0; i < 10; i++)
            forks(set);
        __atomic_store_n(&threads_end, 1, __ATOMIC_RELAXED);
        for (i = 0; i < 4; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(content_of(set).count == small.count);
        check_ready(set);
        end_set(set);
    }
}

/* ---- Another thread at each instruction -------------------------------- */

/* ThreadSanitizer delays signals, so under it no thread stops at an instruction. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_THREAD__)
#define THREADS_STOP
#include <sys/mman.h>
#include <ucontext.h>

enum { TRAP_FLAG = 0x100, BREAKPOINT = 0xcc, MOST_PLACES = 10000 };

extern unsigned char __executable_start, etext;

static int reads(pypoll_set *set)
{
    check_whole(set, pypoll_latest(set));
    return 0;
}

/* Afterwards each place of the results has another descriptor than before. */
static int reorders_and_polls(pypoll_set *set)
{
    CHECK(pypoll_unregister(set, CLOSED) == 0 && add_fd(set, CLOSED) == 0);
    return polls(set);
}

static int modifies_two(pypoll_set *set)
{
    CHECK(pypoll_modify(set, CLOSED + 3, POLLIN | POLLOUT) == 0);
    return pypoll_modify(set, CLOSED + 2, POLLIN | POLLOUT);
}

/* Gives one of these two the mask of the other, unless a change comes in between. */
static int follows(pypoll_set *set)
{
    int changes = pypoll_changes(set);

    changes = pypoll_follow(set, changes, CLOSED + 2, pypoll_mask(set, CLOSED + 3) | POLLIN);
    return changes == -EAGAIN || changes > 0 ? 0 : changes;
}

static sem_t go;
static call *others_turn;
static pypoll_set *shared;
static unsigned char *places[MOST_PLACES], *volatile breakpoint, instruction;
static volatile int place_count, stepping;

/* Runs after each single step, and at the breakpoint. Leaves out places in the C library, where
 * this thread may hold a lock of malloc that the other thread needs. */
static void trapped(int number, siginfo_t *information, void *context)
{
    greg_t *state = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *next = (unsigned char *)(uintptr_t)state[REG_RIP];
    int i = 0;

    (void)number;
    (void)information;
    if (breakpoint != NULL) {
        *breakpoint = instruction;
        state[REG_RIP] = (greg_t)(uintptr_t)breakpoint;
        breakpoint = NULL;
        sem_post(&go);
        CHECK(sem_wait(&other_stopped) == 0);
    } else if (stepping) {
        state[REG_EFL] |= TRAP_FLAG;
        while (i < place_count && places[i] != next)
            i++;
        if (i == place_count && i < MOST_PLACES && next >= &__executable_start && next < &etext)
            places[place_count++] = next;
    } else
        state[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static void *run_other(void *unused)
{
    while (sem_wait(&go) == 0 && others_turn != NULL) {
        CHECK(others_turn(shared) == 0);
        sem_post(&other_stopped);
    }
    return unused;
}

/* Stops one thread at each instruction of its call, one per run, and has the other thread make
 * its call there. The set must end up as if one call came after the other. */
static void stop_at_each(call *first, call *second, struct history history)
{
    struct content expected;
    int i, place;

    others_turn = second;
    least_ready = history.count - 1;
    shared = new_set(history);
    place_count = 0;
    stepping = 1;
    raise(SIGTRAP);
    CHECK(first(shared) == 0);
    stepping = 0;
    CHECK(second(shared) == 0);
    expected = content_of(shared);
    end_set(shared);
    for (place = 0; place < place_count; place++) {
        shared = new_set(history);
        instruction = *places[place];
        breakpoint = places[place];
        *breakpoint = BREAKPOINT;
        CHECK(first(shared) == 0);
        if (breakpoint != NULL) { /* only the begin or the end of the stepping is there */
            *breakpoint = instruction;
            breakpoint = NULL;
            CHECK(second(shared) == 0);
        } else if (in_kernel != NULL) {
            sem_post(&wake);
            CHECK(sem_wait(&other_stopped) == 0);
        }
        CHECK(content_of(shared).count == expected.count);
        for (i = 0; i < expected.count; i++)
            CHECK(pypoll_mask(shared, expected.fds[i]) == expected.masks[i]);
        check_ready(shared);
        end_set(shared);
    }
}

static void test_another_thread_at_each_instruction(void)
{
    uintptr_t begin = (uintptr_t)&__executable_start & ~(uintptr_t)4095;
    struct sigaction action;

    CHECK(mprotect((void *)begin, (uintptr_t)&etext - begin, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = trapped;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
    sem_init(&go, 0, 0);
    CHECK(pthread_create(&other, NULL, run_other, NULL) == 0);
    takes_turns = 1;
    stop_at_each(polls, polls_and_stays, moved);
    stop_at_each(polls, reorders_and_polls, moved);
    stop_at_each(polls, reorders_and_polls, small);
    stop_at_each(polls, registers, small);
    stop_at_each(polls, forks, moved);
    stop_at_each(reorders_and_polls, reads, moved);
    stop_at_each(registers, polls_and_stays, full);
    stop_at_each(registers, reorders_and_polls, full);
    stop_at_each(registers, reorders_and_polls, small);
    stop_at_each(registers, modifies_two, full);
    stop_at_each(registers, forks, full);
    stop_at_each(follows, modifies_two, full);
    stop_at_each(unregisters, polls_and_stays, sparse);
    stop_at_each(unregisters, reorders_and_polls, sparse);
    stop_at_each(owns_and_disowns, owns_and_disowns, full);
    others_turn = NULL;
    sem_post(&go);
    CHECK(pthread_join(other, NULL) == 0);
}
#endif

int main(void)
{
    const struct history never_polled = {0, 9, 9}, grown = {16, 17, 17};
    const struct history shrunk = {64, 65, 33}, large = {9, MOST, MOST};
    enum way way;

    sem_init(&other_stopped, 0, 0);
    sem_init(&wake, 0, 0);
    pypoll_watch_forks();
    pypoll_watch_forks(); /* a second import changes nothing */

    test_arguments_out_of_range();
    test_follow_makes_no_change_after_another_change();
    test_refused_memory(registers, small, 1, -ENOMEM);
    test_refused_memory(registers, full, 1, -ENOMEM);
    test_refused_memory(registers, moved, 0, 0);
    test_refused_memory(unregisters, sparse, 1, 0);
    test_refused_memory(polls, small, 0, 0);
    test_refused_memory(polls, never_polled, 2, -ENOBUFS);
    test_refused_memory(polls, grown, 1, -ENOBUFS);
    test_refused_memory(polls, large, 2, -ENOBUFS);
    test_refused_memory(polls, shrunk, 1, 0); /* the old, larger copy is kept */
    for (way = CHECKS; way <= (pypoll_has_ppoll() ? WAITS_MASKED : WAITS_ONE); way++)
        test_unusual_answers_of_the_kernel(way);
    test_changes_and_a_fork_during_another_threads_wait(small);
    test_changes_and_a_fork_during_another_threads_wait(full);
    test_threads_that_change_and_poll_all_the_time();
#ifdef THREADS_STOP
    test_another_thread_at_each_instruction();
#endif
    puts("passed");
    return 0;
}
