/* Tests of the shim for what no Python program can bring about at will: memory refused at each
 * allocation in turn, odd answers of the kernel, another thread at each single instruction, and
 * a fork while another thread is in the system call.
 *
 *     cc -pthread -I pypoll tests/shim_faults.c -o shim_faults && ./shim_faults
 *
 * The shim is included, so that its calls of the C library come here first. */

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

static void take(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0)
        CHECK(errno == EINTR);
}

/* ---- What the shim calls ----------------------------------------------- */

static int refuse_at; /* which allocation from now on is refused; 0: none */

static void *refusable_malloc(size_t size)
{
    return refuse_at > 0 && --refuse_at == 0 ? NULL : malloc(size);
}

/* What the next system calls return: an error, 0 for nothing ready, or 1 without saying which. */
enum { ASK_KERNEL = -1, ONE_READY = -2 };
static int answers[8] = {ASK_KERNEL};
static const int *next_answer = answers;

#define LIST(...) ((const int[]){__VA_ARGS__})
#define KERNEL_ANSWERS(...)                                                                      \
    (next_answer = memcpy(answers, LIST(__VA_ARGS__, ASK_KERNEL), sizeof LIST(__VA_ARGS__, ASK_KERNEL)))

static int answered(void)
{
    int answer = *next_answer++;

    errno = answer;
    return answer == ONE_READY ? 1 : answer == 0 ? 0 : -1;
}

/* Another thread. While the first one is stopped at an instruction, it runs until it is done, is
 * blocked by a lock, or is in the system call, where it may stay until it is woken. */
static pthread_t other;
static volatile int takes_turns, other_blocked, stays_in_poll;
static sem_t other_stopped, wake;
static const void *volatile in_kernel;

static int answered_poll(struct pollfd *entries, nfds_t count, int timeout)
{
    if (stays_in_poll && pthread_equal(pthread_self(), other)) {
        in_kernel = entries;
        sem_post(&other_stopped);
        take(&wake);
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
        take(&other_stopped); /* it goes on at once */
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

/* The descriptors from CLOSED on are not open, and so ready with POLLNVAL. */
enum { CLOSED = 1000000, MOST = 320, ADDED = CLOSED + MOST, ROOM = MOST + 100 };

/* How a set comes about: with so many descriptors it was polled, then it had the most, now it has
 * `count`. A set that has outgrown its own storage has room for 16, then for twice as many. */
struct history {
    int polled, most, count;
};

static const struct history small = {8, 8, 8};
static const struct history full = {16, 16, 16};   /* entries move if one is added, */
static const struct history sparse = {33, 33, 16}; /* or if one is removed */
static const struct history moved = {9, 17, 9};    /* since the last wait */

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

/* Reads what a wait found as Python does. Returns the number of descriptors, or -errno. */
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
    return i;
}

/* A wait finds all that is registered, in order. */
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

/* ---- One thread -------------------------------------------------------- */

static void test_a_change_counts_from_the_next_wait_on(struct history history)
{
    pypoll_set *set = new_set(history);
    int i, ends[2];

    CHECK(pipe(ends) == 0);
    for (i = 0; i < history.count; i++) {
        CHECK(pypoll_unregister(set, CLOSED + i) == 0);
        check_ready(set);
    }
    CHECK(add_fd(set, ends[0]) == 0 && add_fd(set, ends[1]) == 0 && pypoll_check(set) == 0);
    CHECK(pypoll_modify(set, ends[1], POLLOUT) == 0);
    CHECK(pypoll_check(set) == ((int64_t)ends[1] << 16 | POLLOUT));
    CHECK(pypoll_register(set, ends[1], POLLIN) == 0 && pypoll_check(set) == 0);
    KERNEL_ANSWERS(ONE_READY); /* which it does not name */
    CHECK(pypoll_check(set) == (int64_t)ends[1] << 16);
    close(ends[0]);
    close(ends[1]);
    end_set(set);
}

static void test_what_is_out_of_range_or_absent_is_refused(void)
{
    const int outside[][2] = {{-1, 0}, {0, -1}, {0, USHRT_MAX + 1}, {INT_MIN, INT_MIN}};
    const unsigned char signals[] = {SIGINT, 0};
    pypoll_set *set = new_set(full);
    struct content before = content_of(set);
    int i;

    for (i = 0; i < 4; i++) {
        CHECK(pypoll_register(set, outside[i][0], outside[i][1]) == -EINVAL);
        CHECK(pypoll_modify(set, outside[i][0], outside[i][1]) == -EINVAL);
    }
    CHECK(pypoll_unregister(set, -1) == -EINVAL && pypoll_unregister(set, 0) == -ENOENT);
    CHECK(pypoll_modify(set, 0, 0) == -ENOENT && pypoll_mask(set, 0) == -ENOENT);
    CHECK(pypoll_mask(set, -1) == -ENOENT); /* the number of a hole is not a descriptor's */
    CHECK(pypoll_wait_masked(set, 0, signals, 2) == (pypoll_has_ppoll() ? -EINVAL : -ENOSYS));
    CHECK(same(content_of(set), before) && pypoll_list(set, NULL, -1) == before.count);
    end_set(set);
}

static void test_a_change_that_follows_an_old_look_is_refused(struct history history)
{
    pypoll_set *set = new_set(history);
    unsigned looked = pypoll_changes(set);
    struct content before;

    CHECK(pypoll_modify(set, CLOSED, POLLOUT) == 0);
    before = content_of(set);
    CHECK(pypoll_follow(set, looked, CLOSED, POLLIN) == -EAGAIN);
    CHECK(pypoll_follow(set, looked, CLOSED, 0) == -EAGAIN);
    CHECK(same(content_of(set), before));
    CHECK(pypoll_follow(set, pypoll_changes(set), CLOSED, POLLIN) == 0 && pypoll_mask(set, CLOSED) == POLLIN);
    CHECK(pypoll_follow(set, pypoll_changes(set), CLOSED, 0) == 0 && pypoll_mask(set, CLOSED) == -ENOENT);
    CHECK(pypoll_follow(set, pypoll_changes(set), CLOSED, 0) == -ENOENT);
    CHECK(pypoll_follow(set, pypoll_changes(set), CLOSED, POLLIN) == 0 && pypoll_mask(set, CLOSED) == POLLIN);
    check_ready(set);
    end_set(set);
}

static void test_an_answer_says_where_its_results_are(int count, int64_t least, int64_t below)
{
    pypoll_set *set = new_set((struct history){count, count, count});
    int64_t earlier = pypoll_latest(set), later = pypoll_check(set);

    CHECK(later >= least && later < below && later != earlier);
    CHECK(pypoll_window(set, later) == pypoll_window(set, earlier));
    end_set(set);
}

static int registers(pypoll_set *set)
{
    return add_fd(set, ADDED);
}

static int unregisters(pypoll_set *set)
{
    return pypoll_unregister(set, CLOSED + 1);
}

static int waits(pypoll_set *set)
{
    int64_t answer = pypoll_check(set);

    return answer == -ENOBUFS ? -ENOBUFS : 0;
}

/* Refuses each of so many allocations in turn. If that is an error, the set is unchanged, and the
 * next try succeeds; otherwise nothing tells. */
static void test_memory_refused(int (*does)(pypoll_set *), struct history history, int allocations, int error)
{
    struct content done;
    int which;

    for (which = 0; which <= allocations + 1; which++) {
        pypoll_set *set = new_set(history);
        struct content before = content_of(set);
        int refused = which >= 1 && which <= allocations;

        refuse_at = which;
        CHECK(does(set) == (refused ? error : 0));
        CHECK(refuse_at == (which > allocations));
        refuse_at = 0;
        if (refused && error != 0) {
            CHECK(same(content_of(set), before));
            CHECK(does(set) == 0);
        }
        if (which == 0)
            done = content_of(set);
        CHECK(same(content_of(set), done));
        check_ready(set);
        end_set(set);
    }
}

static void test_what_an_int_cannot_count_is_refused(void)
{
    pypoll_set *set = new_set(small);

    set->live = INT_MAX / 8; /* it only claims to: there is no memory for so many */
    refuse_at = 1;
    CHECK(pypoll_enlarge(set) == -ENOMEM && refuse_at == 1); /* nor was it asked for */
    refuse_at = 0;
    end_set(set);
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

/* Each way of waiting has another one to go on with. */
static void test_odd_answers_of_the_kernel(enum way way, enum way go_on)
{
    const int64_t hour = INT64_C(3600000000000), begun = clock_now();
    const int64_t closed_is_ready = (int64_t)CLOSED << 16 | POLLNVAL;
    pypoll_set *set = new_set((struct history){0, 1, 1});
    const int64_t ready = go_on == WAITS_ONE ? POLLNVAL : closed_is_ready;
    int64_t answer;

    KERNEL_ANSWERS(ENOMEM);
    CHECK(wait_in_way(way, set, hour) == -ENOMEM);
    KERNEL_ANSWERS(EAGAIN, EINVAL);
    CHECK(wait_in_way(way, set, hour) == -EINVAL);
    KERNEL_ANSWERS(EAGAIN); /* looks again also when the time is over by then */
    CHECK(wait_in_way(way, set, 1) == ready);
    KERNEL_ANSWERS(EAGAIN, EAGAIN);
    answer = wait_in_way(way, set, hour);
    CHECK(*next_answer == ASK_KERNEL && answer <= PYPOLL_INTERRUPTED && answer >= PYPOLL_SEVERAL);
    KERNEL_ANSWERS(EINTR);
    answer = wait_in_way(way, set, hour);
    CHECK(answer <= PYPOLL_INTERRUPTED && answer >= PYPOLL_SEVERAL);
    if (way >= WAITS_FOR) /* it has the deadline in it */
        CHECK(PYPOLL_INTERRUPTED - answer >= begun + hour && PYPOLL_INTERRUPTED - answer <= clock_now() + hour);
    if (way >= WAITS) { /* time is left: it goes on after a signal, and when nothing was ready */
        KERNEL_ANSWERS(0, 0, EINTR, 0, EINVAL);
        CHECK(wait_in_way(way, set, hour) <= PYPOLL_INTERRUPTED);
        CHECK(wait_in_way(go_on, set, answer) == -EINVAL);
        CHECK(wait_in_way(go_on, set, answer) == ready);
    }
    if (way != WAITS) { /* no time is left: it does not look again */
        KERNEL_ANSWERS(EINTR, 0, EINVAL);
        answer = wait_in_way(way, set, 1);
        CHECK(wait_in_way(go_on, set, answer) == 0 && *next_answer == 0);
        CHECK(wait_in_way(way, set, 1) == 0 && *next_answer == EINVAL);
    }
    KERNEL_ANSWERS(ASK_KERNEL);
    check_ready(set);
    end_set(set);
}

/* ---- Two threads ------------------------------------------------------- */

static int least_ready; /* descriptors that are always in the set */

/* No results are mixed or short. */
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
    check_whole(set, pypoll_check(set));
    return 0;
}

static int owns_and_disowns(pypoll_set *set)
{
    pypoll_disown(pypoll_own(set, 0), NULL);
    return 0;
}

static int polls_and_stays(pypoll_set *set)
{
    stays_in_poll = 1;
    polls(set);
    stays_in_poll = 0;
    return 0;
}

/* The child has a whole set in which nobody waits. It ends by _exit() if its parent may be in the
 * middle of anything; exit() also writes down what was reached. */
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

static void *poll_until_woken(void *set)
{
    other = pthread_self();
    polls_and_stays(set);
    return NULL;
}

static void test_while_another_thread_is_in_the_system_call(struct history history)
{
    pypoll_set *set = new_set(history);
    struct pollfd before[ROOM];
    size_t size = (size_t)history.count * sizeof *before;
    pthread_t thread;
    int i;

    least_ready = history.count;
    CHECK(pthread_create(&thread, NULL, poll_until_woken, set) == 0);
    take(&other_stopped);
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

/* ---- Several threads at once ------------------------------------------- */

static int threads_end;
static pypoll_set of_one; /* a wait in which takes no lock, so that only the mark orders two of them */

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
    int i, fds[ROOM];

    while (!__atomic_load_n(&threads_end, __ATOMIC_RELAXED)) {
        check_whole(set, pypoll_wait_for(set, 1));
        CHECK(pypoll_list(set, fds, ROOM) >= least_ready);
        owns_and_disowns(set);
        for (i = 0; i < 10; i++) {
            int64_t answer = pypoll_check(&of_one);

            CHECK(answer == -EBUSY || answer == ((int64_t)CLOSED << 16 | POLLNVAL));
        }
    }
    return NULL;
}

static void test_several_threads_at_once(void)
{
    void *(*const runs[])(void *) = {change_often, change_often, poll_often, poll_often};
    int64_t begun = clock_now();

    CHECK(pypoll_register(&of_one, CLOSED, POLLIN) == 0);
    least_ready = small.count;
    while (clock_now() < begun + INT64_C(1000000000)) { /* with a small set each time */
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

/* ThreadSanitizer puts signals off, so under it no thread stops at an instruction. */
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_THREAD__)
#define THREADS_STOP
#include <sys/mman.h>
#include <ucontext.h>

enum { TRAP_FLAG = 0x100, BREAKPOINT = 0xcc, MOST_PLACES = 10000 };

extern unsigned char __executable_start, etext;

typedef int turn(pypoll_set *set);

static int reads(pypoll_set *set)
{
    check_whole(set, pypoll_latest(set));
    return 0;
}

/* So each place in the results becomes that of another descriptor. */
static int reorders_and_polls(pypoll_set *set)
{
    CHECK(pypoll_unregister(set, CLOSED) == 0 && add_fd(set, CLOSED) == 0);
    return polls(set);
}

static int modifies(pypoll_set *set)
{
    return pypoll_modify(set, CLOSED + 2, POLLOUT);
}

/* The mask of one descriptor says what that of the other is to be. */
static int modifies_two(pypoll_set *set)
{
    CHECK(pypoll_modify(set, CLOSED + 3, POLLIN | POLLOUT) == 0);
    return pypoll_modify(set, CLOSED + 2, POLLIN | POLLOUT);
}

static int follows(pypoll_set *set)
{
    unsigned changes = pypoll_changes(set);
    int error = pypoll_follow(set, changes, CLOSED + 2, pypoll_mask(set, CLOSED + 3) | POLLIN);

    return error == -EAGAIN ? 0 : error;
}

static sem_t go;
static turn *others_turn;
static pypoll_set *shared;
static unsigned char *places[MOST_PLACES], *volatile breakpoint, instruction;
static volatile int place_count, stepping;

/* Comes after each single step, and at the breakpoint. Places in the C library are left out: it may
 * hold a lock of malloc there, which the other thread will want. */
static void trapped(int number, siginfo_t *information, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *next = (unsigned char *)(uintptr_t)registers[REG_RIP];
    int i = 0;

    (void)number;
    (void)information;
    if (breakpoint != NULL) {
        *breakpoint = instruction;
        registers[REG_RIP] = (greg_t)(uintptr_t)breakpoint;
        breakpoint = NULL;
        sem_post(&go);
        take(&other_stopped);
    } else if (stepping) {
        registers[REG_EFL] |= TRAP_FLAG;
        while (i < place_count && places[i] != next)
            i++;
        if (i == place_count && i < MOST_PLACES && next >= &__executable_start && next < &etext)
            places[place_count++] = next;
    } else
        registers[REG_EFL] &= ~(greg_t)TRAP_FLAG;
}

static void *run_other(void *unused)
{
    for (take(&go); others_turn != NULL; take(&go)) {
        CHECK(others_turn(shared) == 0);
        sem_post(&other_stopped);
    }
    return unused;
}

/* Stops one thread at an instruction of its turn, at each in a run of its own, for the other to have
 * a turn. What comes of it is what comes of the two turns one after the other. */
static void stop_at_each(turn *first, turn *second, struct history history)
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
        if (breakpoint != NULL) { /* that was where the stepping began or ended */
            *breakpoint = instruction;
            breakpoint = NULL;
            CHECK(second(shared) == 0);
        } else if (in_kernel != NULL) {
            sem_post(&wake);
            take(&other_stopped);
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
    stop_at_each(polls, polls, moved);
    stop_at_each(polls, polls_and_stays, moved);
    stop_at_each(polls, reorders_and_polls, moved);
    stop_at_each(polls, reorders_and_polls, small);
    stop_at_each(polls, registers, small);
    stop_at_each(reorders_and_polls, reads, moved);
    stop_at_each(registers, polls_and_stays, full);
    stop_at_each(registers, reorders_and_polls, full);
    stop_at_each(registers, reorders_and_polls, small);
    stop_at_each(registers, modifies, full);
    stop_at_each(follows, modifies_two, full);
    stop_at_each(unregisters, polls_and_stays, sparse);
    stop_at_each(unregisters, reorders_and_polls, sparse);
    stop_at_each(owns_and_disowns, owns_and_disowns, full);
    stop_at_each(waits, forks, moved);
    stop_at_each(registers, forks, full);
    others_turn = NULL;
    sem_post(&go);
    CHECK(pthread_join(other, NULL) == 0);
}
#endif

int main(void)
{
    static const struct history never_polled = {0, 9, 9}, grown = {16, 17, 17};
    static const struct history shrunk = {64, 65, 33}, large = {9, MOST, MOST};

    sem_init(&other_stopped, 0, 0);
    sem_init(&wake, 0, 0);
    pypoll_watch_forks();
    pypoll_watch_forks(); /* an import anew changes nothing */

    test_a_change_counts_from_the_next_wait_on(small);
    test_a_change_counts_from_the_next_wait_on(full);
    test_what_is_out_of_range_or_absent_is_refused();
    test_a_change_that_follows_an_old_look_is_refused(small);
    test_a_change_that_follows_an_old_look_is_refused(full);
    test_an_answer_says_where_its_results_are(8, PYPOLL_MANY, PYPOLL_FEW);
    test_an_answer_says_where_its_results_are(PYPOLL_MANY_HOLDS, INT64_MIN, PYPOLL_MANY);
    test_an_answer_says_where_its_results_are(MOST, PYPOLL_FEW, PYPOLL_SEVERAL);

    test_memory_refused(registers, small, 1, -ENOMEM);
    test_memory_refused(registers, full, 1, -ENOMEM);
    test_memory_refused(registers, moved, 0, 0);
    test_memory_refused(unregisters, sparse, 1, 0);
    test_memory_refused(waits, small, 0, 0);
    test_memory_refused(waits, never_polled, 2, -ENOBUFS);
    test_memory_refused(waits, grown, 1, -ENOBUFS);
    test_memory_refused(waits, large, 2, -ENOBUFS);
    test_memory_refused(waits, shrunk, 1, 0); /* the copy that is there will do */
    test_what_an_int_cannot_count_is_refused();

    test_odd_answers_of_the_kernel(CHECKS, WAITS_FOR);
    test_odd_answers_of_the_kernel(CHECKS_ONE, WAITS_ONE);
    test_odd_answers_of_the_kernel(WAITS, WAITS_FOR);
    test_odd_answers_of_the_kernel(WAITS_FOR, WAITS_FOR);
    test_odd_answers_of_the_kernel(WAITS_ONE, WAITS_ONE);
    if (pypoll_has_ppoll())
        test_odd_answers_of_the_kernel(WAITS_MASKED, WAITS_MASKED);

    test_while_another_thread_is_in_the_system_call(small);
    test_while_another_thread_is_in_the_system_call(full);
    test_several_threads_at_once();
#ifdef THREADS_STOP
    test_another_thread_at_each_instruction();
#endif
    puts("passed");
    return 0;
}
